"""`wsolkit localise`: the score maps of a split as files, alone or by the processes that torchrun has started."""

from __future__ import annotations

import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from wsolkit.cli.options import given, names_in, parameter_options
from wsolkit.common.errors import WsolkitError, require

DATA = ("dataset", "root", "metadata", "masks", "classes", "size", "geometry", "val_share", "per_class", "seed")


@click.command()
@click.option("--checkpoint", required=True, help="best.pt of a training, or the folder that holds it")
@click.option("--method", default="cam", show_default=True, metavar="M[,M2...]", help="methods; they share a pass")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--out", required=True, help="a file .npz, or a folder for one <method>.npz each")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="at most N images, balanced over the classes")
@click.option("--smooth", default="", metavar="eigen,aug", help="smooth the score maps")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), default="float32", show_default=True)
@click.option("--channels", type=click.IntRange(min=1), help="score_cam: N channels of largest energy (approximate)")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="images in one pass")
@click.option("--device", default="", help="cpu or cuda (default: cuda where there is one)")
@parameter_options(DATA)  # what is not given is as in the training
def localise(checkpoint, method, split, out, limit, smooth, precision, channels, batch_size, device, **data) -> None:
    """Write the score maps of a split (ids, labels, logits, maps; `wsolkit.ScoreMaps.load` reads them).

    `torchrun --nproc-per-node N -m wsolkit localise ...` shares the images among N processes; the maps are the same. An
    interrupted run goes on where it stopped when it is started again with the same options.
    """
    names, target = names_in(method), Path(out).expanduser().absolute()
    single = target.suffix == ".npz"
    if not names or (single and len(names) > 1):
        raise WsolkitError(f"--method {method} --out {out}: give one method for a file .npz, or a folder for several")
    if target.is_dir() if single else target.is_file():
        wrong = "a file, but it is a folder" if single else "a folder, but it is a file"
        raise WsolkitError(f"--out {out}: expected {wrong}")

    from wsolkit.common.files import alone
    from wsolkit.common.processes import process_group, rank
    from wsolkit.localisation.localise import localise_in_parts
    from wsolkit.methods.registry import resolve
    from wsolkit.runs.parameters import localising_code, weights_state
    from wsolkit.runs.run import _device, load_trained, versions

    entries = {entry.name: entry for entry in map(resolve, names)}
    _device(device)
    options = {"smooth": tuple(names_in(smooth)), "precision": precision} | ({"channels": channels} if channels else {})
    week = 7 * 86400.0  # a slow share is no reason to give up: torchrun ends us all when one process fails
    with process_group(device, timeout=week) as place:
        trained = load_trained(checkpoint, place)
        dataset, state, seed = _dataset(trained, data, split)
        identity: dict[str, Any] = {"weights": weights_state(str(trained.path)), "split": split, "options": options}
        identity |= {"data": [state, repr(dataset.geometry)], "code": list(map(localising_code, entries.values()))}
        identity |= {"versions": versions(), "device": place.type}
        folder, first = target.with_name(target.name + ".parts"), rank() == 0

        def progress(done: int, total: int) -> None:
            if first and sys.stderr.isatty():
                click.echo(f"\r{done} of {total} images of this process", nl=done == total, err=True)

        indices = sorted(dataset.spread(limit, seed).tolist()) if limit else None  # the dataset's order
        busy = f"another localise is writing to {target}; wait for it, or choose another --out"
        with alone(f"{folder}.lock", busy=busy) if first else nullcontext():
            made = localise_in_parts(
                trained.model, dataset, list(entries), folder, identity, indices, batch_size, progress, **options
            )
            for name, maps in (made or {}).items():
                path = target if single else target / f"{entries[name].slug}.npz"
                maps.save(path)
                click.echo(f"written: {path} ({len(maps)} maps of {'x'.join(map(str, maps.maps.shape[1:]))})")
            if first:
                shutil.rmtree(folder, ignore_errors=True)


def _dataset(trained: Any, data: dict[str, Any], split: str) -> tuple:
    """The split that the options name, opened as the training run opened it where they say nothing; the state of its
    files; the seed."""
    from wsolkit.runs.parameters import data_state
    from wsolkit.runs.run import Run

    known = {name: value for name, value in trained.run.get("config", {}).items() if name in DATA}
    asked = given(data)
    told = "dataset" in {**known, **asked}
    require(told, f"no run.json beside {trained.path} tells the data; give --dataset (and --root)")
    if asked.get("dataset", known.get("dataset")) != known.get("dataset"):
        known = {name: value for name, value in known.items() if name in ("size", "geometry")}
    if trained.geometry is not None:
        known |= {"size": trained.geometry.size, "geometry": trained.geometry.kind}
    run = Run.start(**{**known, **asked}, device="cpu")
    dataset = run.dataset(split)
    if (own := [str(name) for name in dataset.classes]) != trained.classes:
        wrong = f"knows the classes {', '.join(trained.classes[:3])}, ..., but {dataset} has {', '.join(own[:3])}, ..."
        raise WsolkitError(f"{trained.path} {wrong}; give the --classes of the training run")
    return dataset, data_state(run.config.root), run.config.seed
