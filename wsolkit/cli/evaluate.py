"""`wsolkit evaluate` and `wsolkit compare`: scoring and comparing from files, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wsolkit.boxes.protocols import PROTOCOLS
from wsolkit.cli.options import names_in, reports
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import check_out, read_json
from wsolkit.common.progress import progress

METRICS = ("gt_known_loc", "top1_loc", "top1_cls", "iou")  # a test holds them against those that `compare` knows
RULES = {"protocol": "protocol", "operating_point": "choice of the threshold"}


@click.command()
@click.option("--scoremaps", required=True, help="folder with one score map <image id>.npy per image")
@click.option("--metadata", required=True, help="metadata folder of wsolevaluation, or that of one split")
@click.option("--masks", help="folder of the mask files that localization.txt names")
@click.option("--protocol", type=click.Choice(list(PROTOCOLS)), default=next(iter(PROTOCOLS)), show_default=True)
@click.option("--split", default="test", show_default=True, help="split of the metadata: train, val or test")
@click.option("--predictions", help="csv of lines path,label[,second,...]; default: predictions.csv in --scoremaps")
@click.option("--val-scoremaps", help="score maps of the val split, to choose the threshold on")
@click.option("--size", type=int, default=224, show_default=True, help="side of the frame in pixels")
@click.option("--percentile", type=float, help="of the map, to which the threshold refers; 90 is PaS")
@click.option("--threshold", type=float, help="the fixed threshold (default 0.2; 0.35 with a percentile below 100)")
@click.option("--interval", type=float, default=0.001, show_default=True, help="step of the thresholds")
@click.option("--subset", is_flag=True, help="pass over maps of images that the metadata does not list")
@click.option("--out", help="folder of the results (default reports/evaluations/<score map folder>-<split>-<protocol>)")
def evaluate(scoremaps: str, metadata: str, out: str | None, **options: Any) -> None:
    """Score a folder of score maps, print the numbers, write metrics.json, per_image.csv, slices.csv and figures."""
    from wsolkit.evaluation.file_evaluation import class_names, evaluate_files, save_evaluation

    name = "-".join([*Path(scoremaps).resolve().parts[-2:], options["split"], options["protocol"]])
    folder = check_out(out or reports("evaluations") / name)
    result = evaluate_files(scoremaps, metadata, **options, progress=lambda images: progress(images, "scoring"))
    click.echo(result)
    click.echo(f"written: {save_evaluation(result, folder, class_names(metadata, options['split']))}")


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--metric", type=click.Choice(METRICS), default=METRICS[0], show_default=True)
@click.option("--names", help="two names separated by a comma (default: those of the folders)")
def compare(a: str, b: str, metric: str, names: str | None) -> None:
    """Is A better than B on the same images? A and B are folders with a per_image.csv, or such files."""
    from wsolkit.evaluation.comparison import compare as compare_tables
    from wsolkit.evaluation.comparison import compare_slices

    folders = [place.parent if place.suffix == ".csv" else place for place in (Path(a).resolve(), Path(b).resolve())]
    chosen = names_in(names) if names else [folder.name for folder in folders]
    if len(chosen) != 2:
        raise WsolkitError(f"--names {names}: expected two names separated by a comma")
    if chosen[0] == chosen[1]:
        chosen = [f"{chosen[0]} (A)", f"{chosen[1]} (B)"]
    results = []
    for path, folder in zip((a, b), folders, strict=True):  # a csv may lie alone
        if Path(path).is_dir() and not (folder / "metrics.json").is_file():
            raise WsolkitError(f"{path} holds no metrics.json: its evaluation is not complete, run it again")
        content = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
        results.append(content.get("result", content))
    for rule, text in RULES.items():
        if None not in (values := [result.get(rule) for result in results]) and values[0] != values[1]:
            click.echo(f"note: another {text}: {values[0]} for A, {values[1]} for B", err=True)
    click.echo(compare_tables(a, b, metric=metric, names=tuple(chosen)))
    click.echo()
    click.echo(compare_slices(a, b, metric=metric).to_string(index=False, float_format="%.2f"))
