"""`wsolkit init`: a folder to study in."""

from __future__ import annotations

from pathlib import Path

import click

from wsolkit.common.files import atomic_write_bytes
from wsolkit.common.paths import packaged_notebooks

SWEEP = """\
# What `wsolkit sweep --file sweep.yaml` runs. Every parameter of a run is a key here; `wsolkit sweep --help` lists them.
dataset: synthetic  # or cub, tiny_imagenet, metadata (your own images, see `wsolkit data convert --help`)
# root: data/CUB_200_2011  # folder of the images; `wsolkit data cub --root data` downloads them
backbones: [resnet18]  # also vgg16, resnet50, mobilenet_v2, convnext_tiny, vgg16_fc
methods: [cam, rethinking_cam, grad_cam, grad_cam++, score_cam]  # also has, cutmix, adl, acol and those of grad-cam
limits: {score_cam: 32}  # images that a slow method localises; all others take all of them
# weights: imagenet  # none, or a file with weights to start from
# epochs: 50
# seeds: [0, 1, 2]  # the first in reports/, the others in reports/seed-1, reports/seed-2
# jobs: 2  # runs at a time
# out: reports
"""
README = """\
# A study of weakly supervised object localisation

    wsolkit sweep --file sweep.yaml --plan    # what would run, and why
    wsolkit sweep --file sweep.yaml           # train, localise, evaluate; then open reports/index.html
    jupyter lab notebooks                     # start with 00_tour.ipynb

`notebooks/` holds the chapters: change them, the sweep runs these copies. `sweep.yaml` says what a sweep runs. What a run
leaves is in `reports/`: a page for each method, the index, the numbers in results.csv. Notebooks read a relative path from
this folder.
"""


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="study")
def init(folder: Path) -> None:
    """Put the notebooks, a sweep.yaml and a short README into FOLDER (default study).

    A file that is there already stays as it is, so that the command can be run again after an update.
    """
    contents = {"sweep.yaml": SWEEP.encode(), "README.md": README.encode()}
    contents |= {f"notebooks/{path.name}": path.read_bytes() for path in sorted(packaged_notebooks().glob("*.ipynb"))}
    kept = [name for name in contents if (folder / name).exists()]
    for name, content in contents.items():
        if name not in kept:
            atomic_write_bytes(folder / name, content)
    if kept:
        click.echo(f"kept as they are: {', '.join(kept)}", err=True)
    click.echo(
        f"{folder}: {len(contents) - len(kept)} files written. Next: cd {folder} && wsolkit sweep --file sweep.yaml"
    )
