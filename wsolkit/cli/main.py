"""`wsolkit init, sweep, train, localise, report, evaluate, compare, predict, annotate, ...`; a mistake is one line."""

from __future__ import annotations

import io
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from wsolkit.boxes.protocols import PROTOCOLS
from wsolkit.cli.annotate import annotate
from wsolkit.cli.backbones import backbones
from wsolkit.cli.options import given, parameter_options, reports
from wsolkit.cli.predict import localise, predict
from wsolkit.common.code import packaged_notebooks
from wsolkit.common.cores import torchrun_processes
from wsolkit.common.errors import WsolkitError, is_digits, require
from wsolkit.common.files import atomic_write_bytes, check_out, given_path, read_json
from wsolkit.common.memory import keep_freed_memory
from wsolkit.common.parameters import names_in
from wsolkit.common.progress import progress
from wsolkit.data.catalogue import DATASETS, SPLITS
from wsolkit.methods.registry import resolve, training_methods
from wsolkit.runs.data_check import PARAMETERS, check_data
from wsolkit.runs.parameters import RunConfig
from wsolkit.sweep import jobs as plans
from wsolkit.sweep.jobs import SweepFile

# `sweep` has lists of backbones and its own --limit
OPTIONS = [name for name in RunConfig.names() if name not in ("backbone", "limit")]
YAML = click.Path(exists=True, dir_okay=False)
METRICS = ("gt_known_loc", "top1_loc", "top1_cls", "iou")  # a test holds them against those that `compare` knows
RULES = {"protocol": "protocol", "operating_point": "choice of the threshold"}
SEVERAL = "images with several classes: take the class of the largest box, or leave them out"
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
    keep_freed_memory()


@cli.command()
@click.argument("out", metavar="[FOLDER]", type=click.Path(file_okay=False), default="study")
def init(out: str) -> None:
    """Put the notebooks, a sweep.yaml and a short README into FOLDER (default study).

    A file that is there already stays as it is, so that the command can be run again after an update.
    """
    folder = check_out(out)
    check_out(folder / "notebooks")
    sources = {name: STUDY / name for name in ("sweep.yaml", "README.md")}
    sources |= {f"notebooks/{path.name}": path for path in sorted(packaged_notebooks().glob("*.ipynb"))}
    kept = [name for name in sources if (folder / name).exists()]
    for name in sources.keys() - kept:
        atomic_write_bytes(folder / name, sources[name].read_bytes())
    if kept:
        click.echo(f"kept as they are: {', '.join(kept)}", err=True)
    count = len(sources) - len(kept)
    written = f"{folder}: {count} {'file' if count == 1 else 'files'} written"
    click.echo(f"{written}. Next: cd {shlex.quote(str(folder))} && wsolkit sweep --file sweep.yaml")


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
    from wsolkit.data.readers import leniently

    for grid in grids:
        try:
            with nullcontext() if plan else leniently():  # then all that is wrong with the data is told at once, below
                _check(grid.with_changes(), list(grid.methods))
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
        good = is_digits(number) and int(number) >= 1
        require(good, f"--limit {item[:60]}: expected METHOD=N or N with a whole number of at least 1")
        limits[name] = int(number)
    return limits


@cli.command()
@parameter_options(["backbone", *(name for name in OPTIONS if name != "faithfulness")])
@click.option("--variant", help=f"gap (default), tap, fc for vgg16_fc, or {', '.join(training_methods())}")
@click.option("--pooling", "variant", hidden=True)  # what --variant was called before
def train(variant: str | None, **options: Any) -> None:
    """Train one network (or resume its training) and print the folder of its checkpoints.

    On several devices: torchrun --nproc-per-node N -m wsolkit train ...
    """
    from wsolkit.common.processes import process_group, rank
    from wsolkit.runs.run import Run

    config = RunConfig.make(**{"out": str(reports()), **given(options)})
    check_out(config.out_folder)
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
    from wsolkit.report.index import keep_foreign_pages, write_index
    from wsolkit.report.method_page import write_reports

    folder = check_out(out or reports()).resolve()
    needed = "give the folder of a sweep's reports, or run a sweep first"
    require(folder.is_dir(), f"{folder} not found: {needed}")
    require(any(folder.glob("runs/*")) or any(folder.glob("seed-*/runs/*")), f"{folder} holds no runs: {needed}")
    keep_foreign_pages(folder)
    failed = False
    for page, error in write_reports(folder, everything):
        click.echo(f"{page}: {error}" if error else page, err=bool(error))
        failed |= bool(error)
    click.echo(write_index(folder))
    sys.exit(int(failed))


@cli.command()
@click.option("--scoremaps", help="folder with one score map <image id>.npy per image")
@click.option("--boxes", help="instead of --scoremaps: a csv of boxes path,x0,y0,x1,y1 in pixels of the images")
@click.option("--metadata", required=True, help="metadata folder of wsolevaluation, or that of one split")
@click.option("--masks", help="folder of the mask files that localization.txt names")
@click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default=next(iter(PROTOCOLS)), show_default=True)
@click.option("--split", default="test", show_default=True, help="split of the metadata: train, val or test")
@click.option("--predictions", help="csv of lines path,label[,second,...]; default: predictions.csv in --scoremaps")
@click.option("--val-scoremaps", help="score maps of the val split, to choose the threshold on")
@click.option("--size", type=int, default=224, show_default=True, help="side of the frame in pixels")
@click.option("--percentile", type=float, help="the threshold is a share of this percentile of the map; 90 is PaS")
@click.option("--threshold", type=float, help="the fixed threshold (default 0.2; 0.35 with a percentile below 100)")
@click.option("--interval", type=float, default=0.001, show_default=True, help="step of the thresholds")
@click.option("--subset", is_flag=True, help="ignore maps of images that the metadata does not list")
@click.option("--out", help="folder of the results (default reports/evaluations/<maps or boxes>-<split>-<protocol>)")
def evaluate(scoremaps: str | None, metadata: str, out: str | None, **options: Any) -> None:
    """Score a folder of score maps, or a csv of boxes (of a detector, say), and print the numbers.

    Writes metrics.json, per_image.csv, slices.csv and figures.
    """
    from wsolkit.evaluation.file_evaluation import class_names, evaluate_files, keep_foreign_results, save_evaluation

    source = Path(scoremaps or options["boxes"] or "").resolve()
    last = source.stem if options["boxes"] else source.name
    name = "-".join([*source.parts[-2:-1], last, options["split"], options["protocol"]])
    folder = check_out(out or reports("evaluations") / name)
    keep_foreign_results(folder)
    result = evaluate_files(scoremaps, metadata, **options, progress=lambda images: progress(images, "scoring"))
    click.echo(result)
    click.echo(f"written: {save_evaluation(result, folder, class_names(metadata, options['split']))}")


@cli.command()
@click.argument("a")
@click.argument("b")
@click.option("--metric", type=click.Choice(METRICS), default=METRICS[0], show_default=True)
@click.option("--names", help="two names separated by a comma (default: those of the folders)")
def compare(a: str, b: str, metric: str, names: str | None) -> None:
    """Is A better than B on the same images? A and B are folders with a per_image.csv, or such files."""
    from wsolkit.evaluation.comparison import compare as compare_tables
    from wsolkit.evaluation.comparison import compare_slices

    places = [given_path(path, "a folder with a per_image.csv, or such a file").resolve() for path in (a, b)]
    folders = [place.parent if place.suffix == ".csv" else place for place in places]
    chosen = names_in(names) if names else [folder.name for folder in folders]
    require(len(chosen) == 2, f"--names {names}: expected two names separated by a comma")
    if chosen[0] == chosen[1]:
        chosen = [f"{chosen[0]} (A)", f"{chosen[1]} (B)"]
    results = []
    for path, folder in zip(places, folders, strict=True):  # a csv may lie alone
        table = folder / "metrics.json"
        if path.is_dir() and not table.exists():
            raise WsolkitError(f"{path} holds no metrics.json: its evaluation is not complete, run it again")
        content = read_json(table) if table.exists() else {}
        result = content.get("result", content) if isinstance(content, dict) else content
        good = isinstance(result, dict)
        require(good, f"{table} is damaged: expected the result of an evaluation; delete it and run again")
        results.append(result)
    for rule, text in RULES.items():
        if None not in (values := [result.get(rule) for result in results]) and values[0] != values[1]:
            click.echo(f"note: another {text}: {values[0]} for A, {values[1]} for B", err=True)
    click.echo(compare_tables(a, b, metric=metric, names=tuple(chosen)))
    click.echo()
    click.echo(compare_slices(a, b, metric=metric).to_string(index=False, float_format="%.2f"))


@cli.group()
def data() -> None:
    """Check a dataset, fetch one, convert annotations for `--dataset metadata`, list or clear decoded images."""


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
@parameter_options(PARAMETERS)
def check(**options: Any) -> None:
    """Read all images once and say what is wrong with them, their boxes and splits, on one page of text.

    The exit code is 1 where there are errors, which stop a sweep too, and 0 where there are warnings only.
    """
    result = check_data(**given(options))
    click.echo(result)
    sys.exit(int(bool(result.errors)))


@data.command()
@click.argument("kind", type=click.Choice(["voc", "coco", "csv"]))
@click.argument("source", type=click.Path())
@click.option("--out", required=True, type=click.Path(file_okay=False), help="metadata folder to write the split into")
@click.option("--split", type=click.Choice(SPLITS), default="test", show_default=True)
@click.option("--images", type=click.Path(file_okay=False), help="folder of the images; a CSV needs it for their sizes")
@click.option("--several", type=click.Choice(["largest", "skip"]), default="largest", show_default=True, help=SEVERAL)
@click.option("--origin", type=click.IntRange(0, 1), help="number of the first pixel in voc files (default 1)")
@click.option("--unit", type=click.Choice(["pixel", "share"]), default="pixel", show_default=True, help="of corners")
@click.option("--turn", is_flag=True, help="boxes are of the images as stored: turn them as the EXIF tags say")
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


cli.add_command(predict)
cli.add_command(localise)
cli.add_command(annotate)
cli.add_command(backbones)


def main() -> None:
    """The command `wsolkit`: 2 is the exit code of a mistake that the caller can put right."""
    for stream in (sys.stdout, sys.stderr):  # what the terminal cannot show is a ? there, and no reason to say nothing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    many = False
    try:
        many = torchrun_processes() > 1
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
            # a thread of gloo that still lets go of its last tensor can abort the interpreter while that shuts down,
            # and torchrun would take it for a failure (pytorch/pytorch pull request 179291)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        raise
