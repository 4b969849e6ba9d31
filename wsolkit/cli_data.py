"""`wsolkit data`: fetch a dataset, or convert annotations of another format to a metadata folder."""

from __future__ import annotations

from collections.abc import Callable

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Fetch a dataset, or convert annotations to a metadata folder for `--dataset metadata`."""


def _fetch(name: str, what: str) -> Callable:
    """A command that downloads one dataset."""

    @data.command(name, help=f"Download {what}, check it and unpack it; can be interrupted and run again.")
    @click.option("--root", required=True, type=click.Path(file_okay=False), help="folder to put the dataset into")
    @click.option("--url", help="fetch the archive from this address instead (it must have the same checksum)")
    def command(root: str, url: str | None) -> None:
        from .data.download import fetch_dataset

        click.echo(f"ready: {fetch_dataset(name, root, url=url)}")

    return command


cub = _fetch("cub", "CUB-200-2011 (1.15 GB)")
tiny_imagenet = _fetch("tiny_imagenet", "Tiny-ImageNet-200 (248 MB)")


@data.command()
@click.argument("kind", type=click.Choice(["voc", "coco", "csv"]))
@click.argument("source", type=click.Path())
@click.option("--out", required=True, type=click.Path(file_okay=False), help="metadata folder to write the split into")
@click.option("--split", type=click.Choice(["train", "val", "test"]), default="test", show_default=True)
@click.option("--images", type=click.Path(file_okay=False), help="folder of the images; a CSV needs it for their sizes")
@click.option(
    "--several",
    type=click.Choice(["largest", "skip"]),
    default="largest",
    show_default=True,
    help="images with several classes: take the class of the largest box, or leave them out",
)
@click.option("--origin", type=click.IntRange(0, 1), help="number of the first pixel in voc files (default 1)")
@click.option("--force", is_flag=True, help="replace the split where it exists")
def convert(kind: str, source: str, **options) -> None:
    """Convert SOURCE, a folder of Pascal VOC XML, a COCO json or a CSV with lines path,label,x0,y0,x1,y1.

    The images stay where they are: give their folder as --root to `sweep` and `train`, and OUT as --metadata.
    """
    from .data.convert import convert

    click.echo(convert(kind, source, **options))
