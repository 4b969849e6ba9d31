"""Images of every kind: training, prediction and Pillow's own images give the same pixels; files come once each."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import names, pattern, too_deep, touch
from PIL import ExifTags, Image

from wsolkit.data.base import Geometry, WSOLDataset
from wsolkit.data.images import Sample, find_images, image_size, read_batches, read_image
from wsolkit.localisation.predict import _view

RED = (200, 40, 40)


MODES = (
    "RGB png",
    "RGB jpg",
    "L png",
    "LA png",
    "RGBA png",
    "RGBA webp",
    "P png",
    "P gif",
    "1 png",
    "CMYK jpg",
    "CMYK tif",
)


@pytest.mark.parametrize("kind", [*MODES, "YCbCr jpg", "L bmp"])
def test_every_mode_becomes_rgb(tmp_path, kind):
    mode, suffix = kind.split()
    square = Image.new("RGB", (20, 10), RED)
    path = tmp_path / f"x.{suffix}"
    (square.quantize() if mode == "P" else square.convert(mode)).save(path)
    with Image.open(path) as image:
        assert image.mode in (mode, "RGB"), "the file is what the test is about"
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (20, 10)
    if mode in ("1", "L", "LA"):
        assert np.ptp(np.asarray(image).reshape(-1, 3), axis=1).max() == 0, "grey stays grey"
    else:
        assert np.abs(np.asarray(image).astype(int) - RED).max() <= 8


def test_transparency_lies_on_white(tmp_path):
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :3] = (10, 20, 30, 255)  # the right half is transparent black
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    palette = Image.new("P", (6, 4), 1)
    palette.putpalette([10, 20, 30, 0, 0, 0])
    palette.paste(0, (0, 0, 3, 4))
    palette.save(tmp_path / "p.png", transparency=1)
    palette.save(tmp_path / "bytes.png", transparency=bytes([255, 0]))
    palette.save(tmp_path / "p.gif", transparency=1)
    Image.fromarray(rgba[..., [0, 3]]).convert("LA").save(tmp_path / "la.png")
    for name in ("rgba.png", "p.png", "bytes.png", "p.gif"):
        pixels = np.asarray(read_image(tmp_path / name))
        assert (pixels[:, :3] == (10, 20, 30)).all() and (pixels[:, 3:] == 255).all(), name
    assert (np.asarray(read_image(tmp_path / "la.png"))[:, 3:] == 255).all()


def test_sixteen_bits_keep_their_upper_byte_and_floats_their_range(tmp_path):
    ramp = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(ramp).save(tmp_path / "x.png")
    Image.fromarray(ramp).save(tmp_path / "x.tif")
    Image.fromarray(ramp.astype(np.int32)).save(tmp_path / "i.tif")
    for name in ("x.png", "x.tif", "i.tif"):
        assert np.array_equal(np.asarray(read_image(tmp_path / name))[..., 0], ramp >> 8), name
    Image.fromarray(np.linspace(-3, 5, 256, dtype=np.float32).reshape(16, 16)).save(tmp_path / "f.tif")
    pixels = np.asarray(read_image(tmp_path / "f.tif"))[..., 0]
    assert pixels[0, 0] == 0 and pixels[-1, -1] == 255 and (np.diff(pixels.ravel().astype(int)) >= 0).all()
    Image.fromarray(np.full((3, 3), np.nan, np.float32)).save(tmp_path / "nan.tif")
    assert (np.asarray(read_image(tmp_path / "nan.tif")) == 0).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_exif_rotation(tmp_path, suffix):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned by 90 degrees, clockwise
    pattern(40, 20, (0, 0, 19, 9)).save(tmp_path / f"x.{suffix}", exif=exif)
    pixels = np.asarray(read_image(tmp_path / f"x.{suffix}"))[..., 0]
    assert pixels.shape == (40, 20)
    assert pixels[:18, 12:].min() > 240 and pixels[22:].max() < 15 and pixels[:, :8].max() < 15


def test_a_broken_exif_block_is_no_reason_to_refuse(tmp_path):
    Image.new("RGB", (8, 8), RED).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "x.jpg").size == (8, 8)


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, (0, 0, 255))]
    for name in ("x.gif", "x.webp", "x.png"):
        frames[0].save(
            tmp_path / name, save_all=True, append_images=frames[1:], **{"lossless": True} if "webp" in name else {}
        )
        assert np.abs(np.asarray(read_image(tmp_path / name)).astype(int) - RED).max() <= 2, name


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    whole = tmp_path / "whole.jpg"
    pattern(60, 60, (5, 5, 30, 40)).save(whole)
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:400])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("cut.jpg", "text.png", "empty.png"):
        with pytest.raises(ValueError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"whole.jpg: more than 2,000 pixels"):
        read_image(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # half of the limit: Pillow would only warn
    assert read_image(whole).size == (60, 60)


def test_folders_globs_and_files(tmp_path):
    touch(tmp_path, "a/x.jpg", "a/deep/y.PNG", "a/notes.txt", "a/.hidden.jpg", "a/.git/z.jpg", "b/x.jpg", "odd[1].jpg")
    assert names(find_images([tmp_path / "a"])) == ["deep/y.PNG", "x.jpg"], "relative to the folder"
    assert names(find_images([tmp_path / "a", tmp_path / "b"])) == ["a/deep/y.PNG", "a/x.jpg", "b/x.jpg"]
    assert names(find_images([tmp_path / "a" / "x.jpg", tmp_path / "b" / "x.jpg"])) == ["a/x.jpg", "b/x.jpg"]
    assert names(find_images([tmp_path / "b" / "x.jpg"])) == ["x.jpg"]
    assert names(find_images([f"{tmp_path}/**/*.[jJ]pg"])) == ["a/x.jpg", "b/x.jpg", "odd[1].jpg"]
    assert names(find_images([f"{tmp_path}/[ab]"])) == ["a/deep/y.PNG", "a/x.jpg", "b/x.jpg"], (
        "folders that a glob matches"
    )
    assert names(find_images([tmp_path / "odd[1].jpg"])) == ["odd[1].jpg"], "a name, though it looks like a glob"
    assert names(find_images([tmp_path / "a" / "notes.txt"])) == ["notes.txt"], "asked for by name: tried"


def test_a_picture_comes_once(tmp_path, monkeypatch):
    touch(tmp_path, "a/x.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a" / "x.jpg")
    monkeypatch.chdir(tmp_path)
    assert names(find_images(["a", "a/*.jpg", tmp_path / "a" / "x.jpg", "a/../a/x.jpg", "link.jpg"])) == ["a/x.jpg"]


def test_folders_that_cannot_be_searched_are_named(tmp_path):
    touch(tmp_path, "in/x.jpg", "none/deep/notes.txt")
    too_deep(tmp_path / "in")
    for source in (tmp_path / "in", f"{tmp_path}/in/**/*.jpg", f"{tmp_path}/i*"):
        unreadable: list[str] = []
        assert [file.path.name for file in find_images([source], unreadable)] == ["x.jpg"]
        assert len(unreadable) == 1 and f"{tmp_path}/in/ddd" in unreadable[0] and "too long" in unreadable[0], source
    too_deep(tmp_path / "none" / "deep")
    with pytest.raises(FileNotFoundError, match=r"no image .*none .*could not be searched: .*none/deep/d"):
        find_images([tmp_path / "none"])


def test_linked_folders_are_searched_once_and_links_to_themselves_are_tried(tmp_path):
    touch(tmp_path, "in/x.jpg", "far/y.jpg")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "far")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "loop.jpg").symlink_to("loop.jpg")
    files = find_images([tmp_path / "in"])
    assert names(files) == ["loop.jpg", "more/y.jpg", "x.jpg"]
    failed: list[str] = []
    assert list(read_batches(files, 4, 10**9, failed)) == [] and len(failed) == 3 and "loop.jpg" in failed[0]


def test_one_error_for_everything_that_is_missing(tmp_path):
    touch(tmp_path, "x.jpg", "none/notes.txt")
    many = [tmp_path / f"gone{i}.jpg" for i in range(25)]
    with pytest.raises(FileNotFoundError) as error:
        find_images([tmp_path / "x.jpg", tmp_path / "none", f"{tmp_path}/*.gif", "", *many])
    words = str(error.value)
    assert "'' (an empty name)" in words
    assert all(name in words for name in ("none", "*.gif", "gone0.jpg", "and 8 more")) and "gone24" not in words
    assert "x.jpg," not in words


def test_batches_are_bounded_by_pixels_too(tmp_path):
    for index in range(5):
        Image.new("RGB", (100, 100)).save(tmp_path / f"{index}.png")
    touch(tmp_path, "3a.png")
    failed: list[str] = []
    assert [len(batch) for batch in read_batches(find_images([tmp_path]), 4, 10**9, failed)] == [4, 1]
    assert len(failed) == 1 and "3a.png" in failed[0]
    assert [len(batch) for batch in read_batches(find_images([tmp_path]), 4, 20_000, failed)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("RGB", (10, 200, 30), "png", (10, 200, 30)),
        ("L", 77, "jpg", (77, 77, 77)),
        ("1", 1, "png", (255, 255, 255)),
        ("LA", (99, 255), "png", (99, 99, 99)),
        ("LA", (99, 0), "png", (255, 255, 255)),
        ("RGBA", (10, 200, 30, 255), "png", (10, 200, 30)),
        ("RGBA", (10, 200, 30, 128), "png", (132, 227, 142)),
        ("CMYK", (0, 255, 255, 0), "jpg", (255, 0, 0)),
        ("I;16", 128 * 257, "png", (128, 128, 128)),
        ("I;16", 257, "tif", (1, 1, 1)),
        ("I", 128 * 257, "tif", (128, 128, 128)),
        ("I", 77, "tif", (77, 77, 77)),
        ("F", 0.5, "tif", (127, 127, 127)),
        ("F", 200.0, "tif", (200, 200, 200)),
    ],
)
def test_every_kind_of_image_becomes_rgb(tmp_path, mode, colour, suffix, expected):
    Image.new(mode, (12, 9), colour).save(tmp_path / f"image.{suffix}")
    image = read_image(tmp_path / f"image.{suffix}")
    assert (image.mode, image.size) == ("RGB", (12, 9))
    assert np.abs(np.array(image.getpixel((5, 5))) - expected).max() <= 2


def test_palette_image(tmp_path):
    image = Image.new("P", (12, 9), 1)
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.save(tmp_path / "image.gif")
    assert read_image(tmp_path / "image.gif").getpixel((3, 3)) == (10, 200, 30)


# ------------------------------------------------------------------------------------------------ the same everywhere


def turned():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return {"exif": exif}


def coloured(mode):
    """24 x 12, black with a white left part; half of it transparent over a colour that nobody is to see."""
    image = pattern(24, 12, (0, 0, 11, 11)).convert(mode if mode not in ("PA", "P") else "RGBA")
    if mode in ("RGBA", "LA", "PA"):
        alpha = np.full((12, 24), 255, np.uint8)
        alpha[6:] = np.linspace(0, 255, 24).astype(np.uint8)
        image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [("rgb.png", "RGB", {}), ("rgb.jpg", "RGB", {}), ("turned.jpg", "RGB", turned()), ("turned.png", "RGB", turned()),
     ("rgba.png", "RGBA", {}), ("rgba.webp", "RGBA", {}), ("la.png", "LA", {}), ("grey.png", "L", {}),
     ("one.png", "1", {}),
     ("key.png", "L", {"transparency": 0}), ("colour key.png", "RGB", {"transparency": (0, 0, 0)}),
     ("bit key.png", "1", {"transparency": 0}), ("cmyk.tif", "CMYK", {}), ("cmyk.jpg", "CMYK", {}),
     ("sixteen.png", "I;16", {}),
     ("sixteen.tif", "I;16", {}), ("float.tif", "F", {}), ("palette.png", "P", {}), ("palette.gif", "P", {}),
     ("turned transparent.png", "RGBA", turned())],
)  # fmt: skip
def test_training_prediction_and_pillow_see_the_same_pixels(tmp_path, name, mode, options):
    path = tmp_path / name
    image = coloured("L") if mode in ("I;16", "F", "P") else coloured(mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(np.asarray(image).astype(np.float32) / 255)
    elif mode == "P":
        image = coloured("RGB").quantize(4)
        options = {"transparency": 0}
    image.save(path, **options)
    geometry = Geometry(16)
    dataset = WSOLDataset("made", "train", ["a", "b"], [Sample(name, 0, ((0, 0, 3, 3),), path)], geometry)
    trained_on = dataset.pixels([0], geometry.size)[0]
    seen, size = _view(path, geometry)
    assert np.array_equal(trained_on, seen)
    assert np.array_equal(np.asarray(dataset.load(dataset.samples[0])[0]), np.asarray(read_image(path)))
    with Image.open(path) as opened:
        again, size_again = _view(opened, geometry)
    assert np.array_equal(seen, again) and size == size_again == image_size(path)
    assert size == ((12, 24) if "turned" in name else (24, 12))


def test_hidden_colours_do_not_reach_training(tmp_path):
    """A fully transparent image is white, whatever its file keeps below."""
    Image.new("RGBA", (8, 8), (200, 10, 10, 0)).save(tmp_path / "a.png")
    dataset = WSOLDataset("made", "train", ["a", "b"], [Sample("a.png", 0, (), tmp_path / "a.png")], Geometry(8))
    assert (dataset.pixels([0], 8) == 255).all()


def test_a_broken_exif_block_has_the_size_it_is_shown_in(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert image_size(tmp_path / "x.jpg") == read_image(tmp_path / "x.jpg").size == (8, 6)


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_size_of_a_turned_image_is_that_in_which_it_is_shown(tmp_path, suffix, number):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    Image.new("RGB", (8, 6)).save(tmp_path / f"x.{suffix}", exif=exif)
    size = (6, 8) if number > 4 else (8, 6)
    assert image_size(tmp_path / f"x.{suffix}") == read_image(tmp_path / f"x.{suffix}").size == size


def test_a_link_to_an_image_comes_once_under_the_name_of_the_file(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "zebra.jpg")
    (tmp_path / "alias.jpg").symlink_to("zebra.jpg")
    again: list[str] = []
    assert [file.path.name for file in find_images([tmp_path], again=again)] == ["zebra.jpg"]
    assert again == [f"{tmp_path / 'alias.jpg'} is {tmp_path / 'zebra.jpg'}"]
    again.clear()
    assert len(find_images([tmp_path / "alias.jpg", tmp_path / "alias.jpg"], again=again)) == 1 and not again
