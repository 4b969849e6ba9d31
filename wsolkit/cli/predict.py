"""`wsolkit localise` and `predict`: what a trained network says of a split (alone, or by the processes that torchrun
started) as files of score maps, and of anyone's images as overlays with boxes."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from PIL import Image

from wsolkit.cli.options import given, parameter_options, reports
from wsolkit.common.errors import WsolkitError, is_digits, require
from wsolkit.common.files import alone, atomic_write_bytes, check_out, given_path, keep_foreign, listing, write_json
from wsolkit.common.parameters import names_in
from wsolkit.common.progress import progress
from wsolkit.data.images import RESULT_MARK, find_images, is_result, read_batches

if TYPE_CHECKING:  # they import torch
    from wsolkit.data.base import Geometry
    from wsolkit.localisation.predict import Prediction

DATA = ("dataset", "root", "metadata", "masks", "classes", "size", "geometry", "val_share", "per_class", "seed")
BATCH_PIXELS = 64 * 2**20  # decoded pixels held at a time (three bytes each); one image may be larger


@click.command()
@click.option("--checkpoint", required=True, help="best.pt of a training run, or the folder that holds it")
@click.option("--method", default="cam", show_default=True, metavar="M[,M2...]", help="methods; they share a pass")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--out", required=True, help="a file .npz, or a folder for one <method>.npz each")
@click.option("--limit", type=click.IntRange(min=0), default=0, help="at most N images, balanced over the classes")
@click.option("--smooth", default="", metavar="eigen,aug", help="smooth the score maps")
@click.option("--precision", type=click.Choice(["float32", "bf16"]), default="float32", show_default=True)
@click.option("--channels", type=click.IntRange(min=1), help="score_cam: N channels of largest energy (approximate)")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="images in one pass")
@click.option("--device", default="", help="cpu or cuda (default: cuda where there is one)")
@parameter_options(DATA, default="as in the training run")
def localise(checkpoint, method, split, out, limit, smooth, precision, channels, batch_size, device, **data) -> None:
    """Write the score maps of a split (ids, labels, logits, maps or boxes; `wsolkit.ScoreMaps.load` reads them).

    `torchrun --nproc-per-node N -m wsolkit localise ...` shares the images among N processes; the maps are the same. An
    interrupted run goes on where it stopped when it is started again with the same options.
    """
    names, target = names_in(method), given_path(out, "a file .npz, or a folder (--out)").absolute()
    single = target.suffix == ".npz"
    if not names or (single and len(names) > 1):
        raise WsolkitError(f"--method {method} --out {out}: give one method for a file .npz, or a folder for several")
    require(not (single and target.is_dir()), f"--out {out}: expected a file, but it is a folder")
    check_out(target.parent if single else target)

    from wsolkit.boxes.protocols import IVR_SHARE
    from wsolkit.common.processes import device_named, process_group, rank
    from wsolkit.localisation.localise import localise_in_parts
    from wsolkit.methods.registry import CHOSEN, resolve
    from wsolkit.runs.parameters import localising_code, weights_state
    from wsolkit.runs.run import load_trained, versions

    entries = {entry.name: entry for entry in map(resolve, names)}
    keep_foreign({target if single else target / f"{entry.slug}.npz": "ids.npy" for entry in entries.values()})
    device_named(device)
    options = {"smooth": tuple(names_in(smooth)), "precision": precision} | ({"channels": channels} if channels else {})
    week = 7 * 86400.0  # a slow share is no reason to give up: torchrun ends us all when one process fails
    with process_group(device, timeout=week) as place:
        trained = load_trained(checkpoint, place)
        notes, chosen = [*map(trained.remark, entries)], [n for n, entry in entries.items() if entry.ivr() == CHOSEN]
        notes += [f"no boxes choose the share of {name} here, so it is {IVR_SHARE}" for name in chosen]
        for text in filter(None, notes if rank() == 0 else ()):
            click.echo(f"note: {text}", err=True)
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
                kind = "boxes" if maps.boxes is not None else f"maps of {'x'.join(map(str, maps.maps.shape[1:]))}"
                click.echo(f"written: {path} ({len(maps)} {kind})")
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
    require(told, f"no run.json beside {trained.path} names the data; give --dataset (and --root)")
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


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--checkpoint", required=True, help="best.pt of a training run, or the folder that holds it")
@click.option("--method", default="cam", show_default=True, help="such as grad_cam++ or 'grad_cam[aug]' (quoted)")
@click.option("--out", help="folder for the results (default reports/predictions)")
@click.option("--threshold", type=click.FloatRange(0, 1), help="default: chosen on validation data, else 0.2 or 0.35")
@click.option("--percentile", type=click.FloatRange(0, 100), help="default: 90 (PaS) for rethinking_cam, else 100")
@click.option("--smooth", default="", metavar="eigen,aug", help="smooth the score maps")
@click.option("--label", default="predicted", show_default=True, help="class of the map: predicted, a name or a number")
@click.option("--classes", help="text file with one class name per line (default: those of the training run)")
@click.option("--size", type=click.IntRange(8, 4096), help="input side in pixels (default: as the training run)")
@click.option("--geometry", type=click.Choice(["resize", "crop"]), help="of the input (default: as the training run)")
@click.option("--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="images in one pass")
@click.option("--device", default="", help="cpu or cuda (default: cuda where there is one)")
def predict(images: tuple[str, ...], checkpoint: str, method: str, out: str | None, **asked: Any) -> None:
    """Localise the object in images: files, folders (searched recursively) and globs.

    For each image <out>/<name>.png shows the score map of the predicted class and its box, and <out>/<name>.json has
    class, probability and box. The box is in pixels of the upright image (turned as its EXIF says), corners inclusive.
    Earlier results in the folders are passed over, so <out> may be one of them. Exit code 1 when images or folders
    could not be read; the others are done.
    """
    unsearched: list[str] = []
    again: list[str] = []
    files = find_images(images, unsearched, again)
    if again:
        click.echo(f"note: {len(again)} links to images that come once: {listing(again)}", err=True)
    folder = check_out(out or reports("predictions"))
    places = [place for file in files for place in _places(folder / file.name)]
    if foreign := [str(place) for place in places if os.path.lexists(place) and not is_result(place)]:
        raise WsolkitError(f"the results would overwrite {listing(foreign)}; choose another --out")

    from wsolkit.common.processes import device_named
    from wsolkit.data.base import Geometry
    from wsolkit.data.readers import read_lines
    from wsolkit.localisation.predict import predict as predict_images
    from wsolkit.methods.registry import resolve
    from wsolkit.runs.run import default_threshold, load_trained, versions, with_share

    method = resolve(method).name
    trained = load_trained(checkpoint, device_named(asked["device"]))
    if text := trained.remark(method):
        click.echo(f"note: {text}", err=True)
    known, size, batch_size = trained.geometry, asked["size"], asked["batch_size"]
    require(known or size, f"no run.json beside {trained.path} gives the input size; give --size (and --geometry)")
    known = known or Geometry(size)
    view = Geometry(size or known.size, asked["geometry"] or known.kind)
    names, count = trained.classes, trained.model.num_classes
    if path := asked["classes"]:
        names = [line for _, line in read_lines(given_path(path, "a text file (--classes)"))]
        require(
            len(names) == count, f"{path} has {len(names)} names, but the network has {count} classes: one per line"
        )
    smooth, percentile, threshold = tuple(names_in(asked["smooth"])), asked["percentile"], asked["threshold"]
    source = "given"  # of the threshold
    entry = resolve(method)
    entry.refuse(threshold=threshold, percentile=percentile, smooth=smooth)
    if entry.gives == "map":
        percentile = entry.percentile if percentile is None else percentile
        if threshold is None:
            threshold, source = default_threshold(trained, method, percentile, smooth, view)
        method = with_share(trained, method, smooth, view)
    options = {"geometry": view, "classes": names, "label": _label(asked["label"], names), "threshold": threshold}
    options |= {"percentile": percentile, "smooth": smooth, "batch_size": batch_size}
    about = {"method": method, "score_map": {"method": method, "smooth": list(smooth)}, "threshold": threshold}
    about |= {"threshold_source": source, "percentile": percentile, "protocol": "wsolevaluation"}
    about |= {"input": {"size": view.size, "geometry": view.kind}, "checkpoint": str(trained.path)}
    about |= {"network": f"{trained.model.backbone} ({trained.variant})", "versions": versions()}
    if entry.gives == "boxes":
        rule = note = f"{method} gives boxes, no map"
        about |= {"score_map": None, "threshold_source": None, "protocol": None}
    else:
        rule = f"{threshold:g} of the " + ("maximum" if percentile == 100 else f"{percentile:g}th percentile")
        rule, note = f"above {rule}, {source}", f"{method}, box at {rule}"
    failed: list[str] = []
    for batch in read_batches(progress(files, "images"), batch_size, BATCH_PIXELS, failed):
        predictions = predict_images(trained.model, [image for _, image in batch], method, **options)
        for (file, image), prediction in zip(batch, predictions, strict=True):
            content = {"written_by": RESULT_MARK, "image": str(file.path), **_numbers(prediction), **about}
            overlay, numbers = _places(folder / file.name)
            try:
                numbers.unlink(missing_ok=True)  # never beside another overlay
                atomic_write_bytes(overlay, _png(image, prediction, view, note))
                write_json(numbers, content)
            except OSError as error:  # a name that is too long with its new ending, say
                failed.append(f"{file.path}: could not be written ({error})")
    click.echo(f"box: {rule}")
    click.echo(f"written: {len(files) - len(failed)} of {len(files)} images to {folder}")
    for wrong, problems in (("failed", failed), ("folders not searched", unsearched)):
        if problems:
            click.echo(f"error: {len(problems)} {wrong}:\n{listing(problems, chr(10))}", err=True)
    sys.exit(int(bool(failed or unsearched)))


def _places(base: Path) -> tuple[Path, Path]:
    """The overlay and the numbers of an image."""
    return base.with_name(base.name + ".png"), base.with_name(base.name + ".json")


def _label(text: str, names: list[str]) -> int | None:
    """The number of the class that the user named; None for the predicted one."""
    if text == "predicted":
        return None
    if text in names:
        return names.index(text)
    if is_digits(text) and int(text) < len(names):
        return int(text)
    choices = f"a number in 0..{len(names) - 1} or a class such as {names[0]}"
    raise WsolkitError(f"--label {text[:60]}: expected predicted, {choices}")


def _numbers(prediction: Prediction) -> dict[str, Any]:
    """A prediction as its JSON tells it."""
    (width, height), own = prediction.size, {True: "predicted", False: "given"}[prediction.predicted]
    numbers = {"width": width, "height": height, "class": prediction.name, "label": prediction.label}
    numbers |= {"probability": prediction.probability, "class_of_map": own}
    numbers["top5"] = [{"class": name, "label": label, "probability": p} for name, label, p in prediction.top5]
    return numbers | {"box": prediction.box.tolist(), "box_empty": prediction.box_empty}


def _png(image: Image.Image, prediction: Prediction, geometry: Geometry, note: str = "") -> bytes:
    """The image with its score map, if there is one, its box and, below, class and probability.

    image: RGB, as `read_image` gives it. note: a last line in small print. The map covers what the network saw: of a
    centre crop only the centre.
    """
    from wsolkit.figures import Line, captioned_png

    def seen(extent: int) -> slice:
        """The part of a side of `extent` pixels that the network saw, at least one pixel."""
        edges = geometry.offset, geometry.offset + geometry.size
        start, stop = (round(edge * extent / geometry.side) for edge in edges)
        return slice(min(start, extent - 1), max(stop, min(start, extent - 1) + 1))

    best = prediction.top5[0]
    lines = [Line("", prediction.name, f"  {100 * prediction.probability:.1f} %", 12)]
    if not prediction.predicted:
        lines.append(Line("predicted: ", best.name, f"  {100 * best.probability:.1f} %"))
    if prediction.box_empty:
        lines.append(Line("no box: nothing is above the threshold"))
    if note:
        lines.append(Line(note, size=9, colour="#555555"))
    box = None if prediction.box_empty else prediction.box
    return captioned_png(image, lines, prediction.score_map, seen, box, {"Software": RESULT_MARK})
