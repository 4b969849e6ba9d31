"""The numbers of README.md: measured over three seeds, kept in measured.csv, written into README.md as tables.

    python tools/measured.py            # write README's tables from measured.csv (make numbers)
    python tools/measured.py --measure  # run everything again first, into build/numbers (make measure)
    python tools/measured.py --measure --only cub,cub_frozen  # these grids alone

A range for a rerun follows from the csv by one rule, `expected`.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
TABLE = Path(__file__).with_name("measured.csv")
METRICS = ("top1_cls", "top1_loc", "gt_known_loc", "max_box_acc_v2")
HEADINGS = ("Top-1 Cls", "Top-1 Loc", "GT-known Loc", "MaxBoxAccV2")
CHECKED = (*METRICS, "pxap")  # pxap is empty where there are no masks
COLUMNS = ("data", "backbone", "method", "seed", "images", *CHECKED, "centre_box", "settings")
SEEDS = (0, 1, 2)
LEAST, DEVIATIONS, ERRORS = 5.0, 4.0, 1.5  # of the rule in `expected`

CUB = {
    "dataset": "cub",
    "root": str(SHARED / "data/CUB_200_2011"),
    "weights": str(SHARED / "weights/mobilenet_v2_imagenet.safetensors"),
    "batch_size": 16,
}
IMAGENETTE = {
    "dataset": "metadata",
    "root": str(SHARED / "data/imagenette_wsol/images"),
    "metadata": str(SHARED / "data/imagenette_wsol/metadata"),
    "weights": CUB["weights"],
}
FROZEN = {"recipe": "frozen", "size": 448, "stride": 32}
FROZEN_METHODS = "cam,grad_cam++,layer_cam,affinity_cam,ddt,c2am,psol"
TITLES = {"cub_frozen": "CUB", "imagenette_frozen": "Imagenette"}
# name in the csv -> parameters of the run, backbones, methods
GRIDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "synthetic": ({"dataset": "synthetic"}, "resnet18,vgg16", "cam,rethinking_cam,grad_cam,grad_cam++"),
    "one_family": ({"dataset": "synthetic", "classes": 8}, "resnet18", "cam,rethinking_cam"),
    "cub": ({**CUB, "epochs": 8}, "mobilenet_v2", "cam,rethinking_cam,has,cutmix,adl"),
    "cub_frozen": ({**CUB, **FROZEN}, "mobilenet_v2", FROZEN_METHODS),
    "imagenette_frozen": ({**IMAGENETTE, **FROZEN}, "mobilenet_v2", FROZEN_METHODS),
    "cub_quick": ({**CUB, "epochs": 4, "classes": 3, "size": 128}, "mobilenet_v2", "cam,rethinking_cam"),
}


def expected(rows: list[dict[str, str]], metric: str) -> tuple[float, float]:
    """The range in percent in which a rerun of one seed must lie: the mean of the seeds, and as reach the largest of
    5 points, 4 sample standard deviations over the seeds, and 1.5 standard errors of a share of so many test images.

    Another processor or torch version rounds differently, so that a training run takes another way, as with another
    seed. Three seeds may agree by chance, hence the two other terms.
    """
    values = [float(row[metric]) for row in rows]
    mean, images = statistics.fmean(values), int(rows[0]["images"])
    error = 100 * math.sqrt(mean / 100 * (1 - mean / 100) / images)
    reach = max(LEAST, DEVIATIONS * statistics.stdev(values), ERRORS * error)
    return mean - reach, mean + reach


def read() -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def chosen(rows: list[dict[str, str]], data: str, backbone: str, method: str) -> list[dict[str, str]]:
    runs = [r for r in rows if (r["data"], r["backbone"], r["method"]) == (data, backbone, method)]
    if sorted(int(r["seed"]) for r in runs) != list(SEEDS):
        raise ValueError(f"{TABLE.name}: {data}, {backbone}, {method} has not exactly the seeds {SEEDS}")
    return runs


def spread(rows: list[dict[str, str]], metric: str) -> str:
    values = [float(row[metric]) for row in rows]
    return f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}"


def table(*names: str) -> str:
    """The rows of a grid as a Markdown table, mean and standard deviation over the seeds; several grids stand side by
    side, with two columns each, which are empty where the first grid has a method that they have not."""
    rows, (_, backbones, methods) = read(), GRIDS[names[0]]
    metrics = dict(zip(METRICS, HEADINGS, strict=True))
    columns = [(data, metric) for data in names for metric in (METRICS if len(names) == 1 else METRICS[1:3])]
    titles = [f"{TITLES.get(data, '')} {metrics[metric]}".strip() for data, metric in columns]
    lines = [f"| | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|"]
    for backbone in backbones.split(","):
        for method in methods.split(","):
            here = {data: chosen(rows, data, backbone, method) for data in names if method in GRIDS[data][2].split(",")}
            numbers = [spread(here[data], metric) if data in here else "" for data, metric in columns]
            name = method if len(names) > 1 else f"{backbone}, {method}"
            lines.append(f"| {name} | {' | '.join(numbers)} |")
    first = backbones.partition(",")[0]
    centre = [spread(chosen(rows, data, first, "cam"), "centre_box").removesuffix(" ± 0.0") for data in names]
    known = [centre[names.index(data)] if metric == "gt_known_loc" else "" for data, metric in columns]
    lines.append(f"| centre box | {' | '.join(known)} |")
    return re.sub(r"\|  (?=\|)", "| ", "\n".join(lines)) + "\n"


def with_tables(text: str) -> str:
    """`text` with the tables in place of what is between `<!-- measured NAME ... -->` and `<!-- end -->`."""

    def fill(match: re.Match) -> str:
        return f"{match[1]}\n\n{table(*match[2].split())}\n{match[3]}"

    return re.sub(r"(<!-- measured ([\w ]+?) -->)\n.*?(<!-- end -->)", fill, text, flags=re.S)


def gather(out: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Rows of the finished runs of some grids below OUT (seed 0) and OUT/seed-N, and the known rows of all others."""
    from wsolkit.common.files import read_json

    known = {tuple(line[name] for name in COLUMNS[:4]): line for line in read()}
    rows = []
    for data, (parameters, backbones, methods) in GRIDS.items():
        for backbone, method, seed in itertools.product(backbones.split(","), methods.split(","), SEEDS):
            folder = home(out / data, seed) / "runs" / parameters["dataset"] / backbone
            metrics = folder / method.replace("++", "_plusplus") / "metrics.json"
            new = data in names and metrics.exists()
            rows.append(row(data, read_json(metrics)) if new else known[data, backbone, method, str(seed)])
    return rows


def row(data: str, metrics: dict[str, Any]) -> dict[str, str]:
    """One line of the csv from a run's metrics.json."""
    config, result = metrics["config"], metrics["result"]
    start = config["weights"] if config["weights"] in ("none", "imagenet") else Path(config["weights"]).name
    settings = [f"{result['n_classes']} classes", f"{config['size']} px", f"stride {config['stride']}"]
    settings += [
        f"width {config['width']:g}",
        f"weights {start}",
        "body frozen" if config["frozen"] else f"{config['epochs']} epochs",
    ]
    settings += [f"TAP {config['tap_epochs']} more"] if config["tap_epochs"] else []
    point = {"fixed": "fixed threshold", "pseudo_boxes": "threshold chosen on pseudo boxes"}
    settings += [point[result["operating_point"]]] if result["operating_point"] in point else []
    settings += [f"torch {metrics['versions']['torch'].split('+')[0]}", metrics["device"]]
    values = {metric: "" if result[metric] is None else f"{result[metric]:.4g}" for metric in CHECKED}
    values["centre_box"] = f"{result['centre_box']['gt_known_loc']:.4g}"
    return {
        "data": data, "backbone": config["backbone"], "method": config["method"], "seed": str(config["seed"]),
        "images": str(result["n_images"]), **values, "settings": "; ".join(settings),
    }  # fmt: skip


def home(out: Path, seed: int) -> Path:
    return out if seed == SEEDS[0] else out / f"seed-{seed}"


def measure(out: Path, names: Sequence[str]) -> None:
    """Run some grids for all seeds; what is up to date is not run again."""
    for data in names:
        parameters, backbones, methods = GRIDS[data]
        options = [part for name, value in parameters.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        options += ["--backbones", backbones, "--methods", methods, "--seeds", ",".join(map(str, SEEDS))]
        command = [sys.executable, "-m", "wsolkit", "sweep", *options, "--jobs", "0", "--out", str(out / data)]
        subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="run everything again (needs ../shared)")
    parser.add_argument("--only", default=",".join(GRIDS), help="names of grids, separated by commas")
    parser.add_argument("--out", default=str(ROOT / "build/numbers"), help="folder of these runs")
    arguments = parser.parse_args()
    from wsolkit.common.files import atomic_write_text

    if arguments.measure:
        names = arguments.only.split(",")
        measure(Path(arguments.out), names)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(gather(Path(arguments.out), names))
        atomic_write_text(TABLE, text.getvalue())
    readme = ROOT / "README.md"
    atomic_write_text(readme, with_tables(readme.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
