"""Decoded pixels on disk: made once, recognised, made again when anything changed, never half."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock
from PIL import Image

from wsolkit.cli.main import cli
from wsolkit.data import decoded as module
from wsolkit.data.base import Geometry, WSOLDataset
from wsolkit.data.catalogue import load_dataset
from wsolkit.data.images import Sample

COUNT, SIDE = 40, 18  # 18 is 256/224 of 16
PROGRAM = """
import sys, time
from pathlib import Path
import wsolkit.data.decoded as decoded
from wsolkit.data.base import WSOLDataset
from wsolkit.data.decoded import DecodedPixels
from wsolkit.data.base import Geometry
from wsolkit.data.images import Sample
from zlib import crc32

decoded.SMALL_BYTES = 0
folder, count, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
samples = [Sample(f"{i}.png", i % 2, (), folder / f"{i}.png") for i in range(count)]
dataset = WSOLDataset("made", "train", ["a", "b"], samples, Geometry(16))
write, row = DecodedPixels._write, DecodedPixels._row
DecodedPixels._write = lambda self, path: print("building", flush=True) or write(self, path)
if mode == "slow":
    DecodedPixels._row = lambda self, sample: time.sleep(0.03) or row(self, sample)
if mode == "full":  # no file may grow beyond 20 kB, which is what a full disk looks like to a writer
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
print("ready", flush=True)
sys.stdin.readline()
dataset.prepare(18)
print(crc32(dataset.pixels(range(count), 18)), dataset.decoded(18).file is not None, flush=True)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("wsolkit.data.decoded.SMALL_BYTES", 0)
    monkeypatch.setenv("WSOLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def paint(path, seed):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (21, 30, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(COUNT):
        paint(folder / f"{i}.png", i)
    return folder


def dataset_of(folder, count=COUNT):
    samples = [Sample(f"{i}.png", i % 2, (), folder / f"{i}.png") for i in range(count)]
    return WSOLDataset("made", "train", ["a", "b"], samples, Geometry(16))


def decoded(folder, count=COUNT, side=SIDE):
    """What the file must hold."""
    images = [Image.open(folder / f"{i}.png").convert("RGB").resize((side, side), Image.BILINEAR) for i in range(count)]
    return np.stack([np.asarray(image) for image in images])


def files(cache):
    return sorted(path.name for path in cache.glob("*/*"))


def start(pictures, cache, mode="", count=COUNT):
    command = [sys.executable, "-c", PROGRAM, str(pictures), str(count), mode]
    environment = os.environ | {"WSOLKIT_CACHE": str(cache.parent), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == "ready\n", process.stderr.read()
    return process


# --- made once --------------------------------------------------------------------------------------------------------


def test_a_file_is_made_and_later_read_without_the_images(cache, pictures, monkeypatch):
    first = dataset_of(pictures)
    expected = decoded(pictures)
    batches = list(first.train_batches(8, 0, 0))
    assert [Path(name).suffix for name in files(cache)] == [".npy", ".json"]
    assert np.array_equal(first.pixels(range(COUNT), SIDE), expected)
    assert first.decoded(SIDE).memory is None, "no second copy in memory"

    def refuse(path):
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr("wsolkit.data.base.read_image", refuse)
    second = dataset_of(pictures)
    assert np.array_equal(second.pixels([3, 0, 3, -1], SIDE), expected[[3, 0, 3, -1]])
    for (images, labels), (again, labels_again) in zip(batches, second.train_batches(8, 0, 0), strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)
    source, rows = second.decoded(SIDE).source(np.array([7, 2]))
    assert len(source) == COUNT and rows.tolist() == [7, 2] and not source.flags.writeable


def test_batches_from_a_file_equal_batches_from_memory(cache, pictures, monkeypatch):
    from_file = list(dataset_of(pictures).train_batches(7, 2, 1))
    monkeypatch.setenv("WSOLKIT_CACHE", "")
    in_memory = list(dataset_of(pictures).train_batches(7, 2, 1))
    assert all(
        torch.equal(a, b) for one, two in zip(from_file, in_memory, strict=True) for a, b in zip(one, two, strict=True)
    )


def test_a_look_at_a_few_images_does_not_decode_all(cache, pictures):
    dataset = dataset_of(pictures)
    expected = decoded(pictures, side=16)
    assert np.array_equal(dataset.pixels(range(9), 16), expected[:9])
    assert files(cache) == []
    assert np.array_equal(dataset.pixels(range(20, 29), 16), expected[20:29])  # a quarter
    assert len(files(cache)) == 2


def test_small_drawn_and_switched_off(cache, pictures, monkeypatch):
    birds = load_dataset("synthetic", "train", per_class=1, size=32)
    list(birds.train_batches(8, 0, 0))
    assert birds.decoded(birds.geometry.enlarged).memory is not None
    monkeypatch.setenv("WSOLKIT_CACHE", "")
    off = dataset_of(pictures)
    assert np.array_equal(off.pixels(range(COUNT), SIDE), decoded(pictures))
    monkeypatch.setenv("WSOLKIT_CACHE", str(cache.parent))
    monkeypatch.setattr("wsolkit.data.decoded.SMALL_BYTES", COUNT * SIDE * SIDE * 3)
    small = dataset_of(pictures)
    small.prepare(SIDE)
    assert np.array_equal(small.pixels(range(COUNT), SIDE), off.pixels(range(COUNT), SIDE))
    assert not cache.exists()


def test_the_folder_of_the_cache(monkeypatch, tmp_path):
    from wsolkit.data.decoded import cache_folder

    monkeypatch.delenv("WSOLKIT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "wsolkit" / "decoded"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "wsolkit" / "decoded"
    monkeypatch.setenv("WSOLKIT_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "decoded"
    monkeypatch.setenv("WSOLKIT_CACHE", "")
    assert cache_folder() is None


# --- made again -------------------------------------------------------------------------------------------------------


def test_changed_images_are_decoded_again(cache, pictures):
    dataset_of(pictures).prepare(SIDE)
    before = files(cache)
    paint(pictures / "11.png", 999)
    changed = dataset_of(pictures)
    assert np.array_equal(changed.pixels(range(COUNT), SIDE), decoded(pictures))
    after = files(cache)
    assert len(after) == 2 and after != before, "the old file is replaced"
    os.utime(pictures / "12.png", ns=(1, 1))
    dataset_of(pictures).prepare(SIDE)
    assert len(files(cache)) == 2 and files(cache) != after


def test_other_images_and_other_sides_have_their_own_file(cache, pictures):
    dataset_of(pictures).prepare(SIDE)
    dataset_of(pictures).prepare(16)
    dataset_of(pictures, 30).prepare(SIDE)
    assert len(files(cache)) == 6
    assert np.array_equal(dataset_of(pictures, 30).pixels(range(30), SIDE), decoded(pictures, 30))


def damage(cache, how):
    (pixels,) = cache.glob("*/*.npy")
    (about,) = cache.glob("*/pixels.json")
    content = json.loads(about.read_text())
    if how == "truncated":
        os.truncate(pixels, pixels.stat().st_size // 2)
    elif how == "empty":
        pixels.write_bytes(b"")
    elif how == "no array":
        pixels.write_bytes(os.urandom(pixels.stat().st_size))
    elif how == "a hole":
        with open(pixels, "rb+") as file:
            file.seek(pixels.stat().st_size // 2)
            file.write(bytes(3 * SIDE * SIDE * 3))
    elif how == "gone":
        pixels.unlink()
    elif how == "of another shape":
        np.save(pixels, np.zeros((COUNT, SIDE, SIDE, 1), np.uint8))
    elif how == "pickled":
        np.save(pixels, np.array([{}], dtype=object), allow_pickle=True)
    elif how == "json gone":
        about.unlink()
    elif how == "json truncated":
        about.write_text(about.read_text()[:50])
    elif how == "json foreign":
        about.write_text("[1, 2]")
    else:
        content[how] = 0
        about.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "how",
    ["truncated", "empty", "no array", "a hole", "gone", "of another shape", "pickled", "json gone", "json truncated",
     "json foreign", "format", "identity", "checksums"],
)  # fmt: skip
def test_a_damaged_file_is_made_again(cache, pictures, how):
    expected = decoded(pictures)
    dataset_of(pictures).prepare(SIDE)
    damage(cache, how)
    mended = dataset_of(pictures)
    assert np.array_equal(mended.pixels(range(COUNT), SIDE), expected)
    again = dataset_of(pictures)
    assert again.decoded(SIDE).whole() is not None, "and is whole afterwards"
    assert np.array_equal(again.pixels(range(COUNT), SIDE), expected)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_all_unreadable_images_are_named_in_one_error(cache, pictures):
    (pictures / "3.png").write_bytes(b"no picture")
    (pictures / "17.png").unlink()
    (pictures / "39.png").write_bytes((pictures / "39.png").read_bytes()[:300])
    with pytest.raises(ValueError, match="made train: 3 of 40 images cannot be read") as caught:
        dataset_of(pictures).train_batches(8, 0, 0)
    for name in ("3.png: not a readable image", "17.png: the image is missing", "39.png: not a readable image"):
        assert f"/{name}" in str(caught.value)
    assert files(cache) == []


def test_without_room_images_are_decoded_on_demand(cache, pictures, monkeypatch):
    monkeypatch.setattr("wsolkit.data.decoded.ROOM", 2**62)
    dataset = dataset_of(pictures)
    with pytest.warns(UserWarning, match=r"made train \(it takes 0 MiB and there are \d+ MiB free\).*WSOLKIT_CACHE"):
        batches = list(dataset.train_batches(8, 0, 0))
    assert sum(len(labels) for _, labels in batches) == COUNT
    assert np.array_equal(dataset.pixels(range(COUNT), SIDE), decoded(pictures))
    assert files(cache) == []


def test_a_cache_that_cannot_be_written_to(cache, pictures):
    cache.parent.write_text("a file where the folder should be")
    dataset = dataset_of(pictures)
    with pytest.warns(UserWarning, match="images are decoded on demand"):
        dataset.prepare(SIDE)
    assert np.array_equal(dataset.pixels(range(COUNT), SIDE), decoded(pictures))


@pytest.mark.slow
def test_a_disk_that_fills_up_while_writing(cache, pictures):
    process = start(pictures, cache, "full")
    out, err = process.communicate("\n", timeout=300)
    assert process.returncode == 0, err
    assert out.split() == ["building", str(crc32(decoded(pictures))), "False"]
    assert "UserWarning" in err and "File too large" in err
    assert files(cache) == [], "nothing half-written stays"


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_make_it_once(cache, pictures):
    processes = [start(pictures, cache, "slow") for _ in range(2)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    lines = [out.split() for out, _ in outputs]
    assert sorted(len(words) for words in lines) == [2, 3], "one of them built it"
    assert lines[0][-2:] == lines[1][-2:] == [str(crc32(decoded(pictures))), "True"]


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_is_taken_for_good(cache, pictures):
    process = start(pictures, cache, "slow")
    process.stdin.write("\n")
    process.stdin.flush()
    limit = time.monotonic() + 300
    while not list(cache.glob("*/.*.part")) and time.monotonic() < limit:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was killed in the middle of its work"
    left = [path.name for path in cache.glob("*/*") if path.name != "pixels.json"]
    assert len(left) == 1 and left[0].endswith(".part")
    shown = CliRunner().invoke(cli, ["data", "cache"]).output
    assert "no usable file" in shown
    dataset = dataset_of(pictures)
    assert np.array_equal(dataset.pixels(range(COUNT), SIDE), decoded(pictures))
    assert sorted(Path(name).suffix for name in files(cache)) == [".json", ".npy"]


def test_a_copy_finds_the_file_itself(cache, pictures):
    dataset = dataset_of(pictures)
    dataset.prepare(SIDE)
    travelling = pickle.dumps(dataset)
    assert len(travelling) < 20_000, "no pixels travel"
    copy = pickle.loads(travelling)
    assert np.array_equal(copy.pixels([4], SIDE), dataset.pixels([4], SIDE))


# --- wsolkit data cache -----------------------------------------------------------------------------------------------


def test_list_and_clear(cache, pictures):
    dataset = dataset_of(pictures)
    dataset.prepare(SIDE)
    dataset_of(pictures, 30).prepare(SIDE)
    (cache / "notes").mkdir()
    (cache / "notes" / "mine.txt").write_text("no part of the cache")
    shown = CliRunner().invoke(cli, ["data", "cache"]).output
    assert f"made train, 40 images of 18 px from {pictures}" in shown
    assert "30 images" in shown and "in use" in shown
    busy = next(path for path in cache.glob("*/pixels.json") if '"images": 30' in path.read_text()).parent
    with FileLock(str(busy) + ".lock"):
        cleared = CliRunner().invoke(cli, ["data", "cache", "--clear"])
    assert cleared.exit_code == 0, cleared.output
    assert f"{busy.name}  left alone: a process is making it" in cleared.output
    assert [path.parent for path in cache.glob("*/pixels.json")] == [busy]
    assert (cache / "notes" / "mine.txt").exists()
    assert np.array_equal(dataset.pixels(range(COUNT), SIDE), decoded(pictures)), "who has it open keeps it"
    assert "removed" in CliRunner().invoke(cli, ["data", "cache", "--clear"]).output
    assert files(cache) == ["mine.txt"]
    off = CliRunner().invoke(cli, ["data", "cache"], env={"WSOLKIT_CACHE": ""})
    assert "kept in memory only" in off.output


def test_what_fits_nowhere_is_streamed_by_as_many_threads_as_cores(pictures, monkeypatch):
    """Each image waits for three others that are decoded at the same time, or fails after a minute."""
    monkeypatch.setenv("WSOLKIT_CACHE", "")
    kept, streamed = dataset_of(pictures, 8), dataset_of(pictures, 8)
    expected = list(kept.train_batches(4, 0, 0))
    assert kept.decoded(kept.geometry.enlarged).way == "from memory"
    monkeypatch.setattr(module, "MEMORY_BYTES", 0)
    monkeypatch.setattr(module, "cores", lambda: 4)
    together, load = threading.Barrier(4, timeout=60), streamed.load
    streamed.load = lambda sample: (together.wait(), load(sample))[1]
    for epoch in (0, 0):  # nothing is kept for the second
        batches = list(streamed.train_batches(4, 0, epoch))
        for (images, labels), (same, answers) in zip(batches, expected, strict=True):
            assert torch.equal(images, same) and torch.equal(labels, answers)
    assert streamed.decoded(streamed.geometry.enlarged).way == "decoded in every epoch by 4 threads"
