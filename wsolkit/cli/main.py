"""`wsolkit sweep | train | localise | report | evaluate | compare | predict | data`: a command that fails ends with one clear line."""

from __future__ import annotations

import os
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

from wsolkit.cli.data import data
from wsolkit.cli.evaluate import compare, evaluate
from wsolkit.cli.localise import localise
from wsolkit.cli.predict import predict
from wsolkit.methods.registry import declared, resolve, study_methods, training_methods
from wsolkit.networks.backbones import BACKBONES
from wsolkit.runs.config import DATASETS, RunConfig
from wsolkit.training.recipes import RECIPES

_HELP = {
    "root": "folder of the dataset in its native layout, or of the images of a metadata folder",
    "metadata": "folder with train/, test/ and perhaps val/ in the format of wsolevaluation (dataset metadata)",
    "masks": "folder of the mask files that the metadata names (dataset metadata)",
    "classes": "first so many classes, or names or numbers separated by commas",
    "size": "input side in pixels",
    "geometry": "evaluation geometry: resize (default) or crop",
    "val_share": "share of the training images held out to choose epoch and threshold (default 0.2)",
    "per_class": "synthetic birds: images per class",
    "stride": "stride of the feature map",
    "width": "multiplies all channels (1 is the published network)",
    "batch_norm": "yes, no or auto: batch normalisation in VGG",
    "weights": "imagenet, none, or a .safetensors or .pth file",
    "tau": "threshold of thresholded average pooling (default 0.1)",
    "epochs": "length of a training",
    "recipe": f"{', '.join(RECIPES)}; options below replace single values (default: as dataset and weights ask)",
    "batch_size": "images per training step",
    "lr": "learning rate",
    "lr_classifier_ratio": "learning rate of head and added layers (ResNet: layer4 and head) over that of the others",
    "schedule": "step or cosine",
    "lr_steps": "epochs after which a step schedule lowers the rate, separated by commas",
    "lr_period": "epochs between two steps, instead of --lr-steps",
    "lr_gamma": "factor on the learning rate at a step (default 0.1)",
    "warmup_epochs": "epochs over which the learning rate rises",
    "weight_decay": "weight decay (default 0.0005)",
    "backbone_grad_scale": "factor on the gradients of pretrained layers",
    "label_smoothing": "share of the target spread over all classes (default 0)",
    "precision": "float32 (default) or bf16: bfloat16 autocast in training",
    "accumulate": "parts into which a batch is cut to fit the memory (default 1); batch norm sees the parts",
    "compile": "run training steps through torch.compile",
    "checkpoint_seconds": "within an epoch, save so often (default 300; 0: at its end only)",
    "faithfulness": "test images for deletion, insertion and ROAD curves in each report (default none)",
    "seed": "of split, drawings, initialisation and training",
    "device": "cpu or cuda (default: cuda where there is one)",
    "out": "folder of the reports (default reports)",
}


def _run_options(function):
    """Options for every parameter of a run; what is not given is left to the dataset's defaults."""
    function = click.option("--dataset", type=click.Choice(list(DATASETS)), show_default="synthetic")(function)
    kinds = {item.name: type(item.default) for item in fields(RunConfig)}
    for name, text in reversed(_HELP.items()):
        if kinds[name] is bool:
            function = click.option(f"--{name.replace('_', '-')}", is_flag=True, default=None, help=text)(function)
            continue
        kind = str if name == "classes" else kinds.get(name, str)
        function = click.option(f"--{name.replace('_', '-')}", type=kind if kind in (int, float) else str, help=text)(
            function
        )
    return function


def _given(options: dict[str, Any], out: str = "") -> dict[str, Any]:
    """The options that were given, and `out`; paths count from where the caller stands."""
    given = {name: value for name, value in options.items() if value is not None}
    given.setdefault("out", out or os.environ.get("WSOLKIT_OUT") or "reports")
    for name in ("root", "metadata", "masks", "out", "weights"):
        if given.get(name) and (name, given[name]) not in (("weights", "none"), ("weights", "imagenet")):
            try:
                given[name] = str(Path(given[name]).expanduser().resolve())
            except RuntimeError as error:  # ~ of nobody
                raise ValueError(f"--{name} {given[name]}: {error}") from None
    return given


def _config(options: dict[str, Any], **more: Any) -> RunConfig:
    return RunConfig.make(**_given({**options, **more}))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _check(config: RunConfig, methods: list[str]) -> None:
    """Find wrong paths, classes and names now, in one line, rather than in every report."""
    from wsolkit.runs.run import Run

    for method in methods:
        resolve(method)
    if config.dataset == "synthetic" and not config.per_class:  # to draw all birds takes seconds
        config = replace(config, per_class=5)
    run = Run(config)
    for split in ("train", "val", "test"):
        run.dataset(split)
    for variant in ("gap", "tap"):
        run.recipe(variant)
    config.training_key("gap")  # reads the weights file


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="wsolkit")
def cli() -> None:
    """Weakly supervised object localisation: train with image labels, localise, compare."""


@cli.command()
@_run_options
@click.option("--file", metavar="YAML", help="take what is not given here from a sweep file (keys: these options)")
@click.option("--plan", is_flag=True, help="print what would run, in which order, and why; run and write nothing")
@click.option("--backbones", show_default="vgg16,resnet18", help=f"of {', '.join(BACKBONES)}")
@click.option(
    "--methods",
    show_default=",".join(study_methods()),
    help=f"training-time methods ({', '.join(training_methods())}) and any method grad-cam offers work too",
)
@click.option(
    "--seeds", metavar="N,N,...", help="the same grid with each seed; the first in OUT, the others in OUT/seed-N"
)
@click.option(
    "--jobs",
    type=click.IntRange(min=0),
    help="runs at a time (default 1, with --dask one per thread of the cluster); 0 is one per core, at most 4, or per GPU",
)
@click.option(
    "--dask", default="", metavar="ADDRESS", help="run on the workers of this Dask scheduler (or scheduler file)"
)
@click.option(
    "--dask-timeout", type=click.FloatRange(min=1), default=60.0, show_default=True,
    help="seconds to wait for the scheduler and for workers",
)  # fmt: skip
@click.option(
    "--limit", multiple=True, metavar="METHOD=N", help="localise at most N images with this method; N alone is for all"
)
def sweep(
    file: str | None, plan: bool, backbones: str | None, methods: str | None, seeds: str | None, jobs: int | None,
    dask: str, dask_timeout: float, limit: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Run a grid of notebooks and write one HTML report per method and backbone, an index and results.csv."""
    from wsolkit.sweep import spec as sweep_file

    content = sweep_file.read(file) if file else {}
    given = _given(options, content.get("out", ""))
    if backbones is not None:
        given["backbones"] = _names(backbones)
    if methods is not None:
        given["methods"] = [declared(name).name for name in _names(methods)]
    if seeds is not None:
        given["seeds"] = _seeds(seeds)
        if "seed" in given:
            raise ValueError("give --seed or --seeds, not both")
    if limit:
        given["limits"] = _limits(limit)
    grids = sweep_file.grids(content, given)
    for grid in grids:
        try:
            _check(grid.config, list(grid.methods))
        except (ValueError, OSError) as error:
            raise ValueError(f"{file}: {error}" if file else str(error)) from None
    jobs = content.get("jobs") if jobs is None else jobs
    if plan:
        from wsolkit.sweep.pools import workers_of
        from wsolkit.sweep.reasons import show_plan

        return show_plan(grids, workers_of(jobs), click.echo)
    from wsolkit.sweep.scheduler import run_grids

    sys.exit(run_grids(grids, jobs, click.echo, dask, dask_timeout))


def _seeds(text: str) -> list[int]:
    if wrong := [item for item in _names(text) or [text] if not item.isdecimal()]:
        raise ValueError(f"--seeds {text}: expected whole numbers separated by commas, but '{wrong[0]}' is none")
    return [int(item) for item in _names(text)]


def _limits(items: tuple[str, ...]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for item in (part for text in items for part in _names(text)):
        name, _, number = item.rpartition("=")
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(f"--limit {item}: expected METHOD=N or N with a whole number of at least 1")
        limits[declared(name).name if name else ""] = int(number)
    return limits


@cli.command()
@_run_options
@click.option("--backbone", default="resnet18", show_default=True, help=f"one of {', '.join(BACKBONES)}")
@click.option("--variant", help=f"gap (default), tap, fc for vgg16_fc, or {', '.join(training_methods())}")
@click.option("--pooling", "variant", hidden=True)  # what --variant was called before
def train(backbone: str, variant: str | None, **options: Any) -> None:
    """Train one network (or resume its training) and print the folder of its checkpoints.

    On several devices: torchrun --nproc-per-node N -m wsolkit train ...
    """
    from wsolkit.common.processes import process_group, rank
    from wsolkit.runs.run import Run

    config = _config(options, backbone=backbone)
    with process_group(config.device):
        run = Run(config)
        run.model(variant)
        if rank() == 0:
            click.echo(config.training_folder(variant or run.variant))


@cli.command()
@click.option("--out", help="folder of the reports (default reports)")
@click.option(
    "--all", "everything", is_flag=True, help="write every page, also those that are newer than their results"
)
def report(out: str | None, everything: bool) -> None:
    """Write pages, index.html and results.csv anew from the runs that are there; nothing is run.

    Pages of completed runs are written where they are absent or older than their metrics.json.
    """
    from wsolkit.report.report import write_index, write_reports

    folder = Path(out or os.environ.get("WSOLKIT_OUT") or "reports").resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder} not found: give the folder of a sweep's reports, or run a sweep first")
    problems = 0
    for page, error in write_reports(folder, everything):
        click.echo(f"{page}: {error}" if error else page, err=bool(error))
        problems += bool(error)
    click.echo(write_index(folder))
    sys.exit(int(bool(problems)))


for command in (data, evaluate, compare, predict, localise):
    cli.add_command(command)


def main() -> None:
    try:
        cli(standalone_mode=True)
    except (
        ValueError,
        OSError,
    ) as error:  # every message of the package names the value, what was expected, what to do
        where = f" in process {os.environ['RANK']}" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""  # of torchrun
        click.echo(f"error{where}: {error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if not end.code and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from wsolkit.common.processes import leave

            leave()
        raise


if __name__ == "__main__":
    main()
