"""`wsolkit predict`: class, score map and box of anyone's images, from a trained network."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from wsolkit.cli.options import names_in, results_folder
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.data.annotations import read_lines

BATCH_PIXELS = 64 * 2**20  # decoded pixels held at a time (three bytes each); one image may be larger


@click.command()
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--checkpoint", required=True, help="best.pt of a training run, or the folder that holds it")
@click.option("--method", default="cam", show_default=True, help="localisation method, e.g. grad_cam++")
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
def predict(images, checkpoint, method, out, threshold, percentile, smooth, label, classes, size, geometry, batch_size,
            device) -> None:  # fmt: skip
    """Localise the object in images: files, folders (searched recursively) and globs.

    For each image <out>/<name>.png shows the score map of the predicted class and its box, and <out>/<name>.json has
    class, probability and box. The box is in pixels of the upright image (turned as its EXIF says), corners inclusive.
    Earlier results in the folders are passed over, so <out> may be one of them. Exit code 1 when images or folders
    could not be read; the others are done.
    """
    from tqdm import tqdm

    from wsolkit.data.images import find_images, read_batches

    folder = Path(out).expanduser() if out else results_folder("predictions")
    unsearched: list[str] = []
    files = find_images(images, unsearched)
    check_out(folder, [file.name for file in files])

    from wsolkit.cli.predictions import save
    from wsolkit.data.samples import Geometry
    from wsolkit.localisation.predict import predict as predict_images
    from wsolkit.methods.registry import resolve
    from wsolkit.runs.run import _device, default_threshold, load_trained, versions

    trained = load_trained(checkpoint, _device(device))
    if trained.geometry is None and size is None:
        raise WsolkitError(f"no run.json beside {trained.path} tells the input size; give --size (and --geometry)")
    known = trained.geometry or Geometry(size)
    view = Geometry(size or known.size, geometry or known.kind)
    names = _names(classes, trained.model.num_classes) if classes else trained.classes
    shown = _label(label, names)
    smoothings = tuple(names_in(smooth))
    percentile = resolve(method).percentile if percentile is None else percentile
    source = "given"  # of the threshold
    if threshold is None:
        threshold, source = default_threshold(trained, method, percentile, smoothings, view)
    about = {"score_map": {"method": method, "smooth": list(smoothings)}, "threshold": threshold}
    about |= {"threshold_source": source, "percentile": percentile, "protocol": "wsolevaluation"}
    about |= {"input": {"size": view.size, "geometry": view.kind}, "checkpoint": str(trained.path)}
    about |= {"network": f"{trained.model.backbone} ({trained.model.pooling})", "versions": versions()}
    rule = f"{threshold:g} of the " + ("maximum" if percentile == 100 else f"{percentile:g}th percentile")
    failed: list[str] = []
    options = {"geometry": view, "classes": names, "label": shown, "threshold": threshold, "percentile": percentile}
    options |= {"smooth": smoothings, "batch_size": batch_size}
    shown_files = tqdm(files, unit=" images", disable=not sys.stderr.isatty())
    for batch in read_batches(shown_files, batch_size, BATCH_PIXELS, failed):
        predictions = predict_images(trained.model, [image for _, image in batch], method, **options)
        for (file, image), prediction in zip(batch, predictions, strict=True):
            try:
                save(folder / file.name, file.path, image, prediction, view, about, f"{method}, box at {rule}")
            except OSError as error:  # a name that is too long with its new ending, say
                failed.append(f"{file.path}: could not be written ({error})")
    click.echo(f"box: above {rule}, {source}")
    click.echo(f"written: {len(files) - len(failed)} of {len(files)} images to {folder}")
    for wrong, problems in (("failed", failed), ("folders not searched", unsearched)):
        if problems:
            click.echo(f"error: {len(problems)} {wrong}:\n{listing(problems, chr(10))}", err=True)
    if failed or unsearched:
        sys.exit(1)


def check_out(folder: Path, names: Sequence[Path] = ()) -> None:
    """Refuse, before the network runs, a folder that cannot be written and results in the place of someone's files."""
    from wsolkit.data.images import is_result

    there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=there):  # unlike a look at permissions, true for every file system
            pass
    except OSError as error:
        reason = f"nothing can be written to {there}, {error.strerror}"
        raise WsolkitError(f"no results can be written to {folder} ({reason}); choose another --out") from None
    places = [(folder / name).with_name(name.name + suffix) for name in names for suffix in (".png", ".json")]
    if foreign := [str(place) for place in places if os.path.lexists(place) and not is_result(place)]:
        raise WsolkitError(f"the results would overwrite {listing(foreign)}; choose another --out")


def _names(path: str, count: int) -> list[str]:
    names = [line for _, line in read_lines(Path(path).expanduser())]
    if len(names) != count:
        raise WsolkitError(f"{path} has {len(names)} names, but the network has {count} classes; expected one per line")
    return names


def _label(text: str, names: list[str]) -> int | None:
    if text == "predicted":
        return None
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    choices = f"a number in 0..{len(names) - 1} or a class such as {names[0]}"
    raise WsolkitError(f"--label {text}: expected predicted, {choices}")
