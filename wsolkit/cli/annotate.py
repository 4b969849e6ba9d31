"""`wsolkit annotate`: from a folder of images in class folders to boxes in files, and their review."""

from __future__ import annotations

import sys
from typing import Any

import click

from wsolkit.annotate.formats import FORMATS
from wsolkit.cli.options import given, parameter_options
from wsolkit.common.errors import require
from wsolkit.common.files import listing
from wsolkit.common.parameters import names_in

TRAINING = ("backbone", "weights", "size", "stride", "recipe", "epochs", "seed")  # the parameters of the training run
OF_A_RUN = ("checkpoint", "method", "threshold", "max_boxes", "batch_size", "device", *TRAINING)


@click.command()
@click.argument("pictures", required=False)
@click.option("--out", required=True, help="folder for the results, outside of PICTURES")
@click.option("--format", "formats", multiple=True, metavar="F[,F2...]", help=f"of {', '.join(FORMATS)} (default coco)")
@click.option("--method", help="method whose map becomes the box (default affinity_cam)")
@click.option("--checkpoint", help="best.pt of a training run, or its folder (default: train one here)")
@click.option("--threshold", type=click.FloatRange(0, 1), help="share of the map's maximum (default: the method's)")
@click.option("--max-boxes", type=click.IntRange(min=1), help="boxes of an image: the map's largest parts (default 1)")
@click.option("--batch-size", type=click.IntRange(min=1), help="images in one pass (default 16)")
@click.option("--device", help="cpu or cuda (default: cuda where there is one)")
@click.option("--apply", "decisions", multiple=True, metavar="JSON", help="decisions of a review page; repeatable")
@parameter_options(TRAINING)
def annotate(
    pictures: str | None, out: str, formats: tuple[str, ...], decisions: tuple[str, ...], **asked: Any
) -> None:
    """Boxes for PICTURES, a folder that holds a folder of images for each class.

    A network is trained on the classes (or --checkpoint is taken), every image is localised, and OUT gets a folder for
    each format, pages for a review in the browser (OUT/review) and summary.json. An interrupted run goes on when it is
    started again. Exit code 1 when images could not be read; the others are done.

    After a review: wsolkit annotate --apply DECISIONS.json --out OUT writes the files again, without rejected images
    and with the boxes that were drawn.
    """
    from wsolkit.annotate import annotate as work

    chosen = [name for text in formats for name in names_in(text)]
    told = {name: value for name, value in asked.items() if value is not None}
    if decisions:
        more = [f"--{name.replace('_', '-')}" for name in told if name in OF_A_RUN]
        extra = ["PICTURES"] * (pictures is not None) + more
        require(not extra, f"--apply takes the boxes that are in {out}: leave out {', '.join(extra)}")
        result = work.apply(out, decisions, chosen)
    else:
        need = "give PICTURES, the folder that holds a folder of images for each class, or --apply"
        require(pictures is not None, need)
        training = given({name: told.pop(name) for name in TRAINING if name in told})
        result = work.annotate(str(pictures), out, chosen or ("coco",), **told, **training)
    click.echo(result)
    if result.failed:
        problems = listing([*result.failed.values()], "\n")
        click.echo(
            f"error: {len(result.failed)} images could not be read or found, and are left out:\n{problems}", err=True
        )
        sys.exit(1)
