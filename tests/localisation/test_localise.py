"""`wsolkit localise`: two gloo processes write the bits of one, an interrupted run goes on, foreign parts are not used."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small_jobs import until

import wsolkit as wk
from wsolkit.cli.predict import localise as command
from wsolkit.common.files import alone
from wsolkit.localisation import localise as sharding
from wsolkit.localisation.localise import Parts, localise_in_parts

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A training run of one epoch on birds."""
    run = wk.Run.start(
        dataset="synthetic", backbone="resnet18", width=0.125, classes=2, per_class=4, size=32, epochs=1, batch_size=4,
        out=str(tmp_path_factory.mktemp("reports")), device="cpu",
    )  # fmt: skip
    run.model("gap")
    return run.config.training_folder("gap")


@pytest.fixture(scope="module")
def birds():
    return wk.load_dataset("synthetic", "test", size=32, classes=2, per_class=4)


def invoke(*arguments):
    done = CliRunner().invoke(command, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit | ValueError | OSError):
        raise done.exception
    return done.exit_code, done.output, str(done.exception)


def started(*words) -> subprocess.Popen:
    """A Python process whose gloo group is on loopback."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": loopback}
    command = [sys.executable, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def same(a: wk.ScoreMaps, b: wk.ScoreMaps) -> bool:
    arrays = ("labels", "logits", "maps")
    return a.ids == b.ids and all(np.array_equal(getattr(a, name), getattr(b, name)) for name in arrays)


def test_two_processes_share_the_work_and_write_the_bits_of_one(training, birds, tmp_path):
    """All images, where the shares are uneven and the last batch is smaller, and fewer images than processes."""
    assert len(birds) % 3 and (-(-len(birds) // 3)) % 2
    common = ["--checkpoint", training, "--method", "cam,grad_cam", "--device", "cpu", "--batch-size", 3]
    code, output, error = invoke(*common, "--out", tmp_path / "one")
    assert code == 0, output + error
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "wsolkit", "localise"]
    for name, more in (("many", []), ("few", ["--limit", 1])):
        process = started(*torchrun, *common, "--out", tmp_path / name, *more)
        said, _ = process.communicate(timeout=1500)
        assert process.returncode == 0, said
        assert said.count("written: ") == 2, "one process speaks"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few", "many", "one"]
    for method in ("cam", "grad_cam"):
        one, many, few = (wk.ScoreMaps.load(tmp_path / name / f"{method}.npz") for name in ("one", "many", "few"))
        assert same(one, many) and many.ids == [sample.id for sample in birds.samples]
        results = [_scored(maps, birds) for maps in (one, many)]
        assert results[0] == results[1] and results[0]["n_images"] == len(birds)
        assert len(few) == 1 and few.ids[0] in many.ids
        assert np.allclose(few.maps[0], many.maps[many.ids.index(few.ids[0])], atol=1e-5)


def _scored(maps: wk.ScoreMaps, dataset) -> dict:
    boxes = [dataset.target(i).boxes.numpy() for i in range(len(dataset))]
    result = wk.score(wk.Maps(maps.maps, maps.ids, maps.logits), wk.Truth(32, maps.labels, boxes)).to_dict()
    return {name: value for name, value in result.items() if "seconds" not in name and "memory" not in name}


def test_an_interrupted_run_goes_on(training, birds, tmp_path):
    """SIGKILL in the middle of a slow method; what was finished is not made again."""
    model, _ = wk.load_checkpoint(training / "best.pt")
    whole = wk.localise(model, birds, "score_cam", batch_size=1)
    out = tmp_path / "maps.npz"
    options = ["--checkpoint", training, "--method", "score_cam", "--device", "cpu", "--batch-size", 1, "--out", out]
    process = started("-m", "wsolkit", "localise", *options)
    parts = tmp_path / "maps.npz.parts"
    until(lambda: list(parts.rglob("part-*.npz")), 1500)
    process.send_signal(signal.SIGSTOP)
    kept = {path: path.stat().st_mtime_ns for path in parts.rglob("part-*.npz")}
    process.kill()
    process.communicate()
    if out.exists():
        pytest.skip("the run was faster than the one who wanted to kill it")
    seen = {}
    real = Parts.merged

    def merged(self):
        seen.update({path: path.stat().st_mtime_ns for path in self.folder.glob("part-*.npz")})
        return real(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parts, "merged", merged)
        code, output, error = invoke(*options)
    assert code == 0, output + error
    assert kept.items() <= seen.items() and not parts.exists()
    found = wk.ScoreMaps.load(out)
    assert found.ids == whole.ids and np.array_equal(found.logits, whole.logits)
    assert np.abs(found.maps - whole.maps).max() < 1e-5 * np.abs(whole.maps).max()


def test_only_parts_of_the_same_localisation_are_used(training, birds, tmp_path):
    model, _ = wk.load_checkpoint(training / "best.pt")
    expected = wk.localise(model, birds, "cam", batch_size=4)

    def run(identity, methods=("cam",), batch_size=4):
        counted = []
        found = localise_in_parts(
            model, birds, methods, tmp_path, identity, batch_size=batch_size, progress=lambda done, total: counted.append(total)
        )  # fmt: skip
        return found["cam"], counted[0] if counted else 0

    n = len(birds)
    found, made = run({"weights": "a"})
    assert made == n and same(found, expected)
    assert run({"weights": "a"})[1] == 0, "all parts are there"
    assert run({"weights": "b"})[1] == n and run({"weights": "b"}, ("cam", "grad_cam"))[1] == n
    assert run({"weights": "b"}, batch_size=5)[1] == n, "other batches, other bits"
    assert run({"weights": "a"})[1] == 0, "those of others are left alone"
    parts = sorted(tmp_path.glob(f"{Parts(tmp_path, {'weights': 'a'}, birds, np.arange(n), ['cam'], 4).identity}/*"))
    parts[0].write_bytes(parts[0].read_bytes()[:-40])  # torn
    found, made = run({"weights": "a"})
    assert 0 < made <= n and same(found, expected)
    other = birds.subset(range(n))
    other.samples = [dataclasses.replace(sample, label=1 - sample.label) for sample in other.samples]
    (held,) = {Parts(tmp_path, {}, birds, np.arange(n), ["cam"], 4).identity for _ in range(2)}
    assert Parts(tmp_path, {}, other, np.arange(n), ["cam"], 4).identity != held, "maps of other labels"


def test_maps_are_not_put_together_while_parts_are_missing(training, birds, tmp_path, monkeypatch):
    model, _ = wk.load_checkpoint(training / "best.pt")
    parts = Parts(tmp_path, {}, birds, np.arange(len(birds)), ["cam"], 3)
    parts.save([0], {"cam": wk.localise(model, birds, "cam", indices=parts.batches[0])})
    monkeypatch.setattr(sharding, "LAG_SECONDS", 0.0)
    with pytest.raises(
        ValueError, match=f"parts with {len(parts.batches) - 1} of {len(parts.batches)} batches are not there"
    ):
        parts.merged()
    assert len(list(tmp_path.rglob("part-*.npz"))) == 1, "what is there is kept"


def test_one_command_at_a_time_for_one_result(training, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    common = ["--checkpoint", training, "--method", "cam", "--device", "cpu"]
    with alone("maps.npz.parts.lock"):
        code, _, error = invoke(*common, "--out", "maps.npz")
    assert code != 0 and "another localise is writing to" in error and not Path("maps.npz").exists()
    code, output, error = invoke(*common, "--out", ".")
    assert code == 0, output + error
    assert [path.name for path in tmp_path.iterdir()] == ["cam.npz"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--checkpoint", "absent.pt", "--out", "x.npz"], "absent.pt"),
        (["--checkpoint", "TRAINING", "--out", "x.npz", "--method", "cam,grad_cam"], "a folder for several"),
        (["--checkpoint", "TRAINING", "--out", "x.npz", "--method", "magic_cam"], "magic_cam"),
        (["--checkpoint", "TRAINING", "--out", "x.npz", "--classes", "3"], "knows the classes"),
        (["--checkpoint", "TRAINING", "--out", "x.npz", "--device", "nowhere"], "nowhere"),
        (["--checkpoint", "TRAINING", "--out", "FOLDER.npz"], "it is a folder"),
    ],
)
def test_wrong_arguments_are_one_error_and_no_files(training, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("FOLDER.npz").mkdir()
    code, _, error = invoke(*(str(training) if word == "TRAINING" else word for word in arguments))
    assert code != 0 and message in error and len(error.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["FOLDER.npz"]


def test_maps_of_ivr_say_which_share_they_have(training, tmp_path):
    common = ["--checkpoint", training, "--device", "cpu", "--limit", 2, "--out", tmp_path / "made"]
    code, output, error = invoke(*common, "--method", "cam[ivr=val],cam[ivr=0.45]")
    assert code == 0, output + error
    assert output.count("note: ") == 1 and "no boxes choose the share of cam[ivr=val] here, so it is 0.45" in output
    chosen, given = (wk.ScoreMaps.load(tmp_path / f"made/cam_ivr_{share}.npz") for share in ("val", "0.45"))
    assert same(chosen, given) and (chosen.maps == 0).any()
