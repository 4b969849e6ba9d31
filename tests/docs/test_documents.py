"""Every code block of the documents is executed: Python blocks run, shell commands run or are parsed by the real parsers.

RUN, IN_COPY and PARSED list which command does which; a command without an entry fails, and so does an entry without a
command. What RUN and IN_COPY append makes a command small, and comes last, so that it wins over what the document says.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image, ImageDraw

import wsolkit as wk
from wsolkit import methods as cams
from wsolkit.cli.main import cli
from wsolkit.runs.parameters import RunConfig

ROOT = Path(__file__).resolve().parents[2]
PAGES = tuple(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "reports/README.md", *PAGES)
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
BLOCKS = [
    (name, *found) for name, text in TEXTS.items() for found in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
]
PROSE = {name: re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S) for name, text in TEXTS.items()}

SMALL = "--size 32 --epochs 1 --width 0.125"
FEW = "--classes 2"  # planning opens the data
BIRDS = f"--classes 2 --per-class 4 {SMALL}"
RUN = {  # in an empty folder with pictures, score maps and a checkpoint -> what is appended
    "wsolkit sweep --dataset synthetic --backbones vgg16,resnet18 --methods cam,rethinking_cam --out reports --jobs 2": (
        f"--backbones resnet18 --methods cam --jobs 1 {BIRDS}"
    ),
    "wsolkit sweep --backbones vgg16,resnet18 --methods cam,rethinking_cam --plan": FEW,
    "wsolkit sweep --backbones resnet18 --methods cam,rethinking_cam --seeds 0,1,2": f"--plan {FEW}",
    "wsolkit sweep --backbones resnet18 --methods cam,cam[eigen+aug],layer_cam[layer=layer3]": f"--plan {FEW}",
    "wsolkit report --out reports": "",
    "wsolkit sweep --file sweep.yaml --plan": FEW,
    "wsolkit data convert csv train.csv --out metadata --split train --images images": "",
    "wsolkit data convert csv test.csv --out metadata --split test --images images": "",
    "wsolkit sweep --dataset metadata --root images --metadata metadata --backbones resnet18 "
    "--methods cam,rethinking_cam --weights none": "--plan",
    "wsolkit predict photos --checkpoint reports/runs/synthetic/resnet18/train-gap-1234abcd --method grad_cam --out predictions": "",
    "wsolkit compare evaluation_a evaluation_b": "",
    "wsolkit evaluate --scoremaps maps --metadata metadata --split test --out evaluation": "--size 32 --interval 0.1",
}
IN_COPY = {  # in a copy of the repository, changed as CONTRIBUTING.md says -> what is appended
    "wsolkit sweep --dataset synthetic --backbones resnet18 --methods cam,area_cam": f"--methods area_cam {BIRDS}",
    "wsolkit train --dataset synthetic --backbone resnet34": BIRDS,
    "wsolkit train --dataset synthetic --backbone resnet18 --clip-norm 1.0": BIRDS,
    "wsolkit train --dataset metadata --root drawn --metadata shapes --weights none --size 64": SMALL,
    "wsolkit train --dataset folders --root animals --backbone resnet18": f"--weights none {SMALL}",
}
CLUSTER, DOWNLOAD, MINUTES = "needs a cluster or several GPUs", "needs a download", "takes minutes; runs on its own"
PARSED = {
    "make reports": MINUTES, "make test": MINUTES, "make install": MINUTES, "make check": MINUTES,
    "make measure": MINUTES, "make numbers": "test_measured.py", "make screenshots": "needs the pages of make reports",
    "OMP_NUM_THREADS=1 .venv/bin/python -m pytest -x -q tests/methods/test_cams.py": MINUTES,
    "wsolkit data cub --root data": DOWNLOAD,
    "wsolkit backbones": "test_timm.py", "wsolkit backbones 'timm:*tiny*'": "test_timm.py",
    "wsolkit annotate pictures --out boxes --backbone mobilenet_v2 --format coco,labelstudio": "test_annotate.py",
    "wsolkit annotate --apply cat.json --apply dog.json --out boxes": "test_annotate.py",
    "wsolkit data check --dataset cub --root data/CUB_200_2011": DOWNLOAD,
    "wsolkit data check --dataset metadata --root images --metadata metadata": "test_data_check.py",
    "wsolkit data check --dataset folder --root pictures": "test_class_folders.py",
    "wsolkit sweep --dataset cub --root data/CUB_200_2011 --backbones mobilenet_v2 --recipe frozen --size 448 --stride 32 "
    "--methods cam,affinity_cam": DOWNLOAD,
    "wsolkit sweep --dataset cub --root data/CUB_200_2011 --backbones vgg16,vgg16_fc,resnet50 --weights imagenet --epochs 50 "
    "--limit score_cam=200 "
    "--methods cam,rethinking_cam,grad_cam,grad_cam[eigen+aug],grad_cam++,grad_cam++[eigen+aug],score_cam": DOWNLOAD,
    "wsolkit sweep --dataset cub --root data/CUB_200_2011 --backbones vgg16,resnet50 --jobs 8": CLUSTER,
    "torchrun --standalone --nproc-per-node 8 -m wsolkit train --dataset cub --root data/CUB_200_2011 --backbone resnet50 "
    "--precision bf16": CLUSTER,
    "torchrun --standalone --nproc-per-node 8 -m wsolkit localise --checkpoint FOLDER --method cam,grad_cam --out maps": CLUSTER,
    "dask scheduler --scheduler-file scheduler.json": CLUSTER,
    "dask worker --scheduler-file scheduler.json --nthreads 1": CLUSTER,
    "wsolkit sweep --dataset synthetic --backbones vgg16,resnet18 --dask scheduler.json": CLUSTER,
    "head=$(scontrol show hostnames $SLURM_JOB_NODELIST | head -n 1)": CLUSTER,
    "srun --cpus-per-task=32 torchrun --nnodes 2 --nproc-per-node 4 --rdzv-id $SLURM_JOB_ID --rdzv-backend c10d "
    "--rdzv-endpoint $head:29500 -m wsolkit train --dataset cub --root data/CUB_200_2011 --backbone resnet50": CLUSTER,
    "rm -f scheduler.json": CLUSTER,
    "srun --cpus-per-task=8 dask worker --scheduler-file scheduler.json --nthreads 1": CLUSTER,
    "wsolkit sweep --dataset cub --root data/CUB_200_2011 --backbones vgg16,resnet50 --dask scheduler.json "
    "--dask-timeout 600": CLUSTER,
    "kill $(jobs -p)": CLUSTER,
}  # fmt: skip


def commands(block: str) -> list[str]:
    """The commands of a shell block: continued lines joined, comments, quotes and a last & removed."""
    lines = [line.split(" # ")[0].strip() for line in block.replace("\\\n", " ").splitlines()]
    lines = [line.removesuffix("&").replace('"', "") for line in lines if line and not line.startswith("#")]
    return [" ".join(line.split()) for line in lines]


SHELL = [(name, command) for name, language, block in BLOCKS if language == "sh" for command in commands(block)]


def in_one_line(text: str) -> str:
    return text.strip().split("\n")[0][:60]


# ------------------------------------------------------------------------------------------------ what there is


def test_every_block_is_of_a_kind_that_is_executed():
    assert {language for _, language, _ in BLOCKS} == {"python", "sh", "yaml", "diff"}
    assert {name for name, *_ in BLOCKS} <= {"README.md", "CONTRIBUTING.md", *PAGES}


def test_every_command_has_a_decision_and_every_decision_a_command():
    decided = {*RUN, *IN_COPY, *PARSED}
    assert len(decided) == len(RUN) + len(IN_COPY) + len(PARSED)
    assert {command for _, command in SHELL} == decided
    assert {name for name, command in SHELL if command in IN_COPY} == {"CONTRIBUTING.md"}
    assert {name for name, command in SHELL if command in RUN} == {"README.md"}


@pytest.mark.parametrize("block", [b for _, language, b in BLOCKS if language == "sh"], ids=in_one_line)
def test_shell_blocks_are_good_bash(block):
    done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", PARSED, ids=in_one_line)
def test_a_command_that_is_not_run_is_understood_by_its_own_parser(command):
    parse(shlex.split(command))


def parse(words: list[str]) -> None:
    if words[0].startswith(("head=", "rm", "kill")):
        return  # bash alone, which has read it above
    if words[0] == "make":
        assert subprocess.run(["make", "-n", "-C", str(ROOT), *words[1:]], capture_output=True).returncode == 0
    elif words[0] == "srun":
        parse(words[2:])
    elif words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        found = get_args_parser().parse_args([word.replace("$", "") for word in words[1:]])
        assert found.module and found.training_script == "wsolkit"
        parse(["wsolkit", *found.training_script_args])
    elif words[0] == "dask":
        from distributed.cli import dask_scheduler, dask_worker

        {"scheduler": dask_scheduler, "worker": dask_worker}[words[1]].main.make_context(words[1], words[2:])
    elif words[0] == "papermill":
        from papermill.cli import papermill

        given = papermill.make_context("papermill", words[1:]).params
        notebook = (ROOT / given["notebook_path"]).read_text()
        for name, value in given["parameters"]:
            assert f'"{name} = ' in notebook, f"{given['notebook_path']} has no parameter {name}"
            RunConfig.make(**{name: value})
    elif words[0] == "wsolkit":
        wsolkit_parses(words[1:])
    else:
        assert words[:4] == ["OMP_NUM_THREADS=1", ".venv/bin/python", "-m", "pytest"] and (ROOT / words[-1]).is_file()


def wsolkit_parses(words: list[str]) -> None:
    command: click.Command = cli
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    given = command.make_context(command.name, words).params
    if command.name in ("sweep", "train"):
        names = set(RunConfig.model_fields) - {"limit"}
        backbones = [given["backbone"]] if "backbone" in given else given["backbones"].split(",")
        for backbone in backbones:
            values = {name: value for name, value in given.items() if name in names and value is not None}
            RunConfig.make(**{**values, "backbone": backbone})


# ------------------------------------------------------------------------------------------------ README.md


@pytest.fixture
def without_own_methods():
    before = dict(cams.METHODS)
    yield
    cams.METHODS.clear()
    cams.METHODS.update(before)


PYTHON = [block for name, language, block in BLOCKS if language == "python" and name != "CONTRIBUTING.md"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: in_one_line(block.split("import wsolkit as wk")[1]))
def test_python_blocks_of_readme_and_docs_run(block, tmp_path, monkeypatch, without_own_methods, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WSOLKIT_OUT", str(ROOT / "build/nbval"))  # where make test has trained the default network
    space: dict = {"__name__": "__main__"}
    exec(compile(block, "README.md", "exec"), space)
    if "result" in space:
        assert str(space["result"]) in capsys.readouterr().out and space["result"].gt_known_loc > 0


def picture(path: Path, box: tuple[int, ...], label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (64, 48), (90, 90, 90))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if label else draw.rectangle)(box, fill=(200, 60 * label, 40))
    image.save(path)


def draw_images(folder: Path, name: str, count: int) -> list[tuple]:
    """Pictures of two classes in `folder`, and their lines of a csv: path, class, box."""
    rows = []
    for number in range(count):
        box, label = (8 + number, 10, 34 + number, 40), number % 2
        rows.append((name.format(label=("cat", "dog")[label], number=number), ("cat", "dog")[label], *box))
        picture(folder / rows[-1][0], box, label)
    return rows


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """The folder in which the commands of README.md run, with what they need before they start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WSOLKIT_OUT", raising=False)
    for split, count in (("train", 10), ("test", 4)):
        rows = draw_images(tmp_path / "images", f"{split}/{{number}}.png", count)
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    shutil.copytree(tmp_path / "images/test", tmp_path / "photos")
    rng = np.random.default_rng(0)
    for number in range(4):
        (tmp_path / "maps/test").mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / f"maps/test/{number}.npy", rng.random((7, 7), dtype=np.float32))
    (block,) = [block for name, language, block in BLOCKS if (name, language) == ("README.md", "yaml")]
    (tmp_path / "sweep.yaml").write_text(
        block.replace("metadata: metadata", "metadata: earlier")
    )  # whose turn is later
    run = wk.Run.start(dataset="synthetic", classes=2, per_class=4, size=32, epochs=1, width=0.125, out="reports")
    run.model("gap")
    shutil.copytree(run.config.training_folder("gap"), run.config.runs_folder / "train-gap-1234abcd")
    for split in ("train", "test"):
        wsolkit(f"data convert csv {split}.csv --out earlier --split {split} --images images")
    for name in "ab":
        wsolkit(f"evaluate --scoremaps maps --metadata earlier --out evaluation_{name} --size 32 --interval 0.1")
    return tmp_path


def wsolkit(arguments: str) -> str:
    done = CliRunner().invoke(cli, shlex.split(arguments), catch_exceptions=True)
    assert done.exit_code == 0, f"wsolkit {arguments}\n{done.output}\n{done.exception!r}"
    return done.output


def test_commands_of_readme_run(desk):
    said = {
        command: wsolkit(f"{command.removeprefix('wsolkit ')} {RUN[command]}") for _, command in SHELL if command in RUN
    }
    for made in (
        "reports/index.html", "reports/results.csv", "reports/synthetic/resnet18/cam.html", "metadata/train/image_ids.txt",
        "evaluation/metrics.json", "evaluation/per_image.csv", "evaluation/slices.csv",
    ):  # fmt: skip
        assert (desk / made).is_file(), made
    assert len(list((desk / "predictions").rglob("*.json"))) == 4
    planned = said["wsolkit sweep --file sweep.yaml --plan"]
    assert "score_cam" in planned and "metadata" in planned and not (desk / "reports/seed-1").exists()


# ------------------------------------------------------------------------------------------------ CONTRIBUTING.md


ONE_BY_ONE = """
import json, sys
from wsolkit.cli.main import cli

for words in json.loads(sys.argv[1]):
    print("wsolkit", *words, flush=True)
    try:
        cli(words, prog_name="wsolkit")
    except SystemExit as end:
        if end.code:
            raise
"""


def changed(text: str, block: str) -> str:
    """`text` with the change of a diff block: its lines without + are there, once, and its lines without - take their place."""
    lines = block.splitlines()[1:]
    before = "\n".join(line[1:] for line in lines if not line.startswith("+"))
    after = "\n".join(line[1:] for line in lines if not line.startswith("-"))
    assert text.count(before + "\n") == 1, f"not once in the file:\n{before}"
    return text.replace(before + "\n", after + "\n")


def test_contributing_is_followed_literally(tmp_path, monkeypatch):
    """Method, backbone and data set are added to a copy of the repository, block by block, and used there."""
    for folder in ("wsolkit", "notebooks"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    rows = draw_images(tmp_path / "animals", "train/{label}/{number}.png", 10)
    rows += draw_images(tmp_path / "animals", "test/{label}/{number}.png", 4)
    with (tmp_path / "animals/boxes.csv").open("w", newline="") as file:
        csv.writer(file).writerows((name, *box) for name, _, *box in rows)
    monkeypatch.chdir(tmp_path)
    todo = []
    for name, language, block in BLOCKS:
        target = tmp_path / block.splitlines()[0].strip(" #")
        if name != "CONTRIBUTING.md":
            continue
        if language == "python" and block.startswith("# wsolkit/"):
            assert not target.exists(), f"{target.name} is there already: choose another name for the example"
            target.write_text(block)
        elif language == "python":
            exec(compile(block, name, "exec"), {"__name__": "__main__"})
        elif language == "diff":
            target.write_text(changed(target.read_text(), block))
        elif language == "sh":
            todo += [f"{command} {IN_COPY[command]}" for command in commands(block) if command in IN_COPY]
    assert len(todo) == len(IN_COPY)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "WSOLKIT_OUT": str(tmp_path / "reports")}
    words = json.dumps([shlex.split(command)[1:] for command in todo])
    done = subprocess.run([sys.executable, "-c", ONE_BY_ONE, words], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "reports/synthetic/resnet18/area_cam.html").is_file()
    for made in ("synthetic/resnet34", "metadata/resnet18", "folders/resnet18"):
        assert list((tmp_path / "reports/runs" / made).glob("train-gap-*/best.pt")), made


# ------------------------------------------------------------------------------------------------ words


def test_pictures_have_words():
    pictures = re.findall(r"<img [^>]*>", TEXTS["README.md"])
    assert len(pictures) == 2 and all(re.search(r'alt="[^"]{40,}"', picture) for picture in pictures)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    for link in re.findall(r'(?:\]\(|src="|href=")([^)"]+)', PROSE[name]):
        assert link.startswith("https://") or ((ROOT / name).parent / link.split("#")[0]).exists(), link


MADE = {
    "results.csv",
    "per_image.csv",
    "slices.csv",
    "found_boxes.csv",
    "executions.jsonl",
    "history.csv",
    "boxes.csv",
}  # by commands or by their users, not in the repository
WINGS = sorted(f"wsolkit/{path.name}" for path in (ROOT / "wsolkit").iterdir() if path.is_dir())
PLACES = ("", "wsolkit", *WINGS, "notebooks", "tests")


@pytest.mark.parametrize("name", ("README.md", "CONTRIBUTING.md", "reports/README.md", *PAGES))
def test_files_and_folders_that_are_named_exist(name):
    for word in re.findall(r"`([\w./*-]+)`", PROSE[name]):
        if re.search(r"\.(py|ipynb|csv|md|cff|css|js)$", word) and Path(word).name not in MADE:
            assert any(list((ROOT / place).glob(word)) for place in PLACES if (ROOT / place).is_dir()), word
        elif re.fullmatch(r"(wsolkit|tests|notebooks)/[\w/]*", word):
            assert (ROOT / word).is_dir(), word
        elif re.fullmatch(r"\d\d_\w+", word):
            assert (ROOT / "notebooks" / f"{word}.ipynb").is_file(), word


def all_options(command: click.Command) -> set[str]:
    found = {option for parameter in command.params for option in getattr(parameter, "opts", ())}
    return found.union(*(all_options(one) for one in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("name", ("README.md", "CONTRIBUTING.md", *PAGES))
def test_options_and_variables_that_the_text_names_exist(name):
    known = all_options(cli) | {"--nthreads"}  # dask's
    inline = " ".join(re.findall(r"`([^`\n]+)`", PROSE[name]))
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", inline):
        assert option in known, option
    source = "".join(path.read_text() for path in (ROOT / "wsolkit").rglob("*.py"))
    for variable in re.findall(r"WSOLKIT_[A-Z]+", TEXTS[name]):
        assert variable in source, variable
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"`make ([a-z]+)`", TEXTS[name])) <= targets


def test_readme_lists_all_notebooks():
    assert sorted(re.findall(r"^\| `(\d\d_\w+)`", TEXTS["README.md"], re.M)) == sorted(
        path.stem for path in (ROOT / "notebooks").glob("*.ipynb")
    )


# ------------------------------------------------------------------------------------------------ CITATION.cff


def test_citation_file_is_valid():
    """The rules of cff-version 1.2.0 that concern this file: required keys, kinds of values, people or entities, types."""
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert content["cff-version"] == "1.2.0" and content["type"] == "software" and content["license"] == "MIT"
    assert content["version"] == re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert content["authors"] == [{"name": "The wsolkit contributors"}] and content["message"] and content["title"]
    for item in content["references"]:
        assert {"type", "title", "authors", "year"} <= set(item), item
        assert item["type"] in ("conference-paper", "report", "article", "data") and isinstance(item["year"], int)
        for author in item["authors"]:
            assert set(author) == {"family-names", "given-names"} and all(author.values()), item["title"]
        for entity in filter(None, (item.get("conference"), item.get("institution"))):
            assert set(entity) == {"name"}
        with contextlib.suppress(KeyError):
            assert item["start"] < item["end"]
    titles = " ".join(item["title"] for item in content["references"])
    for paper in ("Discriminative Localization", "Grad-CAM:", "Grad-CAM++", "Score-CAM", "Rethinking Class Activation", "TS-CAM",
                  "Evaluating Weakly", "Hide-and-Seek", "CutMix", "Dropout Layer", "Complementary", "Birds-200-2011"):  # fmt: skip
        assert paper in titles, paper
