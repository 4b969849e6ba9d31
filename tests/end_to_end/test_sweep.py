"""One small sweep, end to end: real notebooks, training runs and pages, opened in a real browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml
from small_jobs import GOOD, events, maps_of, tiny_job, until

from wsolkit.common.files import digest
from wsolkit.sweep.jobs import SweepFile
from wsolkit.sweep.scheduler import Sweep, run_grids

COLUMNS = (
    "dataset,backbone,method,n_images,top1_cls,top5_cls,gt_known_loc,top1_loc,top5_loc,max_box_acc,max_box_acc_v2,mean_iou,pxap,"
    "seconds_per_image,peak_memory_mb,operating_point,status,seed"
)
SMALL = "--per-class 2 --epochs 1 --size 48 --width 0.125 --jobs 2 --limit 16 --limit score_cam=4"
COMMAND = [sys.executable, "-m", "wsolkit", "sweep", *SMALL.split()]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The reports of a sweep over two backbones, one of which has no CAM, and a method that trains a network of its own."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    command = [*COMMAND, "--backbones", "mobilenet_v2,vgg16_fc", "--methods", "cam,ACoL,score_cam", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def rows(out):
    text = (out / "results.csv").read_text()
    assert text.splitlines()[0] == COLUMNS
    return {(row["backbone"], row["method"]): row for row in csv.DictReader(text.splitlines())}


def test_every_run_leaves_its_report_and_its_row(swept):
    out, said = swept
    found = rows(out)
    assert len(found) == 6
    for backbone, method in (("mobilenet_v2", "cam"), ("mobilenet_v2", "acol"), ("vgg16_fc", "score_cam")):
        row = found[backbone, method]
        assert row["status"] == "completed" and (out / "synthetic" / backbone / f"{method}.html").is_file()
        for name in ("top1_cls", "gt_known_loc", "top1_loc", "max_box_acc", "max_box_acc_v2", "pxap"):
            assert 0 <= float(row[name]) <= 100
        assert float(row["seconds_per_image"]) > 0
    assert found["mobilenet_v2", "cam"]["n_images"] == "16" and found["mobilenet_v2", "score_cam"]["n_images"] == "4"
    assert str(out / "index.html") in said
    stored = yaml.safe_load((out / "runs/synthetic/sweep.yaml").read_text())
    assert (stored["backbones"], stored["seeds"], stored["limit"]) == (["mobilenet_v2", "vgg16_fc"], [0], 16)
    for record in (*out.rglob("run.json"), *out.rglob("metrics.json")):
        values = json.loads(record.read_text())
        assert digest(values["made_from"]) == values["fingerprint"], "the plan can say what changed"
    assert not list(out.rglob("*.part")), "nothing half-written stays"


def test_undefined_is_no_failure_and_says_why(swept):
    out, said = swept
    row = rows(out)["vgg16_fc", "cam"]
    assert row["status"] == "undefined" and row["gt_known_loc"] == ""
    assert "not defined" in said
    assert "fully connected" in (out / "index.html").read_text()


def test_methods_share_a_training_and_a_training_time_method_has_its_own(swept):
    out, _ = swept
    folder = out / "runs/synthetic/mobilenet_v2"
    assert sorted(path.parent.name.split("-")[1] for path in folder.glob("train-*/run.json")) == ["acol", "gap"]
    assert len(list((out / "runs/synthetic/vgg16_fc").glob("train-fc-*/run.json"))) == 1
    assert "Training mobilenet_v2 with ACoL on synthetic" in next(folder.glob("train-acol-*/train.html")).read_text()
    page = (out / "synthetic/mobilenet_v2/acol.html").read_text()
    assert "ACoL on a network trained with ACoL (delta 0.6)" in page
    assert "trained with ACoL" not in (out / "index.html").read_text(), "it is no setting of all runs"


def test_results_lie_in_files_that_need_no_model(swept):
    import numpy as np

    out, _ = swept
    folder = out / "runs/synthetic/mobilenet_v2/cam"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["status"] == "completed" and metrics["result"]["n_images"] == 16
    with np.load(maps_of(folder)["test"], allow_pickle=False) as maps:
        assert maps["maps"].shape[0] == 16 and maps["maps"].dtype == np.float32
    assert len((folder / "per_image.csv").read_text().splitlines()) == 17


def test_pages_load_nothing_and_name_every_picture(swept):
    out, _ = swept
    pages = [out / "index.html", *(out / "synthetic").rglob("*.html")]
    assert len(pages) == 5
    for page in pages:
        text = page.read_text()
        assert not re.search(r"<(?:link|iframe)\b|<script[^>]*\bsrc", text), page
        text = re.sub(r"<script\b.*?</script>", "", text, flags=re.S)  # the package's own, and data of the galleries
        assert not re.search(r"""(?:src|srcset)\s*=\s*["'](?!data:)""", text), page
        assert len(re.findall(r"<h1\b", text)) == 1
        for image in re.findall(r"<img\b[^>]*>", text):
            assert re.search(r'alt="[^"]{8,}"', image), image[:200]
        assert page.stat().st_size < 3_000_000


def test_pages_open_in_a_browser(swept, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        pytest.skip("no chromium on this machine: install Debian's package to run the browser tests")
    out, _ = swept
    for page in (out / "index.html", out / "synthetic/mobilenet_v2/acol.html"):
        picture = tmp_path / "page.png"
        command = [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(
                f"--user-data-dir={tmp_path / 'profile'}",
                "--window-size=1200,1600",
                f"--screenshot={picture}",
                page.as_uri(),
            ),
        ]
        subprocess.run(command, capture_output=True, timeout=120, check=True)
        assert picture.stat().st_size > 20_000, "the page is not blank"


def test_a_second_run_computes_nothing_and_a_change_only_what_is_stale(swept):
    out, _ = swept
    command = [*COMMAND, "--backbones", "mobilenet_v2", "--methods", "cam,acol,score_cam", "--out", str(out)]
    before = {p: p.stat().st_mtime_ns for p in out.rglob("metrics.json")}
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "5 of 5 runs are up to date" in done.stdout
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("metrics.json")}
    command[command.index("score_cam=4")] = "score_cam=5"
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "4 of 5 runs are up to date" in done.stdout
    changed = [p for p in before if p.stat().st_mtime_ns != before[p]]
    assert [p.parent.name for p in changed] == ["score_cam"]
    assert rows(out)["mobilenet_v2", "score_cam"]["n_images"] == "5"


# -- the machinery, with notebooks of one cell ------------------------------------------------------------------------


def test_rows_have_reports_and_numbers_of_their_own(swept, one_thread):
    import numpy as np

    import wsolkit as wk

    out, _ = swept
    methods = "grad_cam[eigen+aug],layer_cam[layer=features.10]"
    command = [*COMMAND, "--backbones", "mobilenet_v2", "--methods", methods, "--out", str(out)]
    place = command.index("score_cam=4")
    del command[place - 1 : place + 1]  # a limit for a method that is not asked for is an error
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    run = wk.Run.start(backbone="mobilenet_v2", per_class=2, epochs=1, size=48, width=0.125, limit=16, out=str(out))
    measured, asked = (
        rows(out),
        {"grad_cam[eigen+aug]": {"smooth": ("eigen", "aug")}, "layer_cam[layer=features.10]": {}},
    )
    for name, more in asked.items():
        method = name.partition("[")[0]
        more |= {} if method == "grad_cam" else {"layer": "body.features.10"}
        result = wk.evaluate(run.model("gap"), run.dataset("test"), method, run.dataset("val"), limit=16, **more)
        line = measured["mobilenet_v2", name]
        assert line["status"] == "completed" and line["n_images"] == "16"
        slug = name.rstrip("]").replace("[", "_").replace("+", "_").replace("=", "_")
        folder = out / "runs/synthetic/mobilenet_v2" / slug
        with np.load(maps_of(folder)["test"], allow_pickle=False) as kept:
            assert np.allclose(kept["maps"], result.maps["test"].maps, atol=1e-5 * np.abs(kept["maps"]).max() + 1e-9)
        for metric in ("gt_known_loc", "top1_loc", "max_box_acc_v2", "pxap"):
            assert float(line[metric]) == pytest.approx(getattr(result, metric), abs=1e-3), (name, metric)
        assert (out / f"synthetic/mobilenet_v2/{slug}.html").is_file()
    assert (
        measured["mobilenet_v2", "grad_cam[eigen+aug]"]["pxap"]
        != measured["mobilenet_v2", "layer_cam[layer=features.10]"]["pxap"]
    )
    assert "grad_cam[eigen+aug]" in (out / "synthetic/mobilenet_v2/grad_cam_eigen_aug.html").read_text()


def test_one_failure_does_not_stop_the_others(tmp_path, monkeypatch):
    jobs = [
        tiny_job(tmp_path, "good", GOOD),
        tiny_job(tmp_path, "bad", "raise RuntimeError('the <b>roof</b> fell in')"),
        tiny_job(tmp_path, "silent", "x = 1"),
        tiny_job(tmp_path, "killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        tiny_job(tmp_path, "after", GOOD, needs=("bad",)),
        tiny_job(tmp_path, "late", GOOD, needs=("good",)),
        tiny_job(tmp_path, "walled", GOOD),
    ]
    jobs[0].folder.parent.mkdir(parents=True)
    jobs[-1].folder.touch()  # a file where its folder should be: not even its failure can be noted
    said = []
    pages = []
    monkeypatch.setattr("wsolkit.sweep.scheduler.PAUSE", 3600)
    errors = Sweep(jobs, 2, said.append, index=lambda: pages.append([job.done.exists() for job in jobs])).run()
    assert set(errors) == {"bad", "silent", "killed", "after", "walled"}
    assert len(said) == 7, "one line for each run, and no status line where there is no terminal"
    assert len(pages) == 1 and not all(pages[0]), "the index grows meanwhile, but is not written all the time"
    assert errors["bad"] == "RuntimeError: the <b>roof</b> fell in"
    assert "without writing metrics.json" in errors["silent"]
    assert errors["after"].startswith("not run, because bad failed")
    assert "File exists" in errors["walled"]
    assert len([line for line in said if line.startswith("[")]) == 7
    for name in ("bad", "silent", "killed"):
        assert json.loads((tmp_path / f"runs/d/b/{name}/failure.json").read_text())["status"] == "failed"
        assert (tmp_path / f"runs/d/b/{name}/log.txt").exists()
    assert "&lt;b&gt;roof" in (tmp_path / "d/b/bad.html").read_text()
    assert jobs[0].fresh() and not jobs[1].fresh()


def test_interrupt_stops_scheduling_and_lets_the_running_job_end(tmp_path):
    jobs = [tiny_job(tmp_path, "first", "import time; time.sleep(3)\n" + GOOD), tiny_job(tmp_path, "second", GOOD)]
    sweep = Sweep(jobs, workers=1, say=lambda line: None)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    signal.setitimer(signal.ITIMER_REAL, 3.0)
    errors = sweep.run()
    assert not errors and sweep.interrupts
    assert jobs[0].fresh() and "second" not in sweep.outcome


def test_second_interrupt_kills(tmp_path):
    sweep = Sweep([tiny_job(tmp_path, "endless", "import time; time.sleep(600)")], workers=1, say=lambda line: None)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    signal.setitimer(signal.ITIMER_REAL, 3.0, 1.0)
    begin = time.time()
    try:
        errors = sweep.run()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert time.time() - begin < 30 and not errors and sweep.outcome["endless"] == "interrupted"
    assert not list(tmp_path.rglob("failure.json")), "a run that was stopped is not a failed one"


def test_sigterm_ends_a_sweep_with_its_runs(tmp_path):
    options = {
        "per-class": 2,
        "classes": 2,
        "size": 32,
        "width": 0.125,
        "epochs": 500,
        "backbones": "resnet18",
        "methods": "cam",
    }
    words = [word for name, value in (options | {"out": tmp_path}).items() for word in (f"--{name}", str(value))]
    sweep = subprocess.Popen([sys.executable, "-m", "wsolkit", "sweep", *words])
    (folder,) = until(lambda: [path.parent for path in tmp_path.rglob("executions.jsonl")])
    sweep.terminate()
    assert sweep.wait(timeout=300) == 143
    assert [event.get("outcome") for event in events(folder)] == [None, "stopped by the sweep"]
    assert not list(tmp_path.rglob(".lock")) and not list(tmp_path.rglob("failure.json"))


def test_plan_orders_trainings_before_reports(tmp_path):
    methods = ("cam", "rethinking_cam", "grad_cam++")
    grid = SweepFile.make(out=str(tmp_path), backbones=("vgg16", "vgg16_fc"), methods=methods, limits={"grad_cam++": 7})
    jobs, impossible = grid.plan()
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names) == 3 + 2 + 1 + 1
    assert [job.config["method"] for job in impossible] == ["cam", "rethinking_cam"]
    for job in jobs:
        assert all(names.index(need) < names.index(job.name) for need in job.needs)
    tap = next(job for job in jobs if job.name.endswith("train tap"))
    assert tap.needs == ("synthetic/vgg16/train gap",), "from scratch, TAP starts from the GAP network"
    assert all(job.parameters["limit"] == (7 if "++" in job.name else 0) for job in jobs)
    grid = SweepFile.make(weights="imagenet", out=str(tmp_path), backbones=("resnet18",), methods=("rethinking_cam",))
    assert all(not job.needs for job in grid.plan()[0] if "train" in job.name)


def test_two_sweeps_do_not_write_into_one_folder(tmp_path):
    from filelock import FileLock

    (tmp_path / "runs/synthetic").mkdir(parents=True)
    with (
        FileLock(str(tmp_path / "runs/synthetic/.lock")),
        pytest.raises(ValueError, match="another sweep of synthetic"),
    ):
        run_grids([SweepFile.make(out=str(tmp_path), backbones=("resnet18",), methods=("cam",))])


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--dataset", "cub", "--root", "absent-folder", "--weights", "none"], "absent-folder"),
        (["--methods", "magic_cam"], "magic_cam"),
        (["--backbones", "vgg99"], "unknown backbone 'vgg99'"),
        (["--limit", "cam=none"], "--limit cam=none"),
        (["--limit", "layer_cam=3"], "not among the methods"),
        (["--classes", "dodo,scarlet-billed finch"], "class 'dodo'"),
        (["--weights", "absent.pth"], "absent.pth"),
        (["--methods", ","], "methods must be a list of names with at least one entry"),
        (["--schedule", "magic"], "'magic' is not one of 'step', 'cosine'"),
        (["--epochs", "-1"], "epochs must be at least 1"),
        (["--device", "nowhere"], "unknown device 'nowhere'"),
        (["--val-share", "1.5"], "val_share must be greater than 0 and less than 1"),
        (["--lr-steps", "a,b"], "lr_steps"),
    ],
)
def test_wrong_arguments_end_with_one_line_and_no_files(tmp_path, monkeypatch, capsys, arguments, message):
    from wsolkit.cli.main import main

    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wsolkit", "sweep", "--out", str(out), *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 2 and message in said.err
    assert len(said.err.strip().splitlines()) == 1 and not said.out
    assert not out.exists()
