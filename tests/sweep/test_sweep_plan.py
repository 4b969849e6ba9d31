"""What a sweep would run and why: every reason from files on disk, the table, the time, and the grid over seeds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_jobs import GOOD, tiny_job

from wsolkit.cli.main import cli
from wsolkit.common.files import digest, write_json
from wsolkit.methods import registry
from wsolkit.runs import parameters as config_module
from wsolkit.sweep import jobs as plan
from wsolkit.sweep.jobs import SweepFile
from wsolkit.sweep.scheduler import Sweep

SMALL = {"backbone": "resnet18", "epochs": 4}


def jobs_of(out: Path, seeds=(), methods=("cam",), **changes):
    more = {"seeds": seeds} if seeds else {}
    grid = SweepFile.make(**{**SMALL, **changes, **more, "out": str(out)}, backbones=("resnet18",), methods=methods)
    return {job.name: job for job in grid.plan()[0]}


def finish(jobs, seconds=10.0, **more):
    """The files that these jobs would leave, with fingerprint and parts as a run writes them."""
    for job in jobs.values():
        content = {
            "status": "completed",
            "fingerprint": digest(job.parts),
            "made_from": job.parts,
            "config": job.config,
        }
        recipe = {"recipe": {"epochs": job.config["tap_epochs" if job.needs else "epochs"]}}
        write_json(job.done, content | recipe | more)
        if job.done.name == "run.json":
            (job.folder / "best.pt").write_bytes(b"a network")
        job.html.parent.mkdir(parents=True, exist_ok=True)
        job.html.write_text("<h1>page</h1>")
        write_json(
            job.folder / "page.json", {"page": job.content()["page"], "fingerprint": job.key, "seconds": seconds}
        )


def why(jobs):
    found = {name.rpartition("/")[2]: plan.reasons(job, jobs) for name, job in jobs.items()}
    for job in jobs.values():
        assert job.fresh() == (not found[job.name.rpartition("/")[2]]), "a plan says what a sweep does"
    return found


def test_what_a_run_was_made_from_is_what_its_fingerprint_is_the_digest_of(tmp_path):
    for name, job in jobs_of(tmp_path, methods=("cam", "rethinking_cam")).items():
        stored = json.loads(json.dumps(job.parts))
        assert digest(stored) == job.key and "page" not in stored
        epochs = 1 if name.endswith("train tap") else 4  # as they are trained: TAP starts from the GAP network
        assert stored.get("epochs", epochs) == epochs and stored["code"]


def test_reasons_of_single_runs(tmp_path):
    jobs = jobs_of(tmp_path)
    assert why(jobs) == {"train gap": ["never run"], "cam": ["never run"]}
    finish(jobs)
    assert why(jobs) == {"train gap": [], "cam": []}
    (jobs[next(iter(jobs))].folder / "best.pt").unlink()  # as the message about a torn one says
    assert why(jobs)["train gap"] == ["its network best.pt is missing"]
    finish(jobs)
    train, cam = jobs.values()
    write_json(cam.folder / "failure.json", {"status": "failed", "error": "Traceback\nRuntimeError: the roof fell in"})
    assert why(jobs)["cam"] == ["failed last time: RuntimeError: the roof fell in"]
    (cam.folder / "failure.json").write_text("{", encoding="utf-8")
    assert why(jobs)["cam"] == ["failed last time: no error was written"], "half a file is not a change by hand"
    (cam.folder / "failure.json").unlink()
    cam.html.unlink()
    assert why(jobs)["cam"] == ["report page is missing (page only)"]
    finish(jobs)
    write_json(train.folder / "page.json", {"page": "other", "fingerprint": train.key})
    write_json(cam.folder / "page.json", {"page": cam.content()["page"], "fingerprint": "other"})
    assert why(jobs) == {
        "train gap": ["page template changed (page only)"],
        "cam": ["report page is older than its numbers (page only)"],
    }
    finish(jobs)
    write_json(cam.done, json.loads(cam.done.read_text()) | {"files": ["per_image.csv", "galleries/0.jpg"]})
    assert why(jobs)["cam"] == ["per_image.csv is missing, and 1 more"]
    (cam.folder / "per_image.csv").touch()
    assert why(jobs)["cam"] == ["galleries/0.jpg is missing"]
    cam.done.write_text("{torn")
    assert why(jobs)["cam"] == ["metrics.json is damaged"]
    write_json(cam.done, {"status": "completed", "fingerprint": "f" * 16})
    assert why(jobs)["cam"] == ["made by an earlier version"]
    made_from = {"trainings": [1], "parameters": {}}  # by another program, say
    write_json(cam.done, {"status": "completed", "fingerprint": "f" * 16, "made_from": made_from})
    write_json(train.done, {"fingerprint": "f" * 16, "recipe": None, "seconds": 3.0})
    assert why(jobs)["cam"] and plan.expected_seconds(train) is None
    finish(jobs)
    cam.done.unlink()
    (cam.folder / "executions.jsonl").write_text("{}\n")
    assert why(jobs)["cam"] == ["not finished last time"]
    train.done.unlink()
    (train.folder / "last.pt").touch()
    assert why(jobs)["train gap"] == ["not finished last time; goes on from its checkpoint"]


def test_parameters_that_changed_are_named_with_both_values(tmp_path):
    finish(jobs_of(tmp_path))
    longer = jobs_of(tmp_path, epochs=30, classes="a,b")
    assert why(longer) == {
        "train gap": ["parameter classes changed from 0 to a, b", "parameter epochs changed from 4 to 30"],
        "cam": ["its training train gap is stale"],
    }
    train = {name: job for name, job in longer.items() if name.endswith("train gap")}
    finish(train)
    assert why(longer)["cam"] == ["parameter classes changed from 0 to a, b", "parameter epochs changed from 4 to 30"]
    shutil.rmtree(next(iter(jobs_of(tmp_path).values())).folder)
    assert why(longer)["cam"] == ["its training train gap is another one"]
    finish(longer)
    assert why(jobs_of(tmp_path, epochs=30, classes="a,b", limit=7))["cam"] == ["parameter limit changed from 0 to 7"]


def test_a_training_is_compared_with_the_nearest_of_those_that_are_there(tmp_path):
    for changes in ({"epochs": 9, "lr": 0.5}, {"epochs": 9}):
        finish(jobs_of(tmp_path, **changes))
    assert why(jobs_of(tmp_path))["train gap"] == ["parameter epochs changed from 9 to 4"]
    for record in tmp_path.rglob("run.json"):
        write_json(record, {"status": "completed", "fingerprint": "f" * 16})
    assert why(jobs_of(tmp_path))["train gap"] == ["made by an earlier version"]


def test_code_notebook_and_page_template(tmp_path, monkeypatch):
    finish(jobs_of(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(config_module, "training_code", lambda variant: "x")
        assert why(jobs_of(tmp_path)) == {
            "train gap": ["code of training changed"],
            "cam": ["its training train gap is stale"],
        }
    with monkeypatch.context() as patch:
        patch.setattr(config_module, "scoring_code", lambda method: "x")
        assert why(jobs_of(tmp_path)) == {"train gap": [], "cam": ["code of scoring changed"]}
    with monkeypatch.context() as patch:
        patch.setattr(config_module, "notebook_state", lambda path: "x")
        assert why(jobs_of(tmp_path)) == {"train gap": [], "cam": ["notebook 02_cam.ipynb changed"]}
    monkeypatch.setattr(plan, "page_state", lambda: "x")
    assert set(map(tuple, why(jobs_of(tmp_path)).values())) == {("page template changed (page only)",)}


def test_data_and_start_weights(tmp_path):
    data, weights = tmp_path / "data", tmp_path / "w.pth"
    data.mkdir()
    weights.write_bytes(b"1")
    given = {"dataset": "cub", "root": str(data), "weights": str(weights)}
    finish(jobs_of(tmp_path / "out", **given))
    (data / "image.jpg").write_bytes(b"1")
    config_module.data_state.cache_clear()
    assert why(jobs_of(tmp_path / "out", **given))["train gap"] == ["data changed"]
    weights.write_bytes(b"2")
    config_module.weights_state.cache_clear()
    assert why(jobs_of(tmp_path / "out", **given))["train gap"] == ["data changed", "start weights changed"]


def test_the_table_writes_nothing(tmp_path):
    finish(jobs_of(tmp_path, methods=("cam", "grad_cam")), seconds=30.0)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    said, methods = [], ("cam", "grad_cam", "score_cam")
    grid = SweepFile.make(**SMALL, out=str(tmp_path), backbones=("resnet18",), methods=methods)
    plan.show_plan([grid], 2, said.append)
    assert said == [
        "   run                           time  why",
        "1  synthetic/resnet18/score_cam        never run",
        "3 of 4 runs are up to date; 1 would run",
    ]
    said.clear()
    both = {"backbones": ("resnet18", "vgg16_fc"), "methods": ("cam", "score_cam")}
    plan.show_plan([SweepFile.make(**{**SMALL, "epochs": 8}, out=str(tmp_path), **both)], 1, said.append)
    assert said[0].startswith("synthetic/vgg16_fc/cam  not defined: cam weighs the channels")
    assert said[1:] == [
        "   run                           time        why",
        "1  synthetic/resnet18/train gap  about 60 s  parameter epochs changed from 4 to 8",
        "2  synthetic/resnet18/cam        about 30 s  its training train gap is stale",
        "3  synthetic/resnet18/score_cam              never run",
        "4  synthetic/vgg16_fc/train fc               never run",
        "5  synthetic/vgg16_fc/score_cam              never run",
        "0 of 5 runs are up to date; 5 would run",
        "about 2 min with 1 at a time, judged by earlier runs, without 3 that never ran before",
    ]
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_a_plan_with_a_frozen_body_leaves_out_what_cannot_be_trained(tmp_path):
    both = {"backbones": ("resnet18", "vgg16_fc"), "methods": ("rethinking_cam", "has")}
    said: list[str] = []
    plan.show_plan([SweepFile.make(recipe="frozen", weights="none", out=str(tmp_path), **both)], 1, said.append)
    assert [line.split("  ")[0] for line in said[:3]] == [
        "synthetic/resnet18/has", "synthetic/vgg16_fc/rethinking_cam", "synthetic/vgg16_fc/has",
    ]  # fmt: skip
    assert all("not defined: " in line and "frozen" in line for line in said[:3])
    assert [line.split()[1] + line.split()[2] for line in said[4:6]] == [
        "synthetic/resnet18/traintap", "synthetic/resnet18/traingap",
    ], "TAP does not wait for GAP"  # fmt: skip
    assert said[-1] == "0 of 3 runs are up to date; 3 would run"


@pytest.mark.parametrize("weights", ["none", "imagenet"])
def test_a_plan_names_what_a_training_run_starts_from_before_it(tmp_path, weights):
    seen: set[str] = set()
    for name, job in jobs_of(tmp_path, methods=("psol", "bas", "cam"), weights=weights).items():
        assert seen.issuperset(job.needs), name
        seen.add(name)


def test_time_comes_from_the_run_itself_from_other_parameters_or_from_another_seed(tmp_path):
    def seconds(**changes):
        return [
            plan.expected_seconds(job) for job in jobs_of(tmp_path, methods=("rethinking_cam",), **changes).values()
        ]

    assert seconds() == [None, None, None]
    finish(jobs_of(tmp_path, methods=("rethinking_cam",)), seconds=20.0)
    assert seconds(epochs=8) == [40.0, 40.0, 20.0], "tap_epochs follows epochs"
    assert seconds(seeds=(5, 6))[3:] == [20.0, 20.0, 20.0]
    (page,) = tmp_path.glob("runs/*/*/rethinking_cam/page.json")
    page.unlink()
    record = page.with_name("metrics.json")
    write_json(record, json.loads(record.read_text()) | {"wall_seconds": 7.5})
    assert seconds(epochs=8)[2] == 7.5, "by its own account, where no sweep ran it"
    assert seconds()[2] == plan.PAGE_SECONDS


def test_seeds_are_independent_jobs_in_folders_of_their_own(tmp_path):
    jobs = jobs_of(tmp_path, seeds=(3, 4, 3), methods=("rethinking_cam",))
    assert list(jobs) == [
        prefix + name
        for prefix in ("", "seed-4/")
        for name in (
            "synthetic/resnet18/train gap",
            "synthetic/resnet18/train tap",
            "synthetic/resnet18/rethinking_cam",
        )
    ]
    assert all(need in jobs for job in jobs.values() for need in job.needs)
    first, other = jobs["synthetic/resnet18/rethinking_cam"], jobs["seed-4/synthetic/resnet18/rethinking_cam"]
    assert (first.parameters["seed"], other.parameters["seed"]) == (3, 4) and first.key != other.key
    assert first.html == tmp_path / "synthetic/resnet18/rethinking_cam.html"
    assert other.html == tmp_path / "seed-4/synthetic/resnet18/rethinking_cam.html"
    assert other.done == tmp_path / "seed-4/runs/synthetic/resnet18/rethinking_cam/metrics.json"
    assert other.needs == ("seed-4/synthetic/resnet18/train tap", "seed-4/synthetic/resnet18/train gap")
    assert first.content()["home"] == other.content()["home"] == str(tmp_path / "index.html")
    assert first.key == jobs_of(tmp_path, seed=3, methods=("rethinking_cam",))[first.name].key


@pytest.mark.slow
def test_a_page_alone_is_written_without_running_the_notebook(tmp_path):
    body = "import pathlib; pathlib.Path(where).parent.joinpath('count').open('a').write('x')\n"
    body += "pathlib.Path(where, 'best.pt').write_text('a network')\n" + GOOD
    job = tiny_job(tmp_path, "good", body)
    job = replace(job, done=job.folder / "run.json")  # a training run's page is its notebook
    text = job.notebook.read_text().replace("metrics.json", "run.json")
    job.notebook.write_text(text)
    assert not Sweep([job], say=lambda line: None).run() and job.fresh()
    made = json.loads((job.folder / "page.json").read_text())
    log, numbers = (job.folder / "log.txt").read_text(), job.done.stat().st_mtime_ns
    write_json(job.folder / "page.json", made | {"page": "of older templates"})
    job.html.write_text("old")
    assert plan.reasons(job, {}) == ["page template changed (page only)"]
    assert not Sweep([job], say=lambda line: None).run() and job.fresh()
    assert "<h1" in job.html.read_text() and job.done.stat().st_mtime_ns == numbers
    assert (job.folder.parent / "count").read_text() == "x", "the notebook ran once"
    again = json.loads((job.folder / "page.json").read_text())
    assert again["page"] == made["page"] and again["seconds"] >= made["seconds"], "the time of the run is kept"
    assert (job.folder / "log.txt").read_text().startswith(log)
    events = [json.loads(line).get("outcome") for line in (job.folder / "executions.jsonl").read_text().splitlines()]
    assert events == [None, "done", None, "page written"]


@pytest.mark.slow
def test_the_executed_notebook_is_never_one_that_was_stopped_half_way(tmp_path):
    job = tiny_job(tmp_path, "one", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    assert Sweep([job], say=lambda line: None).run()
    assert not (job.folder / "notebook.ipynb").exists()


STUDY = ("cam", "rethinking_cam", "grad_cam", "grad_cam[eigen+aug]", "grad_cam++", "grad_cam++[eigen+aug]", "score_cam")


def test_one_command_plans_all_rows_of_the_study(tmp_path):
    """As README has it: every method and row on every network, with what is not defined named."""
    words = f"--plan --backbones vgg16,vgg16_fc,resnet50 --methods {','.join(STUDY)} --limit score_cam=200 --classes 2"
    done = CliRunner().invoke(cli, ["sweep", *words.split(), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    names = [line.split()[1] for line in done.output.splitlines() if line[:1] in " 123456789" and "synthetic/" in line]
    reports = [name for name in names if not name.endswith("/train")]
    expected = [f"synthetic/{backbone}/{method}" for backbone in ("vgg16", "vgg16_fc", "resnet50") for method in STUDY]
    undefined = ["synthetic/vgg16_fc/cam", "synthetic/vgg16_fc/rethinking_cam"]
    assert reports == [name for name in expected if name not in undefined]
    assert [line.split()[0] for line in done.output.splitlines() if "not defined" in line] == undefined
    assert not list(tmp_path.iterdir())


def test_rows_are_jobs_of_their_own_with_the_notebook_of_their_method(tmp_path):
    methods = ("grad_cam[aug,eigen]", "GradCAM", "grad_cam[aug]", "layer_cam[layer=layer3]", "has[aug]")
    jobs = jobs_of(tmp_path, methods=methods, limits={"grad_cam": 8, "grad_cam[aug]": 4, "": 16})
    reports = {job.config["method"]: job for job in jobs.values() if not job.trains}
    assert list(reports) == ["grad_cam[eigen+aug]", "grad_cam", "grad_cam[aug]", "layer_cam[layer=layer3]", "has[aug]"]
    assert [job.parameters["limit"] for job in reports.values()] == [8, 8, 4, 16, 16]
    assert all(job.parameters["method"] == job.parts["method"] == name for name, job in reports.items())
    chapters = [job.notebook.stem[:2] for job in reports.values()]
    assert chapters == ["04", "04", "04", "07", "09"] and reports["has[aug]"].needs[0].endswith("train has")
    row = reports["grad_cam[eigen+aug]"]
    assert row.folder == tmp_path / "runs/synthetic/resnet18/grad_cam_eigen_aug"
    assert row.html == tmp_path / "synthetic/resnet18/grad_cam_eigen_aug.html"
    assert len({job.key for job in reports.values()}) == len({job.folder for job in reports.values()}) == 5
    finish(jobs)
    assert set(
        map(tuple, why(jobs_of(tmp_path, methods=methods, limits={"grad_cam": 8, "grad_cam[aug]": 4, "": 16})).values())
    ) == {()}


def test_a_chapter_that_knows_no_other_method_reports_no_row(tmp_path, monkeypatch):
    notebook = Path(jobs_of(tmp_path)["synthetic/resnet18/cam"].notebook)
    own = tmp_path / "own.ipynb"
    own.write_text(notebook.read_text(encoding="utf-8").replace("method = ", "other = "), encoding="utf-8")
    monkeypatch.setitem(registry.METHODS, "cam", replace(registry.METHODS["cam"], chapter=str(own)))
    assert "method" not in jobs_of(tmp_path)["synthetic/resnet18/cam"].parameters
    with pytest.raises(ValueError, match=r"cam\[aug\]: own.ipynb has no parameter method"):
        jobs_of(tmp_path, methods=("cam[aug]",))
