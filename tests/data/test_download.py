"""Downloads against a server on this machine: resume, wrong files, interruptions, unsafe archives. No network."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from torchvision.datasets import OxfordIIITPet

from wsolkit.common.errors import WsolkitError
from wsolkit.data import download
from wsolkit.data.catalogue import DATASETS, Archive
from wsolkit.data.download import DownloadError, fetch, fetch_dataset, part_of

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(download, "PAUSE", 0.01)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it is kept, with the proxies of when it was made


class Server:
    """Serves one body; `plan` holds one word per request (the last one is repeated) that says how to misbehave."""

    def __init__(self, body: bytes, *plan: str):
        self.body, self.plan, self.ranges = body, list(plan) or ["ranges"], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/file"

    def answer(self, request):
        mode = self.plan.pop(0) if len(self.plan) > 1 else self.plan[0]
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        self.ranges.append(int(wanted[1]) if wanted else None)
        if mode.isdecimal():
            return request.send_error(int(mode))
        if mode.startswith("to:"):
            request.send_response(302)
            request.send_header("Location", mode[3:])
            return request.end_headers()
        start = int(wanted[1]) if wanted and mode != "no ranges" else 0
        body = self.body[start:]
        request.send_response(206 if start else 200)
        if start:
            shown = 0 if mode == "wrong range" else start
            request.send_header("Content-Range", f"bytes {shown}-{len(self.body) - 1}/{len(self.body)}")
        if mode != "endless":
            request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if mode == "drop":  # the connection ends in the middle of the file
            body = body[: max(1, len(body) // 2)]
        try:
            if mode == "slow":
                for at in range(0, len(body), 1000):
                    request.wfile.write(body[at : at + 1000])
                    time.sleep(0.02)
            elif mode == "endless":
                request.wfile.write(body * 3)
            else:
                request.wfile.write(body)
        except OSError:  # the other side has gone
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def make_tgz(members: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as packed:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
        for info in extra:
            packed.addfile(info)
    return buffer.getvalue()


def make_zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return buffer.getvalue()


NOISE = bytes((i * i * 7 + i // 3) % 251 for i in range(60_000))
BODY = make_zip({"birds/images.txt": b"1 a.jpg\n", "birds/images/a.jpg": NOISE, "notes.txt": b"beside the folder"})


def archive(body: bytes = BODY, **changes) -> Archive:
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    base = Archive("birds.zip", "http://127.0.0.1:9/x", len(body), md5, "birds", ("images.txt",))
    return replace(base, **changes)


def half_done(root: Path, content: bytes) -> Path:
    """An unfinished download."""
    part = part_of(root, archive())
    part.parent.mkdir()
    part.write_bytes(content)
    return part


def check(folder: Path):
    assert (folder / "images.txt").read_bytes() == b"1 a.jpg\n"
    assert (folder / "images" / "a.jpg").read_bytes() == NOISE
    assert sorted(p.name for p in folder.parent.iterdir()) == ["birds", "birds.zip"]


def test_fetches_unpacks_and_then_does_nothing(tmp_path, capsys):
    with Server(BODY) as server:
        folder = fetch(archive(), tmp_path / "new" / "data", server.url)
        assert folder == tmp_path / "new" / "data" / "birds"
        check(folder)
        assert "100%" in capsys.readouterr().err
        assert fetch(archive(), folder.parent, server.url) == folder
        assert fetch(archive(), folder, server.url) == folder  # the dataset folder itself as root
        assert "nothing to fetch" in capsys.readouterr().out
        assert server.ranges == [None]


def test_tar_too(tmp_path):
    body = make_tgz({"./birds/images.txt": b"1 a.jpg\n", "birds/images/a.jpg": NOISE})
    with Server(body) as server:
        check(fetch(archive(body, name="birds.zip"), tmp_path, server.url))


def test_resumes_where_it_stopped(tmp_path):
    half_done(tmp_path, BODY[:1234])
    with Server(BODY) as server:
        check(fetch(archive(), tmp_path, server.url))
        assert server.ranges == [1234]


@pytest.mark.parametrize(
    "plan", [("drop", "drop", "503", "ranges"), ("drop", "no ranges"), ("drop", "wrong range", "ranges")]
)
def test_dropped_connections_and_servers_without_ranges(tmp_path, plan):
    with Server(BODY, *plan) as server:
        check(fetch(archive(), tmp_path, server.url))
        assert server.ranges[1] > 0
        assert server.ranges[0] is None


def test_part_longer_than_the_file_is_dropped(tmp_path):
    half_done(tmp_path, BODY + b"more")
    with Server(BODY) as server:
        check(fetch(archive(), tmp_path, server.url))


def test_416_begins_anew(tmp_path):
    half_done(tmp_path, b"x" * 10)
    with Server(BODY, "416", "ranges") as server:
        check(fetch(archive(), tmp_path, server.url))
        assert server.ranges == [10, None]


def test_wrong_checksum_is_deleted_and_named(tmp_path):
    half_done(tmp_path, b"x" * 1000)  # the beginning of another file
    with Server(BODY) as server:
        with pytest.raises(DownloadError, match=r"MD5 .*expected md5:[0-9a-f]{32} but got [0-9a-f]{32}. Deleted"):
            fetch(archive(), tmp_path, server.url)
        assert list(tmp_path.iterdir()) == []
        check(fetch(archive(), tmp_path, server.url))  # and the next run starts clean


@pytest.mark.parametrize(
    ("mode", "message"), [("ranges", "offers .* bytes instead of"), ("endless", "sends more than")]
)
def test_wrong_size_is_refused_at_once(tmp_path, mode, message):
    with Server(BODY, mode) as server:
        with pytest.raises(DownloadError, match=message):
            fetch(archive(size=len(BODY) - 1), tmp_path, server.url)
        assert len(server.ranges) == 1


def test_truncated_for_ever_ends_with_instructions(tmp_path):
    with Server(BODY[:500]) as server, pytest.raises(DownloadError, match="offers 500 bytes"):
        fetch(archive(), tmp_path, server.url)
    with Server(BODY, "503") as server:
        with pytest.raises(DownloadError, match="503"):
            fetch(archive(), tmp_path, server.url)
        assert len(server.ranges) == download.TRIES
    with Server(BODY, "404") as server:
        with pytest.raises(DownloadError, match="404"):
            fetch(archive(), tmp_path, server.url)
        assert len(server.ranges) == 1


def test_no_network_says_what_to_fetch_where_to_put_it_and_what_to_run(tmp_path):
    root = tmp_path / "my data"
    with pytest.raises(DownloadError) as caught:
        fetch(archive(), root)
    message = str(caught.value)
    assert "http://127.0.0.1:9/x" in message
    assert str(root / "birds.zip") in message
    assert f"wsolkit data cub --root '{root}'" in message


def test_archive_placed_by_hand(tmp_path):
    (tmp_path / "birds.zip").write_bytes(BODY)
    check(fetch(archive(), tmp_path))  # its address leads nowhere


def test_wrong_archive_placed_by_hand_is_kept_and_named(tmp_path):
    (tmp_path / "birds.zip").write_bytes(b"something else")
    with pytest.raises(
        DownloadError, match=r"birds\.zip is not the expected archive: its MD5 is [0-9a-f]{32} instead of"
    ):
        fetch(archive(), tmp_path)
    assert (tmp_path / "birds.zip").read_bytes() == b"something else"


def test_incomplete_folder_of_somebody_is_left_alone(tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "mine.txt").write_text("precious")
    with pytest.raises(DownloadError, match=r"lacks images\.txt; move that folder away"):
        fetch(archive(), tmp_path)
    assert (tmp_path / "birds" / "mine.txt").read_text() == "precious"


def test_interrupted_unpacking_starts_over(tmp_path):
    (tmp_path / "birds.zip").write_bytes(BODY)
    left = tmp_path / ".birds.unpacking" / "birds"
    left.mkdir(parents=True)
    (left / "stale.txt").write_text("half")
    folder = fetch(archive(), tmp_path)
    check(folder)
    assert not (folder / "stale.txt").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_download_is_resumed(tmp_path):
    script = (
        "from wsolkit.data.catalogue import Archive as A; from wsolkit.data.download import fetch; import sys;"
        f"fetch(A('birds.zip', sys.argv[1], {len(BODY)}, '{archive().md5}', 'birds'), sys.argv[2])"
    )
    part = part_of(tmp_path, archive())
    with Server(BODY, "slow", "ranges") as server:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen([sys.executable, "-c", script, server.url, str(tmp_path)], env=environment)
        try:
            deadline = time.monotonic() + 60
            while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
                time.sleep(0.005)
            with pytest.raises(WsolkitError, match="in use by another process"):
                fetch(archive(), tmp_path, server.url)
        finally:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        here = part.stat().st_size
        assert 0 < here < len(BODY)
        check(fetch(archive(), tmp_path, server.url))
        assert server.ranges == [None, here]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk(tmp_path):
    half_done(tmp_path, b"").unlink()
    part_of(tmp_path, archive()).symlink_to("/dev/full")
    with Server(BODY) as server, pytest.raises(DownloadError, match=r"disk of .* is full"):
        fetch(archive(), tmp_path, server.url)


def test_too_little_room_is_said_before_the_download(tmp_path):
    with Server(BODY) as server:
        with pytest.raises(DownloadError, match=r"full .*bytes are needed"):
            fetch(archive(size=2**60), tmp_path, server.url)
        assert server.ranges == []


def test_root_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"cannot write in .*--root"):
        fetch(archive(), tmp_path / "file" / "data")
    if os.name != "nt" and os.geteuid() != 0:
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(DownloadError, match="Permission denied"):
                fetch(archive(), tmp_path)
        finally:
            tmp_path.chmod(0o700)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,x", "birds.zip", "http:///x"])
def test_only_http(tmp_path, url):
    with pytest.raises(ValueError, match="not an http or https address"):
        fetch_dataset("cub", tmp_path, url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["file:///etc/hostname", "ftp://127.0.0.1:9/x"])
def test_redirects_only_to_http(tmp_path, place):
    with Server(BODY, f"to:{place}") as server, pytest.raises(DownloadError, match="No connection adapters"):
        fetch(archive(), tmp_path, server.url)


def test_redirects_are_followed(tmp_path):
    with Server(BODY) as good, Server(BODY, f"to:{good.url}") as first:
        check(fetch(archive(), tmp_path, first.url))


def test_torchvision_fetches_oxford_pets(tmp_path, monkeypatch, capsys):
    """From a server on this machine; a wrong archive and a lost connection leave nothing under the folder's name."""
    members = dict.fromkeys(("images/cat_1.jpg", "annotations/trimaps/cat_1.png"), b"x")
    members |= {f"annotations/{part}.txt": b"cat_1 1 1 1\n" for part in ("trainval", "test")}
    bodies = [make_tgz({name: data for name, data in members.items() if name.startswith(start)}) for start in "ia"]
    with Server(bodies[0]) as images, Server(bodies[1], "404", "ranges") as annotations:
        served = [(f"{server.url}.tar.gz", hashlib.md5(server.body).hexdigest()) for server in (images, annotations)]
        for resources in ([(served[0][0], "0" * 32)], served):
            monkeypatch.setattr(OxfordIIITPet, "_RESOURCES", resources)
            with pytest.raises(DownloadError, match=r"torchvision could not fetch oxford-iiit-pet \(.*run again later"):
                fetch_dataset("oxford_pets", tmp_path)
            assert not list(tmp_path.iterdir())
        place = fetch_dataset("oxford_pets", tmp_path)
    assert place == tmp_path / "oxford-iiit-pet" and all((place / name).is_file() for name in members)
    assert fetch_dataset("oxford_pets", place) == place and "nothing to fetch" in capsys.readouterr().out
    with pytest.raises(WsolkitError, match="torchvision fetches oxford_pets from its own address; leave out --url"):
        fetch_dataset("oxford_pets", tmp_path, "http://127.0.0.1/x")


def test_names():
    with pytest.raises(ValueError, match="'synthetic' has nothing to fetch; choose from cub, tiny_imagenet"):
        fetch_dataset("synthetic", ".")
    for known in filter(None, (entry.archive for entry in DATASETS.values())):
        assert bool(re.fullmatch("[0-9a-f]{32}", known.md5)) != bool(known.torchvision)  # which knows checksums itself
        assert known.size > 2**20


def entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zip_entry(name: str, mode: int) -> bytes:
    buffer = io.BytesIO()
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(info, "/etc/passwd")
    return buffer.getvalue()


EVIL = {
    "tar dots": make_tgz({"birds/../../out.txt": b"x"}),
    "tar absolute": make_tgz({"/tmp/wsolkit-evil.txt": b"x"}),
    "tar backslash": make_tgz({"birds\\..\\..\\out.txt": b"x"}),
    "tar drive": make_tgz({"C:/out.txt": b"x"}),
    "tar symlink": make_tgz({}, entry("birds/link", tarfile.SYMTYPE, "../../out")),
    "tar symlink inside": make_tgz({}, entry("birds/link", tarfile.SYMTYPE, "images.txt")),
    "tar hard link": make_tgz({}, entry("birds/link", tarfile.LNKTYPE, "/etc/passwd")),
    "tar device": make_tgz({}, entry("birds/null", tarfile.CHRTYPE)),
    "tar fifo": make_tgz({}, entry("birds/pipe", tarfile.FIFOTYPE)),
    "zip dots": make_zip({"birds/../../out.txt": b"x"}),
    "zip absolute": make_zip({"/tmp/wsolkit-evil.txt": b"x"}),
    "zip symlink": zip_entry("birds/link", 0o120777),
    "zip device": zip_entry("birds/null", 0o020666),
}


@pytest.mark.parametrize("case", EVIL)
def test_unsafe_members_are_refused(tmp_path, case):
    root = tmp_path / "deep" / "root"
    with Server(EVIL[case]) as server, pytest.raises(DownloadError, match="cannot be unpacked"):
        fetch(archive(EVIL[case]), root, server.url)
    assert [p.name for p in root.iterdir()] == ["birds.zip"]
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
    assert not Path("/tmp/wsolkit-evil.txt").exists()


@pytest.mark.parametrize("kind", ["tgz", "zip"])
def test_damaged_archive_or_without_the_folder(tmp_path, kind):
    whole = make_tgz({"birds/a": NOISE}) if kind == "tgz" else BODY
    body = whole[: len(whole) // 2]
    with Server(body) as server, pytest.raises(DownloadError, match="cannot be unpacked"):
        fetch(archive(body), tmp_path, server.url)
    other = make_tgz({"other/a": b"x"}) if kind == "tgz" else make_zip({"other/a": b"x"})
    (tmp_path / "birds.zip").write_bytes(other)
    with pytest.raises(DownloadError, match=r"lacks images\.txt"):
        fetch(archive(other), tmp_path)
    assert not (tmp_path / "birds").exists()
