"""`wsolkit data`: fetch a dataset, convert annotations to a metadata folder, list or clear decoded images."""

from __future__ import annotations

import click

from wsolkit.data.catalogue import DATASETS, SPLITS

SEVERAL = "images with several classes: take the class of the largest box, or leave them out"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Fetch a dataset, convert annotations for `--dataset metadata`, list or clear decoded images."""


def _fetch(name: str, title: str, size: int) -> None:
    """Add the command that downloads one dataset."""
    told = f"Download {title} ({size / 1e6:,.0f} MB), check it and unpack it; can be interrupted and run again."

    @data.command(name, help=told)
    @click.option("--root", required=True, type=click.Path(file_okay=False), help="folder to put the dataset into")
    @click.option("--url", help="fetch the archive from this address instead (it must have the same checksum)")
    def command(root: str, url: str | None) -> None:
        from wsolkit.data.download import fetch_dataset

        click.echo(f"ready: {fetch_dataset(name, root, url=url)}")


for _name, _entry in DATASETS.items():
    if _entry.archive:
        _fetch(_name, _entry.title, _entry.archive.size)


@data.command()
@click.argument("kind", type=click.Choice(["voc", "coco", "csv"]))
@click.argument("source", type=click.Path())
@click.option("--out", required=True, type=click.Path(file_okay=False), help="metadata folder to write the split into")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--images", type=click.Path(file_okay=False), help="folder of the images; a CSV needs it for their sizes")
@click.option("--several", type=click.Choice(["largest", "skip"]), default="largest", show_default=True, help=SEVERAL)
@click.option("--origin", type=click.IntRange(0, 1), help="number of the first pixel in voc files (default 1)")
@click.option("--force", is_flag=True, help="replace the split where it exists")
def convert(kind: str, source: str, **options) -> None:
    """Convert SOURCE, a folder of Pascal VOC XML, a COCO json or a CSV with lines path,label,x0,y0,x1,y1.

    The images stay where they are: give their folder as --root to `sweep` and `train`, and OUT as --metadata.
    """
    from wsolkit.data.readers import convert

    click.echo(convert(kind, source, **options))


@data.command("cache")
@click.option("--clear", is_flag=True, help="remove the files instead; they are made again when they are needed")
def decoded_pixels(clear: bool) -> None:
    """List the files of decoded images that training runs read.

    They lie in $WSOLKIT_CACHE, or in ~/.cache/wsolkit where that is not set; an empty WSOLKIT_CACHE keeps decoded
    images in memory only.
    """
    from wsolkit.data.decoded import cache_folder, clear_entry, entries

    if (folder := cache_folder()) is None:
        return click.echo("WSOLKIT_CACHE is empty: decoded images are kept in memory only")
    total = 0
    for entry, size, content in entries(folder):
        if clear and not clear_entry(entry):
            click.echo(f"{entry.name}  left alone: a process is making it")
            continue
        content = content or "no usable file (killed, damaged, or of another version)"
        click.echo(f"{entry.name}  {size / 2**20:8.1f} MiB  {content}")
        total += size
    click.echo(f"{folder}: {total / 2**20:.1f} MiB {'removed' if clear else 'in use'}")
