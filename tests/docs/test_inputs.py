"""docs/inputs.md lists what is said of wrong data wherever they enter. Here are wrong data for each of its rows.

A bad input is a good one with a change. It must raise one error whose text is that of a row of its place and names the
file or the value, and leave every file as it was.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import shutil
import struct
import sys
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.torch import save_file

import wsolkit as wk
from wsolkit.cli.main import main
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import write_json
from wsolkit.data.readers import convert
from wsolkit.training import checkpoints

PAGE = Path(__file__).resolve().parents[2] / "docs" / "inputs.md"
BOX = "2,2,12,7"
LONG = "9" * 5000
HUGE = torch.full((8, 3, 7, 7), 1e300, dtype=torch.float64)  # infinite in float32
LATIN = "caf\u00e9".encode("latin-1")
READ_ONLY = "/proc/none"  # not even root can write there
Change = Callable[[], Any]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names that other systems do not know or keep apart")


class Refused(Exception):
    """What a command said on stderr when its exit code was not 0."""


def wsolkit(*words: str, env: dict[str, str] | None = None) -> None:
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", ["wsolkit", *words])
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                main()
        except SystemExit as end:
            if end.code:
                raise Refused(said.getvalue().strip()) from None


# ------------------------------------------------------------------------------------------------ changes of good files


def put(path: str, content: str | bytes = "") -> Change:
    def change() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def swap(path: str, old: str, new: str) -> Change:
    def change() -> None:
        text = Path(path).read_text()
        assert old in text, (path, old)
        Path(path).write_text(text.replace(old, new, 1))

    return change


def gone(path: str) -> Change:
    return lambda: Path(path).unlink()


def folder(path: str) -> Change:
    def change() -> None:
        Path(path).unlink(missing_ok=True)
        Path(path).mkdir(parents=True)

    return change


def cut(path: str, size: int) -> Change:
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:size])


def array(path: str, values: Any, **options: Any) -> Change:
    def change() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            np.save(file, values, **options)

    return change


def picture(path: str, width: int = 20, height: int = 10, orientation: int = 1) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (width, height), (90, 120, 30)).save(path, exif=exif)


def noisy(path: str) -> None:
    """A mask with grey values beside its object."""
    pixels = np.zeros((10, 20), np.uint8)
    pixels[2:8, 3:9] = 255
    Image.fromarray(pixels).save(path)


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels, as its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")
    )


# ------------------------------------------------------------------------------------------------ good input


def cub() -> None:
    names = ("a", "b", "c", "d", "e", "f")
    put("cub/images.txt", "".join(f"{n} {'001.A' if n < 4 else '002.B'}/{x}.png\n" for n, x in enumerate(names, 1)))()
    put("cub/classes.txt", "1 001.A\n2 002.B\n")()
    put("cub/image_class_labels.txt", "".join(f"{n} {1 + (n > 3)}\n" for n in range(1, 7)))()
    put("cub/train_test_split.txt", "".join(f"{n} {int(n % 3 > 0)}\n" for n in range(1, 7)))()
    put("cub/bounding_boxes.txt", "".join(f"{n} 2.0 2.0 10.0 5.0\n" for n in range(1, 7)))()
    for number, name in enumerate(names):
        picture(f"cub/images/{'001.A' if number < 3 else '002.B'}/{name}.png")


def tiny() -> None:
    put("tiny/wnids.txt", "n01\nn02\n")()
    put("tiny/words.txt", "n01\tgoldfish, carp\nn02\towl\n")()
    for wnid in ("n01", "n02"):
        for number in range(2):
            picture(f"tiny/train/{wnid}/images/{wnid}_{number}.png", 64, 64)
        put(f"tiny/train/{wnid}/{wnid}_boxes.txt", "".join(f"{wnid}_{n}.png\t1\t2\t30\t40\n" for n in range(2)))()
    put("tiny/val/val_annotations.txt", "v0.png\tn01\t1\t2\t30\t40\nv1.png\tn02\t1\t2\t30\t40\n")()
    for number in range(2):
        picture(f"tiny/val/images/v{number}.png", 64, 64)


def pets() -> None:
    for part, numbers in {"trainval": range(2), "test": range(2, 4)}.items():
        put(
            f"pets/annotations/{part}.txt",
            "".join(f"{x}_{n} {1 + (x == 'dog')} 1 1\n" for x in ("cat", "dog") for n in numbers),
        )()
    for name in (f"{x}_{n}" for x in ("cat", "dog") for n in range(4)):
        picture(f"pets/images/{name}.jpg")
        Path("pets/annotations/trimaps").mkdir(exist_ok=True)
        Image.fromarray(np.full((10, 20), 1, np.uint8)).save(f"pets/annotations/trimaps/{name}.png")


def ilsvrc() -> None:
    for number, wnid in enumerate(("n01", "n02")):
        picture(f"net/train/{wnid}/{wnid}_1.JPEG")
        picture(f"net/val/v{number}.JPEG")
        put(f"net/Annotations/val/v{number}.xml", xml(f"v{number}", label=wnid))()


def metadata() -> None:
    for split, names in {"train": "abcd", "test": "ef"}.items():
        put(f"meta/{split}/image_ids.txt", "".join(f"{x}.png\n" for x in names))()
        put(f"meta/{split}/class_labels.txt", "".join(f"{x}.png,{int(x in 'cdf')}\n" for x in names))()
        put(f"meta/{split}/image_sizes.txt", "".join(f"{x}.png,20,10\n" for x in names))()
        put(f"meta/{split}/localization.txt", "".join(f"{x}.png,{BOX}\n" for x in names))()
    put("meta/classes.txt", "cat\ndog\n")()
    for name in "abcdef":
        picture(f"images/{name}.png")


def pictures() -> None:
    for name in ("cat/a", "cat/b", "cat/c", "dog/d", "dog/e", "dog/f"):
        picture(f"pictures/{name}.png")
    put("pictures/boxes.csv", "".join(f"cat/{x}.png,{BOX}\n" for x in "abc"))()


def annotated() -> None:
    pictures()
    best()()
    wsolkit(*ANNOTATE)
    decided()()


def decided(path: str = "d.json", **changes: Any) -> Change:
    """What a review page writes."""

    def change() -> None:
        run = json.loads(Path("out/annotation.json").read_text())["run"]
        decisions = {"cat/a.png": {"decision": "accepted"}}
        write_json(path, {"written_by": "wsolkit review", "run": run, "decisions": decisions} | changes)

    return change


def masks() -> None:
    metadata()
    put("meta/test/localization.txt", "e.png,e.png,\nf.png,f.png,g.png\n")()
    Path("masks").mkdir()
    for name in "efg":
        Image.fromarray(np.full((10, 20), 255, np.uint8)).save(f"masks/{name}.png")


def maps() -> None:
    metadata()
    for name in "ef":
        array(f"maps/{name}.png.npy", np.eye(7))()


def boxes() -> None:
    maps()
    put("boxes.csv", "path,x0,y0,x1,y1\ne.png,2,2,9,7\nf.png,-1,-1,-1,-1\n")()


def evaluations() -> None:
    maps()
    wsolkit(*EVALUATE)
    shutil.copytree("out", "b")


COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [2, 2, 10, 5]}],
}


def coco() -> None:
    write_json("c.json", COCO)
    picture("images/a.png")


def of(part: str, **values: Any) -> Change:
    """c.json with other values in the entry of a part."""
    return put("c.json", json.dumps(COCO | {part: [COCO[part][0] | values]}))


def also(part: str, **values: Any) -> Change:
    """c.json with a second entry in a part."""
    return put("c.json", json.dumps(COCO | {part: [COCO[part][0], COCO[part][0] | values]}))


def xml(name="a.png", size=(20, 10), box=(3, 3, 13, 8), label="cat") -> str:
    corners = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    extent = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    thing = f"<object><name>{label}</name><bndbox>{corners}</bndbox></object>"
    return f"<annotation><filename>{name}</filename>{extent}{thing}</annotation>"


def voc() -> None:
    put("v/a.xml", xml())()
    picture("images/a.png")


def table() -> None:
    put("t.csv", f"path,label,x0,y0,x1,y1\na.png,cat,{BOX}\n")()
    picture("images/a.png")


@cache
def network() -> wk.WSOLModel:
    return wk.build_model("resnet18", 2, weights="none", width=0.125, stride=8).eval()


@cache
def birds() -> Any:
    return wk.load_dataset("synthetic", "test", classes=2, per_class=2, size=32)


def content(**changes: Any) -> dict[str, Any]:
    """Of a best.pt."""
    geometry = {"size": 32, "kind": "resize"}
    about = {"spec": network().spec, "classes": ["cat", "dog"], "geometry": geometry, "recipe": {}, "epoch": 1}
    return about | {"model": network().state_dict()} | changes


def best(path: str = "best.pt", **changes: Any) -> Change:
    return lambda: checkpoints._write(Path(path), content(**changes))


def trained() -> None:
    metadata()
    best()()


def weights() -> None:
    torch.save(network().state_dict(), "w.pth")


def saved(value: Any, path: str = "w.pth") -> Change:
    return lambda: torch.save(value, path)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in network().state_dict().items() if name != key}


def scores(path: str = "m.npz", **changes: Any) -> Change:
    """The file of a `ScoreMaps`."""
    arrays = {"ids": np.array(["a", "b"]), "labels": np.array([0, 1]), "logits": np.eye(2, dtype=np.float32)}
    arrays |= {"maps": np.zeros((2, 4, 4), np.float32), "cost": np.zeros(2)}
    kept = {name: value for name, value in (arrays | changes).items() if value is not None}
    return lambda: np.savez(path, **kept)


class Harm:
    """Runs code where a pickle with it is opened."""

    def __reduce__(self):
        return Path.touch, (Path("harm"),)


def nothing() -> None:
    pass


# ------------------------------------------------------------------------------------------------ the entries


def load(name: str, **given: Any) -> None:
    data = wk.load_dataset(name, **{"split": "test", "size": 32} | given)
    data.images(range(len(data)))
    for index in range(len(data)):
        data.target(index)


def score(**given: Any) -> None:
    """`wk.score` of two maps."""
    boxes = [[[2, 2, 9, 9]], [[1, 1, 5, 5]]]
    made = {"maps": np.stack([np.eye(8)] * 2), "logits": [[1.0, 0.0], [0.0, 1.0]]}
    true = {"size": 16, "labels": [0, 1], "boxes": boxes}
    own = {name: given.pop(name) for name in list(given) if name in ("samples", "seed", "workers")}
    rule = {
        name: given.pop(name) for name in list(given) if name in ("protocol", "percentile", "threshold", "interval")
    }
    if "guesses" in given:
        made["boxes"] = given.pop("guesses")
    for name in given:
        (made if name in ("maps", "ids", "logits", "predicted") else true)[name] = given[name]
    wk.score(wk.Maps(**made), wk.Truth(**true), wk.Rule(**{"interval": 0.1} | rule), **{"samples": 10} | own)


def score_maps(**given: Any) -> None:
    wk.score_maps(**{"model": network(), "images": torch.rand(2, 3, 32, 32), "labels": torch.tensor([0, 1])} | given)


def predict(**given: Any) -> None:
    wk.predict(**{"model": network(), "images": "images/a.png", "geometry": wk.Geometry(32)} | given)


def evaluate(**given: Any) -> None:
    wk.evaluate(**{"model": network(), "dataset": birds()} | given)


def fit(**given: Any) -> None:
    model = wk.build_model("resnet18", given.pop("classes", 2), weights="none", width=0.125)
    wk.fit(**{"model": model, "train": birds(), "out": "run", "epochs": 1, "batch_size": 2} | given)


EVALUATE = [
    "evaluate",
    "--scoremaps",
    "maps",
    "--metadata",
    "meta",
    "--size",
    "32",
    "--interval",
    "0.1",
    "--out",
    "out",
]
CONVERT = {kind: f"data convert {kind} {source} --out out --images images".split() for kind, source in
           {"voc": "v", "coco": "c.json", "csv": "t.csv"}.items()}  # fmt: skip
PREDICT = ["predict", "images/a.png", "--checkpoint", "best.pt", "--out", "out"]
LOCALISE = [
    "localise",
    "--checkpoint",
    "best.pt",
    "--out",
    "out",
    "--dataset",
    "metadata",
    "--root",
    "images",
    "--metadata",
    "meta",
]
ANNOTATE = ["annotate", "pictures", "--checkpoint", "best.pt", "--out", "out", "--format", "csv"]
APPLY = ["annotate", "--apply", "d.json", "--out", "out"]
SWEEP = ["sweep", "--file", "sweep.yaml", "--plan"]
SMALL = ["--classes", "2", "--per-class", "2", "--size", "32", "--epochs", "1", "--width", "0.125"]


def sweep_file() -> None:
    put("sweep.yaml", "methods: [cam]\nbackbones: [resnet18]\nclasses: 2\nper_class: 2\nsize: 32\n")()


def unprivileged(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call by a user who may not read everything, as root may; folders are readable again afterwards."""

    def run(*words: str, **given: Any) -> Any:
        Path.cwd().chmod(0o755)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            return call(*words, **given)
        finally:
            os.seteuid(user)
            for path in ("pictures", "pictures/cat"):
                Path(path).chmod(0o755)

    return run


BAD: dict[str, list[tuple[str, Change, Callable[..., None], tuple[Change, ...], tuple, dict]]] = {}


def bad(place: str, good: Change, call: Callable[..., None], named: str, *changes: Any, **given: Any) -> None:
    """A bad input: of a `place` of the table, a good input with changes (functions; texts are words of a command) that
    is given to `call`; the error names `named`."""
    words = tuple(item for item in changes if isinstance(item, str))
    functions = tuple(item for item in changes if not isinstance(item, str))
    BAD.setdefault(place, []).append((named, good, call, functions, words, given))


open_cub = partial(load, "cub", root="cub")
open_tiny = partial(load, "tiny_imagenet", root="tiny")
open_pets = partial(load, "oxford_pets", root="pets")
open_ilsvrc = partial(load, "ilsvrc", root="net")
open_metadata = partial(load, "metadata", root="images", metadata="meta")
open_pictures = partial(load, "folder", root="pictures")
open_masks = partial(load, "metadata", root="images", metadata="meta", masks="masks")

# text files
for named, *changes in (
    ("cub/images.txt", put("cub/images.txt", LATIN)),
    ("cub/classes.txt", put("cub/classes.txt", "1 caf\u00e9\n".encode("utf-16"))),
    ("cub/classes.txt", folder("cub/classes.txt")),
    ("cub/images.txt", folder("cub/images.txt")),
    ("cub/bounding_boxes.txt", gone("cub/bounding_boxes.txt")),
    ("cub/images.txt", put("cub/images.txt")),
    ("cub/images.txt", put("cub/images.txt", "\ufeff \r\n\r\n")),
    ("cub/train_test_split.txt", put("cub/train_test_split.txt", b"\0" * 64)),
):
    bad("text files", cub, open_cub, named, *changes)
for named, *changes in (
    ("tiny/wnids.txt", put("tiny/wnids.txt", LATIN)),
    ("tiny/wnids.txt", folder("tiny/wnids.txt")),
    ("tiny/wnids.txt", put("tiny/wnids.txt")),
    ("tiny/words.txt", put("tiny/words.txt", b"n01\t\xff\n")),
    ("tiny/words.txt", folder("tiny/words.txt")),
    ("tiny/val/val_annotations.txt", folder("tiny/val/val_annotations.txt")),
):
    bad("text files", tiny, open_tiny, named, *changes)
for named, *changes in (
    ("meta/test/image_ids.txt", put("meta/test/image_ids.txt")),
    ("meta/test/class_labels.txt", gone("meta/test/class_labels.txt")),
    ("meta/test/class_labels.txt", folder("meta/test/class_labels.txt")),
    ("meta/test/localization.txt", folder("meta/test/localization.txt")),
    ("meta/test/image_sizes.txt", folder("meta/test/image_sizes.txt")),
    ("meta/classes.txt", folder("meta/classes.txt")),
    ("meta/classes.txt", put("meta/classes.txt", LATIN)),
    ("meta/classes.txt", put("meta/classes.txt", "cat\ndo\x1b[31mg\n")),
    ("meta/test/image_ids.txt", swap("meta/test/image_ids.txt", "e.png", "e\0.png")),
    ("meta/test/image_ids.txt", swap("meta/test/image_ids.txt", "e.png", "e\x1b[31m.png")),
    (
        "meta/test/localization.txt",
        lambda: (gone("meta/test/localization.txt")(), Path("meta/test/localization.txt").symlink_to("x")),
    ),
):
    bad("text files", metadata, open_metadata, named, *changes)
bad("text files", table, wsolkit, "t.csv", *CONVERT["csv"], put("t.csv", f"a.png,c\0t,{BOX}\n"))
bad("text files", table, wsolkit, "t.csv", *CONVERT["csv"], put("t.csv", f"a.png,cat,{BOX}\n".encode("utf-16")))
bad("text files", trained, wsolkit, "names", *PREDICT, "--classes", "names", folder("names"))
bad("text files", trained, wsolkit, "names", *PREDICT, "--classes", "names")

# cub
for named, *changes in (
    ("line 2", put("cub/images.txt", "1 001.A/a.png\n2\n")),
    ("line 1", swap("cub/images.txt", "1 001", "-1 001")),
    ("line 1", swap("cub/images.txt", "1 001", f"{LONG} 001")),
    ("line 2 (1 is", swap("cub/images.txt", "2 001", "1 001")),
    ("line 1", swap("cub/images.txt", "001.A/a.png", "../a.png")),
    ("line 1", swap("cub/images.txt", "001.A/a.png", "/etc/passwd")),
    ("line 1", swap("cub/images.txt", "001.A/a.png", "C:\\a.png")),
    ("001.A/a.png", swap("cub/images.txt", "001.A/b.png", "001.A/a.png")),
    ("001.A/a.png", swap("cub/images.txt", "001.A/b.png", "001.A\\a.png")),
    ("image_class_labels.txt", swap("cub/image_class_labels.txt", "6 2", "2 6")),
    ("image_class_labels.txt", swap("cub/image_class_labels.txt", "1 1", "1 one")),
    ("class 9", swap("cub/image_class_labels.txt", "1 1", "1 9")),
    ("train_test_split.txt", swap("cub/train_test_split.txt", "1 1", "1 2")),
    ("bounding_boxes.txt", swap("cub/bounding_boxes.txt", "1 2.0", "1 nan")),
    ("bounding_boxes.txt", swap("cub/bounding_boxes.txt", "1 2.0", "1 inf")),
    ("bounding_boxes.txt", swap("cub/bounding_boxes.txt", "10.0", "1e999")),
    ("bounding_boxes.txt", swap("cub/bounding_boxes.txt", "10.0", "-10.0")),
    ("bounding_boxes.txt", swap("cub/bounding_boxes.txt", "10.0", "0")),
    ("bounding_boxes.txt", swap("cub/bounding_boxes.txt", "10.0 5.0", "10.0")),
    ("001.A/c.png", swap("cub/bounding_boxes.txt", "3 2.0", "3 200")),
    ("bounding_boxes.txt", put("cub/bounding_boxes.txt", "".join(f"{n} 0.1 0.1 0.5 0.5\n" for n in range(1, 7)))),
    ("a.png", gone("cub/images/001.A/a.png")),
    ("c.png", put("cub/images/001.A/c.png")),
    ("c.png", put("cub/images/001.A/c.png", "<html>")),
    ("c.png", folder("cub/images/001.A/c.png")),
    ("c.png", gone("cub/images/001.A/c.png"), lambda: os.mkfifo("cub/images/001.A/c.png")),
    ("1_0.0", swap("cub/bounding_boxes.txt", "10.0", "1_0.0")),
    ("c.png", put("cub/images/001.A/c.png", bomb())),
    ("C.PNG", lambda: Path("cub/images/001.A/c.png").rename("cub/images/001.A/C.PNG")),
    (
        r"e\u0301.png",
        lambda: Path("cub/images/001.A/c.png").rename("cub/images/001.A/e\u0301.png"),
        swap("cub/images.txt", "c.png", "\u00e9.png"),
    ),
    ("001.A", put("cub/classes.txt", "1 001.A\n2 001.A\n")),
    ("c.bmp", lambda: Path("cub/images/001.A/c.png").rename("cub/images/001.A/c.bmp")),
    ("001.A/c.png (8, 5, 27, 14)", put("cub/bounding_boxes.txt", "".join(f"{n} 8 5 19 9\n" for n in range(1, 7)))),
    ("3", swap("cub/bounding_boxes.txt", "3 2.0 2.0 10.0 5.0", "3 .1 .1 .5 .5")),
    ("test", put("cub/train_test_split.txt", "".join(f"{n} 1\n" for n in range(1, 7)))),
):
    bad("cub", cub, open_cub, named, *changes)

# folder
for named, *changes in (
    ("boxes.csv", folder("pictures/boxes.csv")),
    ("boxes.csv", put("pictures/boxes.csv", LATIN)),
    ("boxes.csv", put("pictures/boxes.csv", "path,x0,y0,x1,y1\n")),
    ("line 1 'cat/a.png'", put("pictures/boxes.csv", "cat/a.png\n")),
    ("../a.png", put("pictures/boxes.csv", f"../a.png,{BOX}\n")),
    ("['12', '2', '2', '7']", put("pictures/boxes.csv", "cat/a.png,12,2,2,7\n")),
    ("line 2", put("pictures/boxes.csv", f"cat/a.png,{BOX}\ncat/b.png,{BOX},1\n")),
    ("cat/x.png", put("pictures/boxes.csv", f"cat/x.png,{BOX}\n")),
    ("40 x 10", lambda: [picture(f"pictures/cat/{x}.png", 40) for x in "abc"], put("pictures/boxes.csv", "".join(f"cat/{x}.png,50,2,60,7\n" for x in "abc"))),
    ("--unit share", put("pictures/boxes.csv", "".join(f"cat/{x}.png,.1,.1,.5,.5\n" for x in "abc"))),
    ("boxes.json", put("pictures/boxes.json", "{}")),
    ("'Cat'", gone("pictures/boxes.csv"), put("pictures/boxes.json", json.dumps(COCO | {"images": [COCO["images"][0] | {"file_name": "cat/a.png"}], "categories": [{"id": 1, "name": "Cat"}]}))),
    ("kitten", gone("pictures/boxes.csv"), put("pictures/boxes.json", json.dumps(COCO | {"images": [COCO["images"][0] | {"file_name": "cat/a.png"}], "categories": [{"id": 1, "name": "kitten"}]}))),
    ("there is 'cat/a.png'", put("pictures/boxes.csv", f"pictures/cat/a.png,{BOX}\n")),
    ("there is 'cat/a.png'", put("pictures/boxes.csv", f"a.png,{BOX}\n")),
    ("cat/a.png,1_0", put("pictures/boxes.csv", "cat/a.png,1_0,2,12,7\n")),
    ("owl", folder("pictures/owl")),
    ("b.PNG", lambda: picture("pictures/b.PNG")),
    ("a\\nb.png", lambda: picture("pictures/cat/a\nb.png")),
    ("' owl'", lambda: picture("pictures/ owl/a.png")),
    ("'owl\\xa0'", lambda: picture("pictures/owl\u00a0/a.png")),
    ("owl:1/a.png", lambda: picture("pictures/owl:1/a.png")),
    ("cat, dog", lambda: picture("pictures/train/owl/a.png")),
    ("beside test", lambda: picture("pictures/test/owl/a.png")),
    ("train/", lambda: [Path(f"pictures/{old}").rename(f"pictures/{new}") for old, new in (("cat", "x"), ("dog", "y"))], lambda: [shutil.move(f"pictures/{old}", f"pictures/{new}/z") for old, new in (("x", "test"), ("y", "val"))]),
    ("'cat'", lambda: shutil.rmtree("pictures/dog")),
    ("pictures/cat/", put("pictures/boxes.csv", f"dog/d.png,{BOX}\n"), *(put(f"pictures/cat/{x}.png", b"\x89PNG\r\n\x1a\n") for x in "abc")),
):  # fmt: skip
    bad("folder", pictures, open_pictures, named, *changes)
for closed in ("pictures", "pictures/cat"):
    bad("folder", pictures, unprivileged(open_pictures), closed, partial(Path.chmod, Path(closed), 0o000))
few = [gone(f"pictures/{name}.png") for name in ("cat/b", "cat/c", "dog/e", "dog/f")]
bad("folder", pictures, partial(open_pictures, split="val"), "'val'", gone("pictures/boxes.csv"), *few)
bad(
    "folder",
    pictures,
    open_pictures,
    "pictures",
    lambda: [shutil.rmtree(f"pictures/{name}") for name in ("cat", "dog")],
)

# oxford_pets
listed, trimap = "pets/annotations/test.txt", "pets/annotations/trimaps/cat_2.png"
for named, *changes in (
    ("line 1", swap(listed, "cat_2 1", "../cat_2 1")),
    ("line 1", swap(listed, "cat_2 1 1 1", "cat_2 1 1")),
    ("line 2 (cat_2", swap(listed, "cat_3", "cat_2")),
    ("1 (Bird, Cat)", swap(listed, "cat_3", "bird_3")),
    ("cat_2.jpg", gone("pets/images/cat_2.jpg")),
    ("cat_2.png", gone(trimap)),
    ("cat_2.jpg (its mask is 7 x 9", lambda: Image.new("L", (7, 9), 1).save(trimap)),
    ("cat_2.png", put(trimap, "<html>")),
    ("cat_2.jpg", put("pets/images/cat_2.jpg", "<html>")),
    ("test.txt", put(listed)),
):  # fmt: skip
    bad("oxford_pets", pets, open_pets, named, *changes)

# ilsvrc
first = "net/Annotations/val/v0.xml"
for named, *changes in (
    ("net/train", lambda: shutil.rmtree("net/train/n02")),
    ("val/v0.JPEG", gone(first)),
    ("val/v0.xml", put(first, "<annotation>")),
    ("val/v0.JPEG (20 x 40", put(first, xml("v0", (20, 40), label="n01"))),
    ("val/v0.xml", put(first, xml("v0", box=(12, 2, 2, 7), label="n01"))),
    ("val/v0.JPEG", put(first, xml("v0", box=(50, 2, 60, 7), label="n01"))),
    ("v0.JPEG", put("net/val/v0.JPEG", "<html>")),
    ("v\\n.JPEG", lambda: picture("net/train/n01/v\n.JPEG"), {"split": "train"}),
    ("'test'", lambda: [Path(f"net/val/v{n}.JPEG").unlink() for n in range(2)]),
    ("LOC_synset_mapping.txt", put("net/LOC_synset_mapping.txt", "n01\n")),
):  # fmt: skip
    options = changes.pop() if isinstance(changes[-1], dict) else {}
    bad("ilsvrc", ilsvrc, open_ilsvrc, named, *changes, **options)

# tiny_imagenet
for named, *changes in (
    ("line 1", put("tiny/wnids.txt", "../n01\nn02\n")),
    ("line 2 (n01", put("tiny/wnids.txt", "n01\nn01\n")),
    ("wnids.txt", put("tiny/wnids.txt", "n03\nn04\n")),
    ("words.txt", put("tiny/words.txt", "n01 goldfish\n")),
    ("val_annotations.txt", swap("tiny/val/val_annotations.txt", "30\t40", "nan\t40")),
    ("val_annotations.txt", swap("tiny/val/val_annotations.txt", "30\t40", "0\t40")),
    ("val_annotations.txt", swap("tiny/val/val_annotations.txt", "1\t2\t", "64\t2\t")),
    ("val_annotations.txt", swap("tiny/val/val_annotations.txt", "v0.png", "../v0.png")),
    ("val_annotations.txt", swap("tiny/val/val_annotations.txt", "v1.png", "v0.png")),
    (
        "v0.png (1, 2, 300, 400)",
        put("tiny/val/val_annotations.txt", "".join(f"v{n}.png\tn0{n + 1}\t1\t2\t300\t400\n" for n in range(2))),
    ),
    ("v0.png", swap("tiny/val/val_annotations.txt", "1\t2\t30\t40", ".1\t.1\t.5\t.5")),
    ("v0.png", gone("tiny/val/images/v0.png")),
    ("v0.png", cut("tiny/val/images/v0.png", 60)),
    (
        "val_annotations.txt",
        put("tiny/val/val_annotations.txt", "v0.png\tn01\t.1\t.1\t.5\t.5\nv1.png\tn02\t.1\t.1\t.5\t.5\n"),
    ),
):
    bad("tiny_imagenet", tiny, open_tiny, named, *changes)
train_tiny = partial(open_tiny, split="train")
bad(
    "tiny_imagenet",
    tiny,
    train_tiny,
    "n01_0.png",
    swap("tiny/train/n01/n01_boxes.txt", "n01_0.png\t1\t2\t30\t40\n", ""),
)
bad("tiny_imagenet", tiny, train_tiny, "n01_boxes.txt", put("tiny/train/n01/n01_boxes.txt"))
bad("tiny_imagenet", tiny, train_tiny, "n01_boxes.txt", swap("tiny/train/n01/n01_boxes.txt", "1\t2", "-1\t2"))

# metadata
for named, *changes in (
    ("line 1", swap("meta/test/image_ids.txt", "e.png", "../e.png")),
    ("line 2 (e.png", swap("meta/test/image_ids.txt", "f.png", ".\\e.png")),
    ("class_labels.txt", swap("meta/test/class_labels.txt", "e.png,0", "e.png,-1")),
    ("class_labels.txt", swap("meta/test/class_labels.txt", "e.png,0", "e.png,0.0")),
    ("class_labels.txt", swap("meta/test/class_labels.txt", "e.png,0", "e.png,1000000")),
    ("class_labels.txt", swap("meta/test/class_labels.txt", "e.png,0", "0,e.png")),
    ("no line for e.png", swap("meta/test/class_labels.txt", "e.png,0\n", "")),
    ("label 2", swap("meta/test/class_labels.txt", "e.png,0", "e.png,2")),
    ("image_sizes.txt", swap("meta/test/image_sizes.txt", "20,10", "0,10")),
    ("image_sizes.txt", swap("meta/test/image_sizes.txt", "20,10", "20.0,10.0")),
    ("image_sizes.txt", swap("meta/test/image_sizes.txt", "20,10", "10,20")),
    ("e.png", swap("meta/test/localization.txt", BOX, "200,2,300,7")),
    ("localization.txt", swap("meta/test/localization.txt", BOX, "nan,2,12,7")),
    ("localization.txt", swap("meta/test/localization.txt", BOX, "12,2,2,7")),
    ("localization.txt", swap("meta/test/localization.txt", BOX, "2,2,12")),
    ("localization.txt", swap("meta/test/localization.txt", f"f.png,{BOX}", "f.png,f.png,")),
    ("localization.txt", put("meta/test/localization.txt", "e.png,.1,.1,.5,.5\nf.png,.1,.1,.5,.5\n")),
    ("localization.txt", put("meta/test/localization.txt", f"e.png,{BOX}\n")),
    ("localization.txt", put("meta/test/localization.txt")),
    ("e.png (2, 2, 120, 70)", put("meta/test/localization.txt", "e.png,2,2,120,70\nf.png,2,2,120,70\n")),
    ("e.png", swap("meta/test/localization.txt", f"e.png,{BOX}", "e.png,.1,.1,.5,.5")),
    ("test/classes.txt", put("meta/test/classes.txt", "dog\ncat\n")),
    ("classes.txt", put("meta/classes.txt", "cat\n")),
    ("classes.txt", put("meta/classes.txt", "cat\n\ndog\n")),
    ("e.png", gone("images/e.png")),
    ("e.png", put("images/e.png", b"\x89PNG\r\n\x1a\n")),
    ("e.png", lambda: Image.effect_noise((20, 10), 90).save("images/e.png"), cut("images/e.png", 90)),
    ("meta", lambda: Path("meta/test").rename("meta/tset")),
):
    bad("metadata", metadata, open_metadata, named, *changes)
alone = put("meta/train/image_ids.txt", "a.png\nc.png\n")
bad("metadata", metadata, partial(open_metadata, split="val"), "'val'", alone)
for named, *changes in (
    ("e.png", gone("masks/e.png")),
    ("e.png", put("masks/e.png")),
    ("e.png", put("masks/e.png", bomb())),
    ("e.png", lambda: Image.new("L", (10, 20), 255).save("masks/e.png")),
    ("e.jpg", swap("meta/test/localization.txt", "e.png,e.png", "e.png,e.jpg"), lambda: noisy("masks/e.jpg")),
    ("line 1", swap("meta/test/localization.txt", "e.png,e.png", "e.png,../e.png")),
    ("line 3", put("meta/test/localization.txt", "e.png,e.png,\nf.png,f.png,g.png\nf.png,f.png,g.png\n")),
    ("localization.txt", put("meta/test/localization.txt", f"e.png,{BOX}\nf.png,{BOX}\n")),
):
    bad("metadata", masks, open_masks, named, *changes)
bad("metadata", masks, open_masks, "localization.txt", masks=None)
bad("metadata", masks, open_masks, "nowhere", masks="nowhere")
bad("metadata", metadata, open_metadata, "meta/test", metadata="meta/test")

# load_dataset
for name, call, base in (
    ("cub", open_cub, cub),
    ("folder", open_pictures, pictures),
    ("metadata", open_metadata, metadata),
):
    bad("load_dataset", base, call, f"'{name}'", root=None)
    bad("load_dataset", base, call, "nowhere", root="nowhere")
    bad("load_dataset", base, call, "afile", put("afile"), root="afile")
    bad("load_dataset", base, call, "~no_such_user", root="~no_such_user/data")
    bad("load_dataset", base, call, "empty", root="")
    bad("load_dataset", base, call, "5", root=5)
bad("load_dataset", metadata, open_metadata, "~no_such_user", metadata="~no_such_user/meta")
bad("load_dataset", metadata, open_metadata, "empty", metadata="")
bad("load_dataset", cub, open_cub, "images", root="cub/images")
for named, given in (
    ("'cats'", {"name": "cats"}), ("'valid'", {"split": "valid"}), ("100000", {"size": 100000}), ("'64'", {"size": "64"}),
    ("True", {"size": True}), ("nan", {"size": float("nan")}), ("'zoom'", {"geometry": "zoom"}), ("1", {"classes": 1}), ("True", {"classes": True}),
    ("-3", {"classes": -3}), ("2.5", {"classes": 2.5}), ("'dodo'", {"classes": ["dodo", 0]}), ("[0, 0]", {"classes": [0, 0]}),
    ("999", {"classes": [0, LONG]}), ("'Cat'", {"classes": ["Cat", "dog"]}), ("seed", {"seed": -1}), ("seed", {"seed": "x"}), ("seed", {"seed": 1.5}), ("'metdata'", {"metdata": "x"}),
):  # fmt: skip
    bad(
        "load_dataset",
        metadata,
        lambda **given: load(**{"name": "metadata", "root": "images", "metadata": "meta"} | given),
        named,
        **given,
    )
for named, given in (("nan", {"val_share": float("nan")}), ("1.0", {"val_share": 1.0}), ("'a'", {"val_share": "a"})):
    bad("load_dataset", metadata, partial(open_metadata, split="val"), named, **given)
for named, given in (
    ("-1", {"per_class": -1}),
    ("'x'", {"per_class": "x"}),
    ("0", {"per_class": 0}),
    ("2.5", {"per_class": 2.5}),
    ("True", {"per_class": True}),
):
    bad("load_dataset", nothing, partial(load, "synthetic", classes=2), named, **given)

# data convert, of each kind
for named, *changes in (
    ("a.xml", put("v/a.xml")),
    ("a.xml", put("v/a.xml", "<annotation><filename>")),
    ("a.xml", put("v/a.xml", b"\x89PNG\r\n")),
    ("a.xml", put("v/a.xml", '<?xml version="1.0" encoding="nowhere"?><annotation/>')),
    ("a.xml", put("v/a.xml", "<html><body>a</body></html>")),
    ("a.xml", folder("v/a.xml")),
    ("b.xml", put("v/b.xml", xml())),
    ("../a.png", put("v/a.xml", xml("../a.png"))),
    ("'a,b.png'", put("v/a.xml", xml("a,b.png"))),
    ("object 1", put("v/a.xml", xml(box=(13, 3, 3, 8)))),
    ("object 1", put("v/a.xml", xml(box=("nan", 3, 13, 8)))),
    ("object 1", put("v/a.xml", xml(box=("", 3, 13, 8)))),
    ("object 1", put("v/a.xml", xml(label=" "))),
    ("object 1", put("v/a.xml", xml(label="a\nb"))),
    ("10 x 20", put("v/a.xml", xml(size=(10, 20)))),
    ("199", put("v/a.xml", xml(box=(200, 3, 300, 8)))),
    ("v", put("v/a.xml", xml(box=(0.1, 0.1, 0.5, 0.5)))),
    ("b.png", put("v/a.xml", xml("b.png"))),
    ("xmin", put("v/a.xml", xml().replace("<ymin>", "<xmin>4</xmin><ymin>"))),
    ("a.png (2, 2, 121, 71)", put("v/a.xml", xml(box=(3, 3, 122, 72)))),
    ("b.xml, object 1", put("v/b.xml", xml("b.png", box=(0.1, 0.1, 0.5, 0.5))), lambda: picture("images/b.png")),
    ("--turn", lambda: picture("images/a.png", 10, 20, 6), put("v/a.xml", xml(size=(10, 20)))),
    ("v", gone("v/a.xml")),
):
    bad("convert voc", voc, wsolkit, named, *CONVERT["voc"], *changes)
for named, *changes in (
    ("c.json", put("c.json")),
    ("c.json", put("c.json", json.dumps(COCO)[:-20])),
    ("c.json", put("c.json", LATIN)),
    ("c.json", put("c.json", "[" * 100_000)),
    ("c.json", put("c.json", '{"images": ' + "9" * 5000 + "}")),
    ("c.json", put("c.json", "[]")),
    ("c.json", put("c.json", '{"images": [], "annotations": []}')),
    ("'images'", put("c.json", json.dumps(COCO)[:-1] + ', "images": []}')),
    ("image 1", of("images", file_name=None)),
    ("'../a.png'", of("images", file_name="../a.png")),
    ("a,b.png", of("images", file_name="a,b.png")),
    ("image 1", of("images", file_name="a\nb.png")),
    ("image 1", of("images", file_name="a\0b.png")),
    ("image 1", of("images", file_name="\ufeffa.png")),
    ("image 1", of("images", file_name="a\ud800.png")),
    ("image 1", of("images", file_name="a\x1bb.png")),
    ("image True", of("images", id=True)),
    ("image 1", also("images")),
    ("image 2", also("images", id=2, file_name=".//a.png")),
    ("10 x 20", of("images", width=10, height=20)),
    ("category 1", of("categories", name="")),
    ("category 1", of("categories", name="a\nb")),
    ("category 1", of("categories", name="a\0b")),
    ("category 1", of("categories", name="a\udc80b")),
    ("category 1", of("categories", name=["cat"])),
    ("category 1", also("categories")),
    ("image_id 9", of("annotations", image_id=9)),
    ("image_id '1'", of("annotations", image_id="1")),
    ("category_id 9", of("annotations", category_id=9)),
    ("annotation 5", of("annotations", bbox=[2, 2, 10])),
    ("annotation 5", of("annotations", bbox=None)),
    ("annotation 5", of("annotations", bbox="2222")),
    ("annotation 5", of("annotations", bbox=[2, 2, -10, 5])),
    ("annotation 5", of("annotations", bbox=[2, float("nan"), 10, 5])),
    ("annotation 5", of("annotations", bbox=[2, 2, 10**400, 5])),
    ("annotation 5", of("annotations", bbox=[True, True, 10, 5])),
    ("annotation 5", of("annotations", bbox={"x": 1})),
    ("c.json", of("annotations", bbox=[0.1, 0.1, 0.5, 0.5])),
    ("a.png", of("annotations", bbox=[200, 2, 10, 5])),
    ("corners", of("annotations", bbox=[12, 2, 19, 8])),
    ("iscrowd", of("annotations", iscrowd=1)),
    ("'0'", of("annotations", iscrowd="0")),
    ("annotation 6", also("annotations", id=6, bbox=[0.1, 0.1, 0.5, 0.5])),
    ("a.png", gone("images/a.png")),
    ("a.png", put("images/a.png")),
):
    bad("convert coco", coco, wsolkit, named, *CONVERT["coco"], *changes)
for wrong in (0, -5, True, None, "20", 10**30, 20.5):
    bad("convert coco", coco, partial(convert, "coco", "c.json", "out"), "a.png", of("images", width=wrong))
for named, text in (
    ("t.csv", ""),
    ("t.csv", "path,label,x0,y0,x1,y1\n"),
    ("line 1", "label,path,x0,y0,x1,y1\ncat,a.png,1,2,3,4\n"),
    ("cat", f"cat,a.png,{BOX}\n"),
    ("line 1", f"a.png;cat;{BOX.replace(',', ';')}\n"),
    ("line 1", "a.png,cat,2,2,12\n"),
    ("line 1", f"a.png,,{BOX}\n"),
    ("line 1", f",cat,{BOX}\n"),
    ("line 1", "a.png,cat,12,2,2,7\n"),
    ("line 1", "a.png,cat,nan,2,12,7\n"),
    ("line 1", "a.png,cat,x,2,12,7\n"),
    ("line 1", f'"a.png,cat,{BOX}\n'),
    ("line 1", f"a.png,{'c' * 140_000},{BOX}\n"),
    ("a.png", "a.png,cat,-9,-9,-5,-5\n"),
    ("999", f"a.png,{LONG},{BOX}\n"),
    ("label 1000000", f"a.png,1000000,{BOX}\n"),
    ("t.csv", "a.png,cat,.1,.1,.5,.5\n"),
    ("'a.png'", f"%61.png,cat,{BOX}\n"),
    ("A.png", f"A.png,cat,{BOX}\n"),
    ("'a.png'", f"a.jpg,cat,{BOX}\n"),
    ("a.png (2, 2, 120, 70)", "a.png,cat,2,2,120,70\n"),
    ("line 2", f"a.png,cat,{BOX}\na.png,cat,.1,.1,.5,.5\n"),
):
    bad("convert csv", table, wsolkit, named, *CONVERT["csv"], put("t.csv", text))
bad("convert csv", table, wsolkit, "t.csv", *CONVERT["csv"], "--unit", "share")
bad("convert csv", table, partial(convert, "csv", "t.csv", "out"), "--images")

# data convert, its arguments
for named, *changes in (
    ("afile", "--out", "afile", put("afile")),
    ("afile", "--out", "afile/deeper", put("afile")),
    (READ_ONLY, "--out", READ_ONLY),
    ("empty", "--out", ""),
    ("~no_such_user", "--out", "~no_such_user/x"),
    ("out/test", put("out/test", "")),
    ("out/test", lambda: (Path("out").mkdir(), Path("out/test").symlink_to("nowhere"))),
    ("out/test", put("out/test/mine.txt", "")),
    ("mine.txt", put("out/test/mine.txt", ""), "--force"),
    ("localization.txt", put("out/test/localization.txt", "do not touch\n"), "--force"),
    ("cat", put("out/classes.txt", "my notes\n")),
    ("classes.txt", put("out/classes.txt", "cat\ncat\n")),
    ("classes.txt", folder("out/classes.txt")),
    ("class_labels.txt", put("out/train/class_labels.txt", "b.png,0\n")),
    ("nowhere", "--images", "nowhere"),
    ("afile", "--images", "afile", put("afile")),
    ("empty", "--images", ""),
    ("valid", "--split", "valid"),
    ("origin", "--origin", "0"),
    ("unit", "--turn", "--unit", "share"),
):
    bad("convert", coco, wsolkit, named, *CONVERT["coco"], *changes)
bad("convert", coco, wsolkit, "nowhere", *["data", "convert", "coco", "nowhere", "--out", "out"])
bad("convert", coco, wsolkit, "empty", "data", "convert", "voc", "", "--out", "out")
bad("convert", coco, wsolkit, "images", *["data", "convert", "coco", "images", "--out", "out"])
bad("convert", coco, wsolkit, "c.json", *["data", "convert", "voc", "c.json", "--out", "out"])
bad("convert", coco, wsolkit, "turn", *["data", "convert", "coco", "c.json", "--out", "out", "--turn"])
bad("convert", coco, partial(convert, "yolo", "c.json", "out"), "'yolo'")
bad("convert", coco, partial(convert, "coco", "c.json", "out", "valid"), "'valid'")
bad("convert", coco, partial(convert, "coco", "c.json", "out", several="all"), "'all'")

# evaluate: score maps
for named, *changes in (
    ("e.png", gone("maps/e.png.npy")),
    ("z.npy", array("maps/z.npy", np.eye(7))),
    ("turn the map", array("maps/e.png.npy", np.ones((20, 10))), array("maps/f.png.npy", np.ones((20, 10)))),
    ("e.png", put("maps/e.png.npy")),
    ("e.png", put("maps/e.png.npy", "score map")),
    ("e.png", cut("maps/e.png.npy", 200)),
    ("e.png", array("maps/e.png.npy", np.array([[Harm()]], object), allow_pickle=True)),
    ("e.png", put("maps/e.png.npy", pickle.dumps(Harm()))),
    ("e.png", lambda: (np.savez("m.npz", np.eye(7)), Path("m.npz").rename("maps/e.png.npy"))),
    ("e.png", array("maps/e.png.npy", np.eye(7) * 1j)),
    ("e.png", array("maps/e.png.npy", np.array([["a", "b"]]))),
    ("e.png", array("maps/e.png.npy", np.zeros((7, 7, 3)))),
    ("e.png", array("maps/e.png.npy", np.zeros((0, 7)))),
    ("e.png", array("maps/e.png.npy", np.full((7, 7), np.nan))),
    ("e.png", array("maps/e.png.npy", np.where(np.eye(7), np.inf, 0))),
    ("(5, 5)", array("maps/e.png.npy", np.eye(5)), array("maps/g.npy", np.eye(7))),
    ("(5, 5)", array("maps/e.png.npy", np.eye(5)), "--subset"),
    ("e.png", array("maps/e.png.npy", np.zeros((7, 7), "datetime64[s]"))),
    (
        "e.png",
        put(
            "maps/e.png.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 9999999999), }"
            + b" " * 30
            + b"\n",
        ),
    ),
    ("e.png", folder("maps/e.png.npy")),
    ("maps", lambda: Path("maps").rename("mpas")),
    ("maps", lambda: Path("maps").rename("mpas"), put("maps")),
    ("E.png", lambda: Path("maps/e.png.npy").rename("maps/E.png.npy")),
    ("label 1", put("meta/classes.txt", "cat\n")),
    ("p.csv", "--predictions", "p.csv"),
    ("p.csv", "--predictions", "p.csv", folder("p.csv")),
    ("predictions.csv", put("maps/predictions.csv")),
    ("predictions.csv", put("maps/predictions.csv", LATIN)),
    ("line 2", put("maps/predictions.csv", "e.png,0\nf.png\n")),
    ("line 2", put("maps/predictions.csv", "e.png,0\nf.png,-1\n")),
    ("line 2", put("maps/predictions.csv", "e.png,0\nf.png,nan\n")),
    ("line 2", put("maps/predictions.csv", "e.png,0\nf.png,0,1\n")),
    ("label 7", put("maps/predictions.csv", "e.png,7\nf.png,0\n")),
    ("line 3", put("maps/predictions.csv", "e.png,0\nf.png,0\ne.png,1\n")),
    ("f.png", put("maps/predictions.csv", "e.png,0\n")),
    ("predictions.csv", put("maps/predictions.csv", "e.png,0\0\nf.png,0\n")),
    ("predictions.csv", folder("maps/predictions.csv")),
):
    bad("evaluate: files", maps, wsolkit, named, *EVALUATE, *changes)
BOXES = [word if word != "--scoremaps" else "--boxes" for word in EVALUATE if word != "maps"]
BOXES.insert(2, "boxes.csv")
for named, *changes in (
    ("e.png,2,2,9", swap("boxes.csv", "e.png,2,2,9,7", "e.png,2,2,9")),
    ("nan", swap("boxes.csv", "e.png,2", "e.png,nan")),
    ("e.png,12,2", swap("boxes.csv", "e.png,2", "e.png,12")),
    ("x0 <= x1", swap("boxes.csv", "e.png,2", "e.png,12")),
    ("e.png,2,2,9_0,7", swap("boxes.csv", "e.png,2,2,9", "e.png,2,2,9_0")),
    ("no line for e.png", swap("boxes.csv", "e.png", "g.png")),
    ("f.png is there already", swap("boxes.csv", "e.png", "f.png")),
    ("../e.png", swap("boxes.csv", "e.png", "../e.png")),
    ("e.png, which is 20 x 10", swap("boxes.csv", "e.png,2,2,9,7", "e.png,22,2,29,7")),
    ("boxes.csv", put("boxes.csv", "e.png,0,0,0.5,0.7\nf.png,0,0,1,1\n")),
    ("e.png", put("boxes.csv", "e.png,0,0,0.5,0.7\nf.png,0,0,9,7\n")),
    ("e.png", put("boxes.csv", "e.png,0,0,200,100\nf.png,0,0,200,100\n")),
    ("boxes.csv", gone("boxes.csv")),
    ("boxes.csv", folder("boxes.csv")),
    ("boxes.csv", put("boxes.csv", LATIN)),
    ("--threshold", "--threshold", "0.2"),
    ("--percentile", "--percentile", "90"),
    ("--val-scoremaps", "--val-scoremaps", "maps"),
    ("--scoremaps", "--scoremaps", "maps"),
):
    bad("evaluate: boxes", boxes, wsolkit, named, *BOXES, *changes)
for named, *words in (
    ("0", "--size", "0"), ("-5", "--size", "-5"), ("100000", "--size", "100000"), ("'abc'", "--size", "abc"), (LONG[:9], "--size", LONG),
    ("nan", "--threshold", "nan"), ("-1", "--threshold", "-1"), ("101", "--percentile", "101"), ("0.0", "--interval", "0"),
    ("nan", "--interval", "nan"), ("1e-09", "--interval", "1e-9"), ("'best'", "--protocol", "best"), ("valid", "--split", "valid"),
    ("localization.txt", "--masks", "images"), ("val", "--val-scoremaps", "maps"),
    ("afile", "--out", "afile"), ("afile", "--out", "afile/deeper"), (READ_ONLY, "--out", READ_ONLY), ("metrics.json", "--out", "site"),
    ("~no_such_user", "--out", "~no_such_user/x"), ("~no_such_user", "--scoremaps", "~no_such_user/x"), ("empty", "--scoremaps", ""), ("empty", "--metadata", ""), ("nowhere", "--metadata", "nowhere"),
    ("afile", "--metadata", "afile"),
):  # fmt: skip
    bad("evaluate: options", maps, wsolkit, named, *EVALUATE, *words, put("afile"), put("site/metrics.json", "mine"))
bad(
    "evaluate: options",
    maps,
    wsolkit,
    "share 2 images",
    *EVALUATE,
    "--val-scoremaps",
    "maps",
    lambda: shutil.copytree("meta/test", "meta/val"),
)

# compare
for named, *changes in (
    ("nowhere", "nowhere"),
    ("images", "images"),
    ("metrics.json", gone("out/metrics.json"), "out"),
    ("out/metrics.json", put("out/metrics.json", '{"result": '), "out"),
    ("out/metrics.json", put("out/metrics.json", "[]"), "out"),
    ("out/metrics.json", put("out/metrics.json", '{"result": []}'), "out"),
    ("out/metrics.json", put("out/metrics.json", "[" * 100_000), "out"),
    ("out/metrics.json", put("out/metrics.json", LATIN), "out"),
    ("out/metrics.json", folder("out/metrics.json"), "out"),
    ("out/per_image.csv", put("out/per_image.csv", LATIN), "out"),
    ("out/per_image.csv", put("out/per_image.csv"), "out"),
    ("out/per_image.csv", gone("out/per_image.csv"), "out"),
    ("out/per_image.csv", folder("out/per_image.csv"), "out"),
    ("line 3", swap("out/per_image.csv", "f.png,", "e.png,"), "out"),
    ("line 3", swap("out/per_image.csv", "f.png,1", "f.png,one"), "out"),
    ("g.png", swap("out/per_image.csv", "f.png,", "g.png,"), "out"),
    ("label", swap("out/per_image.csv", "label", "lable"), "out"),
    ("a", "out", "--names", "a"),
    ("'best'", "out", "--metric", "best"),
    ("top1_loc", "out", "--metric", "top1_loc"),
    ("~no_such_user", "~no_such_user/x"),
    ("empty", ""),
):
    bad("compare", evaluations, wsolkit, named, "compare", "b", *changes)

# checkpoints
for named, *changes in (
    ("best.pt", gone("best.pt")),
    ("best.pt", put("best.pt")),
    ("best.pt", put("best.pt", "weights")),
    ("best.pt", cut("best.pt", 3000)),
    ("best.pt", put("best.pt", pickle.dumps(Harm()))),
    ("best.pt", saved({"format": 2, "model": Harm()}, "best.pt")),
    ("best.pt", lambda: torch.save(network().state_dict(), "best.pt")),
    ("best.pt", lambda: save_file(network().state_dict(), "best.pt")),
    ("best.pt", saved([1, 2], "best.pt")),
    ("best.pt", best(format=1)),
    ("best.pt", best(spec={})),
    ("best.pt", best(spec={"backbone": "vgg99", "num_classes": 2})),
    ("best.pt", best(spec=[1])),
    ("best.pt", best(model={})),
    ("best.pt", best(classes=["a"])),
    ("best.pt", best(classes=5)),
    ("best.pt", best(geometry={"size": 0, "kind": "resize"})),
    ("best.pt", best(geometry=[32])),
    ("run.json", put("run.json", "{}x")),
    ("run.json", put("run.json", '{"config": 5}')),
    ("run.json", best(geometry=None), put("run.json", '{"config": {}}')),
    ("images", "--checkpoint", "images"),
    ("~no_such_user", "--checkpoint", "~no_such_user/x"),
    ("empty", "--checkpoint", ""),
):
    bad("checkpoints", trained, wsolkit, named, *PREDICT, *changes)

# predict
for named, *changes in (
    ("nowhere.png", "nowhere.png"),
    ("masks", "masks", folder("masks")),
    ("empty", ""),
    ("*.gif", "*.gif"),
    ("torn.png", "torn.png", put("torn.png", "x")),
):
    bad("predict", trained, wsolkit, named, *PREDICT[:1], *PREDICT[2:], *changes)
for named, *changes in (
    ("'no_cam'", "--method", "no_cam"),
    ("'soft'", "--method", "cam[soft]"),
    ("'nwc'", "--method", "cam[nwc=no]"),
    ("'soft'", "--smooth", "soft"),
    ("'tpu'", "--device", "tpu"),
    ("cuda:99", "--device", "cuda:99"),
    ("eagle", "--label", "eagle"),
    ("999", "--label", LONG),
    ("names", "--classes", "names", put("names", "a\nb\nc\n")),
    ("7", "--size", "7"),
    ("2", "--threshold", "2"),
    ("nan", "--threshold", "nan"),
    ("nan", "--percentile", "nan"),
    ("'zoom'", "--geometry", "zoom"),
    ("0", "--batch-size", "0"),
    ("afile", "--out", "afile", put("afile")),
    ("afile", "--out", "afile/deeper", put("afile")),
    (READ_ONLY, "--out", READ_ONLY),
    ("~no_such_user", "--out", "~no_such_user/x"),
    ("a.png.json", put("out/a.png.json", "{}")),
):
    bad("predict", trained, wsolkit, named, *PREDICT, *changes)

# localise
for named, *changes in (
    ("afile", "--out", "afile", put("afile")),
    ("afile", "--out", "afile/deeper", put("afile")),
    ("afile", "--out", "afile/deeper.npz", put("afile")),
    (READ_ONLY, "--out", READ_ONLY),
    ("m.npz", "--out", "m.npz", folder("m.npz")),
    ("m.npz", "--out", "m.npz", "--method", "cam,grad_cam"),
    ("m.npz", "--out", "m.npz", put("m.npz", "mine")),
    ("~no_such_user", "--out", "~no_such_user/x"),
    ("empty", "--out", ""),
    ("--method", "--method", ""),
    ("'no_cam'", "--method", "no_cam"),
    ("'soft'", "--method", "cam[soft]"),
    ("'nwc'", "--method", "cam[nwc=no]"),
    ("'soft'", "--smooth", "soft"),
    ("-1", "--limit", "-1"),
    ("'channels'", "--channels", "3"),
    ("cat", put("meta/classes.txt", "owl\ndog\n")),
    ("nowhere", "--root", "nowhere"),
    ("'tpu'", "--device", "tpu"),
):
    bad("localise", trained, wsolkit, named, *LOCALISE, *changes)
bad("localise", trained, wsolkit, "--dataset", *LOCALISE[:5])

# ScoreMaps.load
for change in (
    nothing, put("m.npz"), put("m.npz", "x"), put("m.npz", pickle.dumps(Harm())), array("m.npz", np.eye(3)), folder("m.npz"),
    scores(maps=None), scores(ids=np.array([Harm(), "b"], object)), scores(maps=np.zeros((3, 4, 4))), scores(labels=np.zeros(5)), scores(cost=np.zeros(0)),
    scores(maps=np.zeros((2, 4))), scores(ids=np.array(["a", "a"])), scores(maps=np.full((2, 4, 4), np.nan)),
):  # fmt: skip
    bad("ScoreMaps.load", nothing, lambda: wk.ScoreMaps.load("m.npz"), "m.npz", change)

for place in ("there", "afile/m.npz"):
    bad(
        "ScoreMaps.load",
        scores(),
        lambda place=place: wk.ScoreMaps.load("m.npz").save(place),
        place,
        folder("there"),
        put("afile"),
    )

# weights
build = partial(wk.build_model, "resnet18", 2, weights="w.pth", width=0.125)
for named, *changes in (
    ("w.pth", gone("w.pth")),
    ("w.pth", folder("w.pth")),
    ("w.pth", put("w.pth")),
    ("w.pth", put("w.pth", "weights")),
    ("w.pth", cut("w.pth", 3000)),
    ("w.pth", put("w.pth", pickle.dumps(Harm()))),
    ("w.pth", saved({"state_dict": Harm()})),
    ("w.pth", saved([torch.zeros(3)])),
    ("w.pth", saved({})),
    ("w.pth", lambda: torch.save({key: value.to("meta") for key, value in network().state_dict().items()}, "w.pth")),
    ("w.pth", lambda: torch.save({key: value.to_sparse() for key, value in network().state_dict().items()}, "w.pth")),
    ("netA, netB", saved({"netA": {"a": torch.zeros(3)}, "netB": {"b": torch.zeros(3)}})),
    ("Git LFS", put("w.pth", "version https://git-lfs.github.com/spec/v1\noid sha256:5\nsize 3\n")),
    ("web page", put("w.pth", "<!DOCTYPE html>\n")),
    ("body.conv1.weight", lambda: saved(network().state_dict() | {"body.conv1.weight": HUGE})()),
    ("complex numbers: body.conv1.weight", lambda: saved(network().state_dict() | {"body.conv1.weight": HUGE > 0})()),
    ("w.pth", saved({"conv1.weight": 5})),
    ("w.pth", saved({1: torch.zeros(3)})),
    ("w.pth", saved({"state_dict": {"epoch": 5}})),
    ("body.conv1.weight", lambda: torch.save(without("body.conv1.weight"), "w.pth")),
    (
        "body.conv1.weight is",
        lambda: torch.save(network().state_dict() | {"body.conv1.weight": torch.zeros(3)}, "w.pth"),
    ),
    ("body.extra", lambda: torch.save(network().state_dict() | {"body.extra": torch.zeros(3)}, "w.pth")),
    ("w.pth", lambda: torch.save(network(), "w.pth")),
    (
        "conv1.weight",
        lambda: torch.save(
            network().state_dict() | {"body.conv1.weight": torch.full_like(network().body.conv1.weight, torch.nan)},
            "w.pth",
        ),
    ),
    (
        "conv1.weight",
        lambda: torch.save(network().state_dict() | {"body.conv1.weight": network().body.conv1.weight.long()}, "w.pth"),
    ),
):
    bad("weights", weights, build, named, *changes)
bad(
    "weights",
    weights,
    partial(wk.build_model, "resnet18", 2, weights="w.safetensors"),
    "w.safetensors",
    put("w.safetensors", "{}"),
)
bad(
    "weights",
    weights,
    partial(wk.build_model, "resnet18", 2, weights="w.safetensors"),
    "w.safetensors",
    put("w.safetensors", b"\xff" * 64),
)
bad("weights", weights, partial(wk.build_model, "resnet18", 2, weights=""), "weights")
bad("weights", weights, partial(wk.build_model, "resnet18", 2, weights=None), "None")
bad("weights", weights, partial(wk.build_model, "resnet18", 2, weights="~no_such_user/w.pth"), "~no_such_user")
for named, given in (
    ("'resnet19'", {"backbone": "resnet19"}), ("None", {"backbone": None}), ("1", {"num_classes": 1}), ("2.5", {"num_classes": 2.5}), ("'2'", {"num_classes": "2"}),
    ("'max'", {"pooling": "max"}), ("7", {"stride": 7}), ("1.5", {"pooling": "tap", "tau": 1.5}), ("nan", {"width": float("nan")}), ("0", {"width": 0}), ("'x'", {"width": "x"}),
    ("2", {"pooling": "acol", "delta": 2}), ("-1", {"seed": -1}), ("100000000000000000000", {"seed": 10**20}), ("'x'", {"seed": "x"}),
):  # fmt: skip
    bad(
        "build_model",
        nothing,
        lambda **given: wk.build_model(
            **{"backbone": "resnet18", "num_classes": 2, "weights": "none", "width": 0.125} | given
        ),
        named,
        **given,
    )

for named, given in (
    ("resnet81", {"backbone": "timm:resnet81"}), ("none", {"backbone": "timm:test_resnet.none"}), ("crossvit_9_240", {"backbone": "timm:crossvit_9_240"}),
    ("coat_lite_tiny", {"backbone": "timm:coat_lite_tiny"}), ("20", {"size": 20}), ("width", {"width": 0.5}),
):  # fmt: skip
    bad(
        "networks of timm",
        nothing,
        lambda **given: wk.build_model(**{"backbone": "timm:test_vit", "num_classes": 2, "weights": "none"} | given),
        named,
        **given,
    )
bad("networks of timm", nothing, partial(wsolkit, "backbones", "vgg99"), "vgg99")


def patches(value: float, *away: str) -> None:
    state = wk.build_model("timm:test_vit", 2, weights="none").body.net.state_dict()
    torch.save({key: torch.full_like(tensor, value) for key, tensor in state.items() if key not in away}, "w.pth")


for named, *changes in (("pos_embed", partial(patches, 0, "pos_embed")), ("pos_embed", partial(patches, torch.nan))):
    bad("weights of timm", weights, partial(wk.build_model, "timm:test_vit", 2, weights="w.pth"), named, *changes)

# sweep file
for named, text in (
    ("sweep.yaml", ""), ("sweep.yaml", b"\xff\xfe\x00"), ("sweep.yaml", "methods: [cam"), ("sweep.yaml", "methods:\t[cam]"), ("sweep.yaml", "- cam"),
    ("sweep.yaml", "cam"), ("sweep.yaml", "[" * 600), ("python/object", "methods: !!python/object/apply:os.system ['touch harm']"),
    ("sweep.yaml", "a: &a [x, x]\nb: &b [*a, *a]\nmethods: [*b, *b]"), ("methods", "methods: [cam]\nmethods: [has]"), ("root", "datasets: {cub: {root: a, root: b}}"),
    ("'epoch'", "epoch: 3"), ("'True'", "on: 3"), ("epochs", "epochs: true"), ("epochs", "epochs: -2"), ("epochs", "epochs: .inf"), ("sweep.yaml", f"epochs: {LONG}"), ("epochs", "epochs: 2026-01-01"),
    ("lr", "lr: .nan"), ("lr", "lr: 1e400"), ("lr", "lr: fast"), ("weights", "weights: no"), ("compile", "compile: 1"), ("batch_size", "batch_size: 1"), ("size", "size: 4"), ("size", "size: 100000"),
    ("'cats'", "dataset: cats"), ("'cats'", "datasets: {cats: {}}"), ("datasets", "datasets: []"), ("datasets.cub", "datasets: {cub: 5}"), ("jobs", "datasets: {cub: {jobs: 2}}"),
    ("'vgg99'", "backbones: [vgg99]"), ("'no_cam'", "methods: [no_cam]"), ("'soft'", "methods: ['cam[soft]']"), ("'nwc'", "methods: ['cam[nwc=no]']"), ("methods", "methods: []"), ("'5'", "methods: 5"), ("'3'", "methods: [3]"), ("seeds", "seeds: [-1]"), ("seeds", "seeds: [a]"), ("seeds", "seeds: [1.5]"),
    ("seed", f"seed: {10**30}"), ("seeds", f"seeds: [{10**30}]"), ("'seed'", "seed: 1\nseeds: [1, 2]"), ("limits", "limits: {cam: 0}"), ("limits", "limits: 5"), ("score_cam", "methods: [cam]\nlimits: {score_cam: 3}"), ("two entries", "limits: {grad_cam++: 1, GradCAMPlusPlus: 2}"),
    ("root", 'dataset: cub\nroot: "a\\0b"'), ("~no_such_user", "dataset: cub\nroot: ~no_such_user/x"), ("nowhere", "dataset: cub\nroot: nowhere"), ("weights", "weights: nowhere.pth\nclasses: 2\nper_class: 2"), ("classes", "classes: {a: 1}"),
    ("sweep.yaml", f"classes: {LONG}"), ("\u00b2", "classes: \u00b2"), ("classes", "classes: 1"), ("stride", "stride: 7"), ("recipe", "recipe: magic"), ("device", "device: tpu"), ("accumulate", "batch_size: 2\naccumulate: 5"), ("merging", "<<: 5\nmethods: [cam]"),
    ("sweep.yaml", "? [a]\n: b"), ("010", "epochs: 010"), ("1:30", "epochs: 1:30"), ("001", "classes: [001, 002]"), ("sweep.yaml", "methods: *a"),
):  # fmt: skip
    bad("sweep file", nothing, wsolkit, named, put("sweep.yaml", text), *SWEEP)
bad("sweep file", nothing, wsolkit, "sweep.yaml", *SWEEP)
bad("sweep file", nothing, wsolkit, "sweep.yaml", folder("sweep.yaml"), *SWEEP)

# the folder of results, in all other commands
for words in (["sweep", *SMALL, "--methods", "cam", "--backbones", "resnet18"], ["train", *SMALL], ["report"]):
    for out in ("afile", "afile/deeper", READ_ONLY, "~no_such_user/x"):
        bad("--out", nothing, wsolkit, out.split("/")[0] or out, *words, "--out", out, put("afile"))
bad(
    "--out",
    lambda: Path("out/runs/synthetic").mkdir(parents=True),
    wsolkit,
    "index.html",
    "report",
    "--out",
    "out",
    folder("out/index.html"),
)
bad(
    "--out",
    lambda: Path("out/runs/synthetic").mkdir(parents=True),
    wsolkit,
    "index.html",
    "report",
    "--out",
    "out",
    put("out/index.html", "mine"),
)
bad("--out", nothing, wsolkit, "holds no runs", "report", "--out", "out", folder("out"))
for out in ("afile", "afile/deeper", READ_ONLY, ""):
    bad("--out", nothing, wsolkit, out.split("/")[0] or out or "empty", "init", out, put("afile"))

# download
for named, *words in (
    ("'ftp://host/a'", "--url", "ftp://host/a"), ("[::1", "--url", "http://[::1"), ("'x'", "--url", "x"), ("afile", "--root", "afile"), ("afile", "--root", "afile/deeper"), (READ_ONLY, "--root", READ_ONLY),
    ("~no_such_user", "--root", "~no_such_user/x"), ("empty", "--root", ""), ("CUB_200_2011.tgz", "--root", "data"), ("CUB_200_2011", "--root", "half"),
):  # fmt: skip
    bad(
        "download",
        nothing,
        wsolkit,
        named,
        "data",
        "cub",
        "--root",
        "here",
        *words,
        put("afile"),
        put("data/CUB_200_2011.tgz", "x"),
        put("half/CUB_200_2011/images.txt"),
    )

# environment
for named, env in (
    ("WORLD_SIZE", {"WORLD_SIZE": "abc"}), ("WORLD_SIZE", {"WORLD_SIZE": "-1"}), ("WORLD_SIZE", {"WORLD_SIZE": "0"}), ("WORLD_SIZE", {"WORLD_SIZE": ""}), ("WORLD_SIZE", {"WORLD_SIZE": LONG}),
    ("RANK", {"WORLD_SIZE": "2"}), ("RANK", {"WORLD_SIZE": "2", "RANK": "5", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}),
    ("MASTER_PORT", {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "70000"}),
    ("RANK", {"WORLD_SIZE": "2", "RANK": "x", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}), ("MASTER_PORT", {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}), ("MASTER_ADDR", {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "1"}),
    ("afile", {"WSOLKIT_OUT": "afile/x"}), ("~no_such_user", {"WSOLKIT_OUT": "~no_such_user/x"}),
):  # fmt: skip
    bad("environment", nothing, partial(wsolkit, env=env), named, "train", *SMALL, put("afile"))
for value in ("abc", "-1", "0", "2.5", LONG):
    bad("environment", nothing, lambda value=value: with_threads(value), "WSOLKIT_THREADS")


def with_threads(value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSOLKIT_THREADS", value)
        wk.Run.of({"dataset": "synthetic"})


# words of a command, and parameters from Python
for named, *words in (
    ("swep", "swep"), ("--epoch", "train", "--epoch", "3"), ("many", "train", "--epochs", "many"), ("'cats'", "train", "--dataset", "cats"), ("cam=0", "sweep", "--limit", "cam=0"), ("cam=", "sweep", "--limit", f"cam={LONG}"),
    ("999", "train", "--classes", LONG), ("\u00b2", "train", "--classes", "\u00b2"), ("dodo", "train", "--classes", "0,dodo"), ("-1", "sweep", "--jobs", "-1"), ("lr", "train", "--lr", "nan"), ("seed", "train", "--seed", str(10**30)),
    ("no_such", "train", "--variant", "no_such"), ("root", "train", "--dataset", "cub"), ("nowhere", "train", "--weights", "nowhere.pth"), ("--dask", "sweep", "--dask-timeout", "0"), ("no_such_user", "train", "--root", "~no_such_user/x", "--dataset", "cub"),
    ("voc2", "data", "convert", "voc2", "x", "--out", "o"), ("'B'", "compare", "a"), ("--checkpoint", "predict", "a.png"), ("'x'", "predict", "a.png", "--checkpoint", "b", "--batch-size", "x"), ("per_class", "train", "--per-class", "-1"), ("epochs must be at least 1, but is 0", "train", "--epochs", "0"), ("size", "sweep", "--size", "0", "--plan"),
):  # fmt: skip
    bad("command line and parameters", nothing, wsolkit, named, *words)
for named, given in (
    ("epochs=5", {"recipe": "frozen", "epochs": 5}), ("'epoch'", {"epoch": 3}), ("epochs", {"epochs": True}), ("epochs", {"epochs": "x"}), ("epochs", {"epochs": [3]}), ("lr", {"lr": float("nan")}), ("root", {"dataset": "cub", "root": "a\0b"}),
    ("val_share", {"val_share": 1}), ("geometry", {"geometry": "zoom"}), ("compile", {"compile": 1}), ("classes", {"classes": 2.5}), ("classes", {"classes": [None]}), ("device", {"device": "tpu"}), ("seed", {"seed": -1}), ("seed", {"seed": 2**64}), ("out", {"out": ["x"]}),
):  # fmt: skip
    bad("command line and parameters", nothing, wk.Run.start, named, **given)
for named, given in (
    ("history.csv", {"out": "own"}),
    ("'tpu'", {"device": "tpu"}), ("afile", {"out": "afile"}), ("afile", {"out": "afile/x"}), (READ_ONLY, {"out": READ_ONLY}), ("epochs", {"epochs": 0}), ("'epoch'", {"epoch": 0}), ("lr", {"lr": float("inf")}), ("3 classes", {"classes": 3}), ("last.pt", {}),
):  # fmt: skip
    bad(
        "fit",
        nothing,
        fit,
        named,
        put("afile"),
        put("own/history.csv", "epoch,loss\n"),
        put("run/last.pt", "x") if named == "last.pt" else nothing,
        **given,
    )

# score_maps, predict, evaluate and score in Python
images = torch.rand(2, 3, 32, 32)
torn = images.clone()
torn[1, 0, 5, 5] = torch.nan


class ByKeyword(torch.nn.Sequential):
    def forward(self, *, pixel_values: torch.Tensor) -> torch.Tensor:
        return super().forward(pixel_values)


class ByHalf(torch.nn.Sequential):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.half())


def layers(kind: type = torch.nn.Sequential, kernel: int = 3, classes: int = 2) -> torch.nn.Module:
    head = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, classes)]
    return kind(torch.nn.Conv2d(3, 4, kernel), *head)


def exported() -> torch.nn.Module:
    return torch.export.export(layers().eval(), (torch.rand(2, 3, 32, 32),)).module()


diverged = layers()
torch.nn.init.constant_(diverged[3].bias, torch.inf)
for named, given in (
    ("(3, 32, 32)", {"images": images[0]}), ("(0, 3, 32, 32)", {"images": images[:0]}), ("uint8", {"images": (images * 255).byte()}), ("ndarray", {"images": images.numpy()}), ("list", {"images": [images]}), ("images", {"images": None}), ("(2, 1, 32, 32)", {"images": images[:, :1]}), ("(2, 32, 32, 3)", {"images": images.permute(0, 2, 3, 1)}), ("(2, 3, 0, 32)", {"images": images[:, :, :0]}),
    ("labels", {"labels": None}), ("float32", {"labels": torch.tensor([0.0, 1.0])}), ("bool", {"labels": torch.tensor([True, False])}), ("(1,)", {"labels": torch.tensor([0])}), ("2", {"labels": torch.tensor([0, 2])}), ("-1", {"labels": [-1, 0]}), ("labels", {"labels": ["cat", "dog"]}), ("labels", {"labels": [0, 10**30]}), ("labels", {"labels": {"a": 1}}),
    ("'no_cam'", {"method": "no_cam"}), ("'soft'", {"method": "cam[soft]"}), ("'nwc'", {"method": "cam[nwc=no]"}), ("None", {"method": None}), ("method", {"method": []}), ("'soft'", {"smooth": "soft"}), ("5", {"smooth": 5}), ("chunk", {"chunk": 0}), ("chunk", {"chunk": True}), ("power must be a number of at least 0 and at most 1000, but is '1e9'", {"method": "affinity_cam[power=1e9]"}), ("1e+30", {"method": "finer_cam", "alpha": 1e30}), ("'no'", {"method": "rethinking_cam", "nwc": "no"}), ("channels", {"method": "score_cam", "channels": 0}), ("channels", {"method": "score_cam", "channels": "3"}), ("'f64'", {"precision": "f64"}), ("'nwc'", {"nwc": False}),
    ("'layer9'", {"layer": "layer9"}), ("int", {"layer": 5}), ("'cls'", {"layer": "body.layer4", "reshape": "cls"}), ("features", {"features": torch.rand(3, 64, 4, 4)}),
    ("(2, 7, 4, 4)", {"features": torch.rand(2, 7, 4, 4)}), ("(2, 7, 4, 4)", {"features": torch.rand(2, 7, 4, 4), "method": ["layer_cam", "grad_cam"], "images": None}), ("ByHalf", {"model": layers(ByHalf).half(), "layer": "0"}),
    ("images 1", {"images": torn}), ("features 0", {"features": torch.full((2, 64, 4, 4), torch.inf)}), ("score_cam", {"model": diverged, "layer": "0", "method": ["grad_cam", "score_cam"]}),
    ("(1, 3, 32, 32)", {"model": layers(kernel=40), "layer": "0"}), ("sparse", {"images": images.to_sparse()}), ("GraphModule", {"model": exported(), "layer": "0"}), ("ByKeyword", {"model": layers(ByKeyword), "layer": "0"}),
):  # fmt: skip
    bad("score_maps", nothing, score_maps, named, **given)
for named, given in (
    ("nowhere.png", {"images": "nowhere.png"}), ("nowhere.png", {"images": [Path("nowhere.png")]}), ("images", {"images": "images"}), ("c.png", {"images": "c.png"}), ("t.png", {"images": "t.png"}), ("b.png", {"images": "b.png"}), ("empty", {"images": ""}),
    ("NoneType", {"images": None}), ("dict", {"images": {"a": 1}}), ("set", {"images": {"a"}}), ("bytes", {"images": b"a"}), ("0 x 0", {"images": Image.new("RGB", (0, 0))}), ("NoneType", {"images": [None]}), ("(10, 20)", {"images": np.zeros((10, 20), np.uint8)}), ("(10, 20, 4)", {"images": np.zeros((10, 20, 4), np.uint8)}), ("float64", {"images": np.zeros((10, 20, 3))}), ("(0, 20, 3)", {"images": np.zeros((0, 20, 3), np.uint8)}), ("Tensor", {"images": images}),
    ("threshold", {"threshold": float("nan")}), ("threshold", {"threshold": -1}), ("threshold", {"threshold": "0.2"}), ("percentile", {"percentile": 101}), ("percentile", {"percentile": "x"}), ("batch_size", {"batch_size": 0}), ("batch_size", {"batch_size": True}), ("label 2", {"label": 2}), ("label", {"label": "cat"}), ("label", {"label": -1}), ("label", {"label": 0.5}),
    ("preprocess", {"preprocess": lambda images: images / 0}), ("dict", {"classes": {"a": 0, "b": 1}}), ("set", {"classes": {"a", "b"}}), ("str", {"classes": "ab"}), ("iterator", {"classes": iter("ab")}), ("one logit", {"model": layers(classes=1), "method": "grad_cam", "layer": "0"}),
    ("1 class names", {"classes": ["a"]}), ("'no_cam'", {"method": "no_cam"}), ("'soft'", {"method": "cam[soft]"}), ("power", {"method": "affinity_cam[power=1e9]"}), ("'nwc'", {"method": "cam[nwc=no]"}), ("'soft'", {"smooth": ["soft"]}), ("geometry", {"geometry": 32}),
):  # fmt: skip
    bad("wk.predict", metadata, predict, named, put("c.png"), put("t.png", "<svg/>"), put("b.png", bomb()), **given)
for named, given in (
    ("'valid'", {"val": "valid"}), ("'best'", {"protocol": "best"}), ("'rethinking_cam'", {"protocol": "rethinking_cam"}), ("'no_cam'", {"method": "no_cam"}), ("'soft'", {"method": "cam[soft]"}), ("power", {"method": "affinity_cam[power=1e9]"}), ("'nwc'", {"method": "cam[nwc=no]"}), ("-1", {"limit": -1}), ("2.5", {"limit": 2.5}), ("'3'", {"limit": "3"}), ("seed", {"seed": -1}), ("seed", {"seed": "x"}), ("'soft'", {"smooth": "soft"}), ("'nwc'", {"nwc": True}), ("batch_size", {"batch_size": 0}), ("dataset", {"dataset": None}), ("dataset", {"dataset": "cub"}),
):  # fmt: skip
    bad("wk.evaluate", nothing, evaluate, named, **given)
eye = np.stack([np.eye(8)] * 2)
good_box = [[2, 2, 9, 9]]
for named, given in (
    ("maps", {"maps": None}), ("(8, 8, 1)", {"maps": eye[..., None]}), ("3", {"maps": np.stack([np.eye(8)] * 3)}), ("no images", {"maps": eye[:0], "labels": None, "logits": None, "boxes": []}), ("complex128", {"maps": eye * 1j}), ("<U", {"maps": np.full((2, 8, 8), "a")}), ("object", {"maps": np.full((2, 8, 8), None)}), ("(0, 8)", {"maps": eye[:, :0]}),
    ("both", {"guesses": np.ones((2, 4), int)}), ("float64", {"maps": None, "guesses": np.ones((2, 4))}), ("(2,)", {"maps": None, "guesses": [1, 2]}),
    ("size", {"size": 0}), ("size", {"size": -1}), ("size", {"size": 2.5}), ("size", {"size": "16"}), ("size", {"size": (1, 2, 3)}), ("size", {"size": None}), ("100000", {"size": 100000}), ("size", {"size": float("nan")}), ("size", {"size": True}),
    ("image 0", {"boxes": [[[2, 2, np.nan, 9]], good_box]}), ("image 0", {"boxes": [[[2, 2, np.inf, 9]], good_box]}), ("image 0", {"boxes": [[[9, 2, 2, 9]], good_box]}), ("image 1", {"boxes": [good_box, []]}), ("(1, 5)", {"boxes": [[[1, 2, 3, 4, 5]], good_box]}), ("image 0", {"boxes": [[["a", "b", "c", "d"]], good_box]}), ("boxes", {"boxes": [good_box]}), ("image 0", {"boxes": [None, good_box]}), ("boxes", {"boxes": 5}),
    ("(3, 3)", {"masks": [np.ones((3, 3)), None]}), ("[7]", {"masks": [np.full((16, 16), 7), None]}), ("foreground", {"masks": [np.zeros((16, 16)), None], "boxes": None}),
    ("float64", {"labels": [0.0, 1.0]}), ("-1", {"labels": [0, -1]}), ("5", {"labels": [0, 5]}), ("labels", {"labels": ["a", "b"]}), ("labels", {"labels": [[0], [1]]}), ("labels", {"labels": [0]}), ("labels", {"labels": None}), ("labels", {"labels": [0, -1], "logits": None, "predicted": [0, 1]}), ("predicted", {"logits": None, "predicted": ["a", "b"]}), ("predicted", {"logits": None, "predicted": [0.5, 1.0]}), ("logits", {"logits": [1, 2]}), ("logits", {"logits": [["a", "b"], ["c", "d"]]}), ("ids", {"ids": ["a"]}), ("ids", {"ids": ["a", "a"]}), ("ids", {"ids": 5}),
    ("'best'", {"protocol": "best"}), ("threshold", {"threshold": float("nan")}), ("threshold", {"threshold": -0.1}), ("threshold", {"threshold": "x"}), ("percentile", {"percentile": 101}), ("percentile", {"percentile": "x"}), ("interval", {"interval": 0}), ("interval", {"interval": float("nan")}), ("interval", {"interval": "x"}), ("samples", {"samples": 0}), ("samples", {"samples": 2.5}), ("seed", {"seed": -1}), ("workers", {"workers": "x"}),
):  # fmt: skip
    bad("wk.score", nothing, score, named, **given)

# annotate
new = [*ANNOTATE, "--out", "new"]
for named, *changes in (
    ("nowhere", "annotate", "nowhere", "--out", "new"), ("PICTURES", "annotate", "--out", "new"), ("pictures/new", *ANNOTATE, "--out", "pictures/new"),
    ("afile", *ANNOTATE, "--out", "afile", put("afile")), ("notes.txt", *ANNOTATE, "--out", "mine", put("mine/notes.txt", "x")), ("pictures", *ANNOTATE, "--out", "pictures"),
    ("affinity_cam", *ANNOTATE, "--method", "cam"), ("affinity_cam", *ANNOTATE, "--max-boxes", "2"), ("affinity_cam", *ANNOTATE, "--threshold", "0.9"),
    ("affinity_cam", *ANNOTATE, gone("pictures/cat/a.png"), gone("pictures/boxes.csv")), ("affinity_cam", *ANNOTATE, best(epoch=2)),
    ("annotation.json", *ANNOTATE, put("out/annotation.json", "{")), ("annotation.json", *ANNOTATE, put("out/annotation.json", "{}")), ("annotation.json", *ANNOTATE, put("out/annotation.json", "[]")),
    ("boxes.jsonl", *ANNOTATE, swap("out/boxes.jsonl", '"size"', '"sighs"')), ("boxes.jsonl", *ANNOTATE, swap("out/boxes.jsonl", "{", "")),
    ("pascal", *new, "--format", "pascal"), ("a.png", *new, "--format", "yolo", lambda: picture("pictures/cat/a.jpg")),
    ("a,b.png", *new, "--format", "csv,wsolevaluation", lambda: picture("pictures/cat/a,b.png")), ("owl", *new, lambda: picture("pictures/owl/a.png")),
    ("owl", *new, folder("pictures/owl")), ("nowhere.pt", *new, "--checkpoint", "nowhere.pt"), ("backbone", *new, "--backbone", "vgg16"),
    ("magic", *new, "--method", "magic"), ("psol", *new, "--method", "psol", "--threshold", "0.3"), ("tpu", *new, "--device", "tpu"),
    ("new", *APPLY, "--out", "new"), ("PICTURES", *APPLY, "pictures"), ("--method", *APPLY, "--method", "cam"), ("pascal", *APPLY, "--format", "pascal"),
    ("complete annotation", *APPLY, gone("out/boxes.jsonl")), ("d.json", *APPLY, put("d.json", "{")), ("d.json", *APPLY, gone("d.json")), ("d.json", *APPLY, folder("d.json")), ("d.json", *APPLY, put("d.json", "[]")),
    ("d.json", *APPLY, decided(written_by="me")), ("d.json", *APPLY, decided(run="other")), ("d.json", *APPLY, decided(decisions=[])),
    ("cat/z.png", *APPLY, decided(decisions={"cat/z.png": {"decision": "accepted"}})), ("cat/a.png", *APPLY, decided(decisions={"cat/a.png": {"decision": "maybe"}})),
    ("cat/a.png", *APPLY, decided(decisions={"cat/a.png": {"decision": "drawn", "boxes": [[0, 0, 20, 5]]}})), ("cat/a.png", *APPLY, decided(decisions={"cat/a.png": 5})),
    ("e.json", *APPLY, "--apply", "e.json"),
):  # fmt: skip
    bad("annotate", annotated, wsolkit, named, *changes)


# ------------------------------------------------------------------------------------------------ the page and its rows

CELLS = [
    [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines() if line.startswith("| ")
]
ROWS: dict[str, list[tuple[str, re.Pattern]]] = {}  # of each place: what is said, and the pattern of it
for places, _, _, said in CELLS:
    for place in places.split(", ") if "`" in said else ():
        pattern = ".*".join(map(re.escape, said.strip("`").split("\u2026")))
        ROWS.setdefault(place, []).append((said, re.compile(pattern, re.S)))


def tree() -> dict[str, Any]:
    """What is in the current folder."""
    paths = sorted(Path().rglob("*"))
    return {str(path): path.read_bytes() if path.is_file() else path.is_symlink() for path in paths}


@pytest.fixture(scope="module")
def copy_of(tmp_path_factory):
    """A folder with good input, made once."""
    made: dict[Change, Path] = {}

    def copy(good: Change, target: Path) -> None:
        if good not in made:
            made[good] = tmp_path_factory.mktemp("good")
            with contextlib.chdir(made[good]):
                good()
        shutil.copytree(made[good], target)

    return copy


def told(call: Callable[[], None]) -> str:
    """The text of the one error, without the mark of a command line."""
    try:
        call()
    except (WsolkitError, OSError, Refused) as error:
        assert getattr(error, "errno", None) is None, f"a bare {error!r}"
        return re.sub("^[eE]rror: ", "", str(error))
    raise AssertionError("no error")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", ROWS)
def test_bad_input_is_told_as_the_page_says_and_changes_no_file(place, copy_of, tmp_path, monkeypatch):
    if "timm" in place:
        pytest.importorskip("timm", reason="timm is not installed: pip install 'wsolkit[timm]'")
    problems, heard = [], set()
    for number, (named, good, call, changes, words, given) in enumerate(BAD[place]):
        copy_of(good, tmp_path / str(number))
        monkeypatch.chdir(tmp_path / str(number))
        for change in changes:
            change()
        before = tree()
        try:
            text = told(partial(call, *words, **given))
        except Exception as error:
            problems.append(f"{number} ({named}): {type(error).__name__}: {error}")
            continue
        rows = {said for said, pattern in ROWS[place] if pattern.fullmatch(text)}
        heard |= rows
        faults = {"no row": not rows, f"{named} is not named": named not in text, "files changed": tree() != before}
        problems += [f"{number}: {fault}: {text[:300]}" for fault, there in faults.items() if there]
    unheard = [f"nobody said: {said}" for said, _ in ROWS[place] if said not in heard]
    assert not problems + unheard, "\n".join(problems + unheard)


def test_the_page_has_the_places_that_are_tried():
    assert set(ROWS) == set(BAD)
    functions = {found for row in CELLS for found in re.findall(r"`(\S+\.py): (?:\w+\.)?(\w+)`", row[2])}
    assert len(functions) > 50
    for file, name in functions:
        assert re.search(rf"(def|class) {name}\b", (PAGE.parents[1] / "wsolkit" / file).read_text()), (file, name)


@pytest.mark.filterwarnings("ignore")
def test_without_the_change_the_input_is_taken(copy_of, tmp_path, monkeypatch):
    """Or the errors above might be about something else."""
    for number, (good, call, words) in enumerate((
        (cub, open_cub, ()), (tiny, open_tiny, ()), (tiny, train_tiny, ()), (pets, open_pets, ()), (ilsvrc, open_ilsvrc, ()), (metadata, open_metadata, ()), (pictures, open_pictures, ()), (masks, open_masks, ()), (voc, wsolkit, CONVERT["voc"]),
        (coco, wsolkit, CONVERT["coco"]), (table, wsolkit, CONVERT["csv"]), (maps, wsolkit, EVALUATE), (boxes, wsolkit, BOXES), (trained, wsolkit, PREDICT), (trained, wsolkit, LOCALISE),
        (annotated, wsolkit, ANNOTATE), (annotated, wsolkit, APPLY),
        (weights, build, ()), (sweep_file, wsolkit, SWEEP), (metadata, predict, ()), (nothing, score, ()), (nothing, score_maps, ()), (nothing, fit, ()), (nothing, evaluate, ()),
    )):  # fmt: skip
        copy_of(good, tmp_path / str(number))
        monkeypatch.chdir(tmp_path / str(number))
        call(*words)
    scores()()
    assert len(wk.ScoreMaps.load("m.npz")) == 2
