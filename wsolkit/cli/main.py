"""`wsolkit init, sweep, train, localise, report, evaluate, compare, predict, data`; a mistake ends with one line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from wsolkit.cli.data import data
from wsolkit.cli.evaluate import compare, evaluate
from wsolkit.cli.localise import localise
from wsolkit.cli.options import given, names_in, parameter_options, reports
from wsolkit.cli.predict import predict
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_bytes
from wsolkit.common.paths import packaged_notebooks
from wsolkit.methods.registry import resolve, training_methods
from wsolkit.runs.parameters import RunConfig
from wsolkit.sweep import jobs as plans
from wsolkit.sweep.jobs import SweepFile

# `sweep` has lists of backbones and its own --limit
OPTIONS = [name for name in RunConfig.names() if name not in ("backbone", "limit")]
YAML = click.Path(exists=True, dir_okay=False)
STUDY = Path(__file__).with_name("study")  # what `init` writes beside the notebooks


def _check(config: RunConfig, methods: list[str]) -> None:
    """Find wrong paths, classes and names now, in one line, rather than in every report."""
    from wsolkit.runs.run import Run

    for method in methods:
        resolve(method)
    if config.dataset == "synthetic" and not config.per_class:  # to draw all birds takes seconds
        config = config.with_changes(per_class=5)
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
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), default="study")
def init(folder: Path) -> None:
    """Put the notebooks, a sweep.yaml and a short README into FOLDER (default study).

    A file that is there already stays as it is, so that the command can be run again after an update.
    """
    sources = {name: STUDY / name for name in ("sweep.yaml", "README.md")}
    sources |= {f"notebooks/{path.name}": path for path in sorted(packaged_notebooks().glob("*.ipynb"))}
    kept = [name for name in sources if (folder / name).exists()]
    for name in sources.keys() - kept:
        atomic_write_bytes(folder / name, sources[name].read_bytes())
    if kept:
        click.echo(f"kept as they are: {', '.join(kept)}", err=True)
    written = f"{folder}: {len(sources) - len(kept)} files written"
    click.echo(f"{written}. Next: cd {folder} && wsolkit sweep --file sweep.yaml")


@cli.command()
@parameter_options([*OPTIONS, "backbones", "methods", "seeds", "jobs"], SweepFile)
@click.option("--file", metavar="YAML", type=YAML, help="take the rest from a sweep file (keys: these options)")
@click.option("--plan", is_flag=True, help="print what would run, in which order, and why; run and write nothing")
@click.option("--dask", default="", metavar="ADDRESS", help="run on the workers of this Dask scheduler (or its file)")
@click.option("--dask-timeout", type=click.FloatRange(min=1), default=60.0, show_default=True, help="seconds to wait")
@click.option("--limit", multiple=True, metavar="METHOD=N", help="localise N images; N alone is for all methods")
def sweep(file: str | None, plan: bool, dask: str, dask_timeout: float, limit: tuple[str, ...], **options: Any) -> None:
    """Run a grid of notebooks and write one HTML report per method and backbone, an index and results.csv."""
    content = plans.read(file) if file else {}
    asked = plans.section(given({**options, "limits": _limits(limit) or None}), Path.cwd())
    asked.setdefault("out", content.get("out") or str(reports()))
    grids = plans.grids(content, asked)
    for grid in grids:
        try:
            _check(grid.config, list(grid.methods))
        except (WsolkitError, OSError) as error:
            raise WsolkitError(f"{file}: {error}" if file else str(error)) from None
    from wsolkit.sweep.scheduler import run_grids, workers_of

    jobs = asked.get("jobs", content.get("jobs"))
    if plan:
        return plans.show_plan(grids, workers_of(jobs), click.echo)
    sys.exit(run_grids(grids, jobs, click.echo, dask, dask_timeout))


def _limits(items: tuple[str, ...]) -> dict[str, int]:
    limits: dict[str, int] = {}
    for item in (part for text in items for part in names_in(text)):
        name, _, number = item.rpartition("=")
        if not number.isdecimal() or int(number) < 1:
            raise WsolkitError(f"--limit {item}: expected METHOD=N or N with a whole number of at least 1")
        limits[name] = int(number)
    return limits


@cli.command()
@parameter_options(["backbone", *OPTIONS])
@click.option("--variant", help=f"gap (default), tap, fc for vgg16_fc, or {', '.join(training_methods())}")
@click.option("--pooling", "variant", hidden=True)  # what --variant was called before
def train(variant: str | None, **options: Any) -> None:
    """Train one network (or resume its training) and print the folder of its checkpoints.

    On several devices: torchrun --nproc-per-node N -m wsolkit train ...
    """
    from wsolkit.common.processes import process_group, rank
    from wsolkit.runs.run import Run

    config = RunConfig.make(**{"out": str(reports()), **given(options)})
    with process_group(config.device):
        run = Run(config)
        run.model(variant)
        if rank() == 0:
            click.echo(config.training_folder(variant or run.variant))


@cli.command()
@click.option("--out", help="folder of the reports (default reports)")
@click.option("--all", "everything", is_flag=True, help="write every page, also those newer than their results")
def report(out: str | None, everything: bool) -> None:
    """Write pages, index.html and results.csv anew from the runs that are there; nothing is run.

    Pages of completed runs are written where they are absent or older than their metrics.json.
    """
    from wsolkit.report.index import write_index
    from wsolkit.report.method_page import write_reports

    folder = Path(out or reports()).resolve()
    if not folder.is_dir():
        raise WsolkitError(f"{folder} not found: give the folder of a sweep's reports, or run a sweep first")
    failed = False
    for page, error in write_reports(folder, everything):
        click.echo(f"{page}: {error}" if error else page, err=bool(error))
        failed |= bool(error)
    click.echo(write_index(folder))
    sys.exit(int(failed))


for command in (data, evaluate, compare, predict, localise):
    cli.add_command(command)


def main() -> None:
    """The command `wsolkit`: 2 is the exit code of a mistake that the caller can put right."""
    many = int(os.environ.get("WORLD_SIZE", "1")) > 1  # processes of torchrun
    try:
        sys.exit(cli(standalone_mode=False))
    except click.UsageError as error:
        if not isinstance(error, click.exceptions.NoArgsIsHelpError):
            error.ctx = None  # one line, without the command's usage
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(1)
    except (WsolkitError, OSError) as error:  # the caller's; any other is a fault of the program and has its trace
        click.echo(f"error{' in process ' + os.environ['RANK'] if many else ''}: {error}", err=True)
        sys.exit(2)
    except SystemExit as end:
        if many and not end.code:
            from wsolkit.common.processes import leave

            leave()
        raise
