"""Image files: finding them, and reading every mode as the RGB image that a viewer shows. The only reader of images here.

Training, prediction and the converters read through this module, so all of them see the same pixels. (Masks are read by
OpenCV, as the protocol that they belong to says; see `wsolkit.data.masks`.)
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

import numpy as np
from PIL import ExifTags, Image, ImageOps

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2"}
IMAGE_SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"}
RESULT_MARK = "wsolkit predict"  # near the beginning of every overlay and JSON that the command writes
THREADS = 8  # that read the headers of images


# -- reading -----------------------------------------------------------------------------------------------------------


def read_image(source: str | Path | Image.Image) -> Image.Image:
    """The image as a viewer shows it: RGB, turned as its EXIF orientation says, transparency on white, first frame.

    Args:
        source: a file, or an image that Pillow has opened; both give the same pixels. Values of more than eight bits are
            scaled as `eight_bits` says.

    Raises:
        FileNotFoundError: the file is missing.
        WsolkitError: naming the file, which cannot be decoded or has more pixels than Pillow decodes
            (`PIL.Image.MAX_IMAGE_PIXELS` times 2, 179 million).

    Example:
        >>> read_image(Image.new("RGBA", (2, 1), (255, 0, 0, 0))).getpixel((0, 0))
        (255, 255, 255)
    """
    if isinstance(source, Image.Image):
        return _as_shown(source)
    with _named(source), Image.open(source) as image:
        return _as_shown(image)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of an image file as it is shown, so after the rotation that its EXIF data may ask for. Reads the header
    only; raises as `read_image`."""
    with _named(path), Image.open(path) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def image_sizes(root: Path, paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Path -> (width, height) in pixels of images below `root`; WsolkitError lists the unreadable ones."""

    def measure(path: str) -> tuple[int, int] | str:
        try:
            return image_size(root / path)
        except (ValueError, OSError) as error:
            return f"{path} ({error})"

    paths = list(paths)
    with ThreadPoolExecutor(THREADS) as pool:
        sizes = dict(zip(paths, pool.map(measure, paths), strict=True))
    if bad := [problem for problem in sizes.values() if isinstance(problem, str)]:
        raise WsolkitError(f"{root}: {len(bad)} files are not readable images: {listing(bad)}; replace or remove them")
    return {path: size for path, size in sizes.items() if not isinstance(size, str)}


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Turn what reading an image can raise into one error that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: the image is missing; fetch the dataset again or remove the entry") from None
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise WsolkitError(f"{path}: more than {limit:,} pixels; make it smaller first") from None
    except Exception as error:  # Pillow raises many kinds for damaged files (OSError, SyntaxError, struct.error, ...)
        reason = (str(error) or type(error).__name__).splitlines()[0][:150]
        message = f"{path}: not a readable image ({reason}); replace the file or remove its entry"
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
    """A grey image of 16-bit, 32-bit or floating-point values as mode "L", which Pillow would clip at 255 instead of scaling;
    any other mode comes back as it is.

    16-bit values keep their upper byte. 32-bit values (modes "I" and "F") do not say what is white: it is 1 (floating
    point only), 255 or 65535, the smallest that is not exceeded. Negative or larger values, and floating-point ones that
    do not come near their white, are stretched from their smallest to their largest. NaN becomes 0.

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


# -- finding -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageFile:
    """An image on disk; `name` is its path below the deepest folder that holds everything asked for: unique."""

    path: Path
    name: Path


def find_images(sources: Sequence[str | Path], unreadable: list[str] | None = None) -> list[ImageFile]:
    """The images of files, folders (searched recursively by suffix, hidden ones left out) and globs (`**` is any depth).

    The order is that of `sources`, sorted within each; an image that is reached twice, also through a link, comes once.
    What `wsolkit predict` wrote is passed over.

    Args:
        sources: names of files and folders, and globs.
        unreadable: a list to which folders that cannot be searched are appended, with the reason.

    Raises:
        FileNotFoundError: naming every source that is not there, and every folder or glob without an image.
        WsolkitError: there is no source.
    """
    problems: list[str] = []  # with the folders
    images: dict[str, Path] = {}
    bases, empty, results = [], [], 0
    for source in map(str, sources):
        path = Path(source).expanduser()
        if not source:  # an unset variable of a shell, which Path would take for the current folder
            base, paths = path, []
        elif path.is_file():
            base, paths = path.parent, [path]
        elif path.is_dir():
            base, paths = path, _below(path, problems)
        else:
            base, paths = _fixed_part(path), _matches(path, problems)
        if not paths:
            empty.append(source or "'' (an empty name)")
        kept = [item for item in paths if not is_result(item)]  # a shell names results too, for *.png
        results += len(paths) - len(kept)
        for item in kept:
            bases += [os.path.abspath(base), os.path.dirname(os.path.abspath(item))]
            images.setdefault(os.path.realpath(item), item)  # unlike Path.resolve, no error for a link to itself
    problems = list(dict.fromkeys(problems))
    if unreadable is not None:
        unreadable += problems
    if empty:
        also = f"; could not be searched: {listing(problems)}" if problems else ""
        suffixes = f"(folders and globs are searched for {', '.join(sorted(IMAGE_SUFFIXES))}{also})"
        raise FileNotFoundError(f"no such file, or no image in the folder or glob: {listing(empty)} {suffixes}")
    if results and not images:
        raise FileNotFoundError(f"all {results} files are results of wsolkit predict: give the images themselves")
    if not images:
        raise WsolkitError("no image asked for: give files, folders or globs")
    common = os.path.commonpath(bases)
    return [ImageFile(path, Path(os.path.relpath(os.path.abspath(path), common))) for path in images.values()]


def is_result(path: Path) -> bool:
    """Whether the file says that `wsolkit predict` wrote it; only what is called .png or .json is opened."""
    try:
        if path.suffix not in (".png", ".json") or not path.is_file():
            return False
        with open(path, "rb") as file:
            return RESULT_MARK.encode() in file.read(512)
    except OSError:  # unreadable: whoever reads it next says so
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


def _below(folder: Path, problems: list[str]) -> list[Path]:
    """Images in a folder and all folders in it, linked ones too, each once."""
    paths, seen = [], set()

    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: the folder cannot be searched ({error.strerror})")

    for place, folders, names in os.walk(folder, onerror=note, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_fifo())


def _matches(pattern: Path, problems: list[str]) -> list[Path]:
    matches = [Path(os.path.normpath(match)) for match in sorted(glob.glob(str(pattern), recursive=True))]
    files = [path for path in matches if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    if "**" in pattern.parts:  # glob passes over folders that it cannot list, without a message
        _below(_fixed_part(pattern), problems)
    return files + [path for folder in matches if folder.is_dir() for path in _below(folder, problems)]


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part with a wildcard."""
    while glob.has_magic(str(pattern)):
        pattern = pattern.parent
    return pattern
