"""Images as annotations know them, and their files: finding them, and reading every mode as a viewer shows it.

This is the only reader of images: training, prediction and the converters read through it, so all of them see the same
pixels. Masks are read by OpenCV, as the protocol that they belong to says.
"""

from __future__ import annotations

import contextlib
import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps

from wsolkit.common.errors import WsolkitError, reason, require
from wsolkit.common.files import given_path, listing

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2"}
IMAGE_SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"}
RESULT_MARK = "wsolkit predict"  # near the beginning of every overlay and JSON that the command writes
IGNORE = 255  # in masks
THREADS = 8  # that read the headers of images


@dataclass(frozen=True)
class MaskFiles:
    """Mask files of one image below a folder: one per instance, and the ignored region or None; one file may be both.

    levels: the grey level that is the object, and the one that is ignored; 0 is any level but 0."""

    paths: tuple[str, ...]
    ignore: str | None = None
    root: Path = Path()
    levels: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image as the annotation files know it.

    Attributes:
        id: unique within the dataset, also the name in result files.
        label: class index, 0-based.
        boxes: ground-truth boxes (x0, y0, x1, y1) in original pixels.
        place: the image file, or with `below` the folder in which it has the path `id`: a million images share one
            folder, where as many paths would take half a gigabyte. None where the image is drawn by code.
        size: (width, height) of the original image, where it is known without opening it.
        masks: its mask files, whose instances have the boxes.
    """

    id: str
    label: int
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    place: Path | None = None
    size: tuple[int, int] | None = None
    masks: MaskFiles | None = None
    below: bool = False

    @property
    def path(self) -> Path | None:
        """The image file; None where the image is drawn by code."""
        return self.place / self.id if self.place and self.below else self.place


def read_image(source: str | Path | Image.Image) -> Image.Image:
    """The image as a viewer shows it: RGB, turned as its EXIF orientation says, transparency on white, first frame.

    Args:
        source: a file, or an image that Pillow has opened; both give the same pixels, scaled as `eight_bits` says.

    Raises:
        FileNotFoundError: the file is missing.
        WsolkitError: naming the file, which cannot be decoded or has more pixels than Pillow decodes
            (`PIL.Image.MAX_IMAGE_PIXELS` times 2, 179 million).

    Example:
        >>> read_image(Image.new("RGBA", (2, 1), (255, 0, 0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    if isinstance(source, Image.Image):  # what Pillow has opened it reads now
        with _named(getattr(source, "filename", "") or "the PIL image"):
            return _as_shown(source)
    with _named(source), Image.open(source) as image:
        return _as_shown(image)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an image file as it is shown, turned as its EXIF says, from the header; raises as above."""
    with _named(path), Image.open(path) as image:
        # of a TIFF the size as it is stored, which Pillow turns when it opens the file
        tags = getattr(image, "tag_v2", None)
        width, height = (tags[ExifTags.Base.ImageWidth], tags[ExifTags.Base.ImageLength]) if tags else image.size
        return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def orientation(path: str | Path) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 where it has none."""
    with _named(path), Image.open(path) as image:
        number = _orientation(image)
    return number if number in range(1, 9) else 1


def image_sizes(root: Path, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Path -> (width, height) in pixels of images below `root`; WsolkitError lists the unreadable ones."""
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = {path: pool.submit(image_size, root / path) for path in paths}
    if bad := [f"{path} ({error})" for path, size in sizes.items() if (error := size.exception())]:
        raise WsolkitError(f"{root}: {len(bad)} files are not readable images: {listing(bad)}; replace or remove them")
    return {path: size.result() for path, size in sizes.items()}


def same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether two sizes (width, height) are of one image, perhaps resized and rounded to whole pixels."""
    (width, height), (across, down) = sorted((first, second))
    return abs(height - down * width / across) <= 1 or abs(width - across * height / down) <= 1


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turn what reading an image can raise into one error that names the file."""
    try:
        if Path(path).is_fifo():  # reading would wait for ever
            raise ValueError("it is a pipe, and no file")
        yield
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path or '(an empty name)'}: the image is missing; fetch the dataset again or remove the entry"
        ) from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise WsolkitError(f"{path}: more than {limit:,} pixels; make it smaller first") from None
    except Exception as error:  # Pillow raises many kinds for damaged files (OSError, SyntaxError, struct.error, ...)
        message = f"{path}: not a readable image ({reason(error)}); replace or remove the file (and its entry)"
        raise WsolkitError(message) from error


def _orientation(image: Image.Image) -> int:
    with contextlib.suppress(Exception):  # viewers show an image with a broken EXIF block as it lies, and so do we
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    return 1


def _as_shown(image: Image.Image) -> Image.Image:
    image.load()
    upright = image
    with contextlib.suppress(Exception):  # again a broken EXIF block
        upright = ImageOps.exif_transpose(image) if _orientation(image) != 1 else image
    upright = eight_bits(upright, image.format)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    return upright.convert("RGB")


def eight_bits(image: Image.Image, file_format: str | None) -> Image.Image:
    """A grey image of 16-bit, 32-bit or floating-point values as mode "L", which Pillow would clip at 255 instead of
    scaling; any other mode comes back as it is.

    16-bit values keep their upper byte. 32-bit values (modes "I" and "F") do not say what is white: it is 1 (floating
    point only), 255 or 65535, the smallest that is not exceeded. Negative or larger values, and floating-point ones
    that do not come near their white, are stretched from their smallest to their largest. NaN becomes 0.

    file_format: of the opened file; Pillow gives mode "I" for the 16-bit files of some.
    """
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode not in ("I", "F"):
        return image
    values = np.asarray(image, np.float64)
    known = values[np.isfinite(values)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 0.0)
    whites = (65535,) if file_format in ("PNG", "PPM") else (1, 255, 65535) if image.mode == "F" else (255, 65535)
    white = next((white for white in whites if high <= white), None)
    if low < 0 or white is None or (image.mode == "F" and white > 1 and high < white / 16):
        values, scale = values - low, 255 / (high - low) if high > low else 0.0
    else:
        scale = {1: 255.0, 255: 1.0, 65535: 1 / 256}[white]
    scaled = np.nan_to_num(values * scale, nan=0.0, posinf=255.0, neginf=0.0)
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def read_mask(
    root: str | Path,
    paths: Iterable[str],
    ignore: str | None = None,
    size: int | tuple[int, int] = 224,
    levels: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """(H, W) uint8: 0 background, 1 object, 255 ignore, as wsolevaluation (Choe et al., CVPR 2020) reads them.

    Every file is read as grey values and resized on its own to the frame with OpenCV's nearest neighbour; what is above
    0.5 then, so any value but 0, belongs to it. The object is the union of the instances, and the ignored region the
    ignore mask without the object. Other nearest-neighbour rules (Pillow's) pick other pixels. Values below 256 of
    files with 16 bits, which there become 0, count here: numbers of instances are written so.

    Args:
        root: the folder that the paths are relative to.
        paths: one mask file per instance, at least one.
        ignore: the file of the ignored region; None or "" where nothing is ignored.
        size: side of a square frame, or (H, W), in pixels.
        levels: as in `MaskFiles`.

    Raises:
        WsolkitError: `paths` is empty, or a file is not an image, or a JPEG with noise around its objects.
        FileNotFoundError: a file is missing.
    """
    height, width = (size, size) if isinstance(size, int) else size
    instances = _greys(root, paths, levels[0])
    ignored = _greys(root, [ignore], levels[1]) if ignore else []
    # as float32, as there: OpenCV's code for other types may pick other pixels
    floats = [grey.astype(np.float32) for grey in instances + ignored]
    covered = [cv2.resize(grey, (width, height), interpolation=cv2.INTER_NEAREST) > 0.5 for grey in floats]
    objects = np.any(covered[: len(instances)], axis=0)
    mask = objects.astype(np.uint8)
    if ignore:
        mask[covered[-1] & ~objects] = IGNORE
    return mask


def instance_boxes(
    root: str | Path, paths: Iterable[str], level: int = 0
) -> tuple[list[tuple[float, ...]], tuple[int, int]]:
    """The bounding box (x0, y0, x1, y1) of each instance that is not empty, inclusive corners, in pixels of the first
    mask file (to whose size those of another size are scaled), and its (width, height). level: as in `MaskFiles`."""
    instances = _greys(root, paths, level)
    height, width = instances[0].shape
    boxes: list[tuple[float, ...]] = []
    for grey in instances:
        y, x = np.nonzero(grey)
        if len(x):
            across, down = width / grey.shape[1], height / grey.shape[0]
            boxes.append((x.min() * across, y.min() * down, x.max() * across, y.max() * down))
    return boxes, (width, height)


def _greys(root: str | Path, paths: Iterable[str], level: int = 0) -> list[np.ndarray]:
    """(h, w) uint8 of each file, as the file has it, at most 255; with a level 1 where it has that level and else 0."""
    greys, advice = [], "or remove its line from localization.txt"
    for path in (Path(root) / path for path in paths):
        if not path.is_file():  # OpenCV says nothing but None
            raise FileNotFoundError(f"{path}: the mask is missing; put it there {advice}")
        try:
            grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
        except cv2.error:  # more pixels than OpenCV opens
            grey = None
        if grey is None:
            raise WsolkitError(f"{path}: not a readable mask; replace the file {advice}")
        noisy = path.suffix.lower() in (".jpg", ".jpeg") and len(np.unique(grey)) > 2
        wrong = f"{path}: a mask in JPEG, whose noise of grey values beside the object would count as object"
        require(not noisy, f"{wrong}; save masks as PNG, with 0 outside of the object")
        if grey.dtype != np.uint8 and not level:
            grey = np.ceil(grey).clip(0, 255).astype(np.uint8)
        greys.append((grey == level).astype(np.uint8) if level else grey)
    require(greys, f"a mask below {root} needs at least one file, but there is no path")
    return greys


class ImageFile(NamedTuple):
    """An image on disk; `name` is its path below the deepest folder that holds everything asked for: unique."""

    path: Path
    name: Path


def find_images(
    sources: Sequence[str | Path], unreadable: list[str] | None = None, again: list[str] | None = None
) -> list[ImageFile]:
    """The images of files, folders (searched recursively by suffix, without hidden ones) and globs (`**` is any depth).

    The order is that of `sources`, sorted within each; an image that is reached twice, also through a link, comes once.
    What `wsolkit predict` wrote is passed over.

    Args:
        sources: names of files and folders, and globs.
        unreadable: a list to which folders that cannot be searched are appended, with the reason.
        again: a list to which links to images that are reached otherwise too are appended.

    Raises:
        FileNotFoundError: naming every source that is not there, and every folder or glob without an image.
        WsolkitError: there is no source.
    """
    problems: dict[str, None] = {}  # with the folders, each once
    images: dict[str, Path] = {}
    bases, empty, results = [], [], 0
    for source in map(str, sources):
        base, paths = _expand(source, problems)
        if not paths:
            empty.append(source or "'' (an empty name)")
        kept = [item for item in paths if not is_result(item)]  # a shell names results too, for *.png
        results += len(paths) - len(kept)
        for item in kept:
            bases += [os.path.abspath(base), os.path.dirname(os.path.abspath(item))]
            real = os.path.realpath(item)  # unlike Path.resolve, no error for a link to itself
            other = images.setdefault(real, item)
            if os.path.abspath(other) != os.path.abspath(item):
                if other.is_symlink() and not item.is_symlink():  # the file itself rather than a link to it
                    images[real], other, item = item, item, other
                if again is not None:
                    again.append(f"{item} is {other}")
    if unreadable is not None:
        unreadable += problems
    if empty:
        also = f"; could not be searched: {listing([*problems])}" if problems else ""
        suffixes = f"(folders and globs are searched for {', '.join(sorted(IMAGE_SUFFIXES))}{also})"
        raise FileNotFoundError(f"no such file, or no image in the folder or glob: {listing(empty)} {suffixes}")
    if results and not images:
        raise FileNotFoundError(f"all {results} files are results of wsolkit predict: give the images themselves")
    require(images, "no image asked for: give files, folders or globs")
    common = os.path.commonpath(bases)
    return [ImageFile(path, Path(os.path.relpath(os.path.abspath(path), common))) for path in images.values()]


def is_result(path: Path) -> bool:
    """Whether the file says that `wsolkit predict` wrote it; only what is called .png or .json is opened."""
    with contextlib.suppress(OSError):  # unreadable: whoever reads it next says so
        if path.suffix in (".png", ".json") and path.is_file():
            with open(path, "rb") as file:
                return RESULT_MARK.encode() in file.read(512)
    return False


def read_batches(
    files: Iterable[ImageFile], count: int, pixels: int, failed: list[str]
) -> Iterator[list[tuple[ImageFile, Image.Image]]]:
    """Read images one after the other, at most `count` at a time, fewer once they hold `pixels` pixels together.

    What cannot be read is left out, and why is appended to `failed`.
    """
    batch: list[tuple[ImageFile, Image.Image]] = []
    for file in files:
        try:
            with warnings.catch_warnings():
                # half of the limit, broken EXIF and palette oddities are worth no line each among thousands of images
                warnings.simplefilter("ignore")
                batch.append((file, read_image(file.path)))
        except (ValueError, OSError) as error:
            failed.append(str(error))
        if len(batch) == count or sum(image.width * image.height for _, image in batch) >= pixels:
            yield batch
            batch = []
    if batch:
        yield batch


def images_below(folder: Path, problems: dict[str, None]) -> list[Path]:
    """Images in a folder and all folders in it, linked ones too, each once."""
    paths, seen, text = [], set(), "{0.filename}: the folder cannot be searched ({0.strerror})"
    walk = os.walk(folder, onerror=lambda error: problems.setdefault(text.format(error)), followlinks=True)
    for place, folders, names in walk:
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_fifo())


def _expand(source: str, problems: dict[str, None]) -> tuple[Path, list[Path]]:
    """The deepest folder without a wildcard, and the images, of a file, a folder or a glob."""
    if not source:  # an unset variable of a shell, which Path would take for the current folder
        return Path(), []
    base = path = given_path(source, "a file, a folder or a glob")
    if path.is_file():
        return path.parent, [path]
    if path.is_dir():
        return path, images_below(path, problems)
    while glob.has_magic(str(base)):
        base = base.parent
    if "**" in path.parts:  # glob passes over folders that it cannot list, without a message
        images_below(base, problems)
    matches = [Path(os.path.normpath(match)) for match in sorted(glob.glob(str(path), recursive=True))]
    files = [match for match in matches if match.suffix.lower() in IMAGE_SUFFIXES and match.is_file()]
    return base, files + [path for match in matches if match.is_dir() for path in images_below(match, problems)]
