"""Anyone's pictures: finding them in files, folders and globs, and reading every mode as the RGB picture a viewer shows."""

from __future__ import annotations

import contextlib
import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from wsolkit.common.files import listing
from wsolkit.data.bit_depth import eight_bits

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".avif", ".jp2"}
IMAGE_SUFFIXES |= {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"}
RESULT_MARK = "wsolkit predict"  # near the beginning of every overlay and JSON that the command writes


@dataclass(frozen=True)
class PictureFile:
    """A picture on disk; `name` is its path below the deepest folder that holds everything asked for: unique."""

    path: Path
    name: Path


def find_images(sources: Sequence[str | Path], unreadable: list[str] | None = None) -> list[PictureFile]:
    """The pictures of files, folders (searched recursively by suffix, hidden ones left out) and globs (`**` is any depth).

    The order is that of `sources`, sorted within each; a picture that is reached twice, also through a link, comes once.
    What `wsolkit predict` wrote is passed over. Folders that cannot be listed are appended to `unreadable`, with the reason.
    FileNotFoundError names every source that is not there, and every folder or glob without a picture.
    """
    problems: list[str] = []  # with the folders
    found: dict[str, Path] = {}
    bases, empty, results = [], [], 0
    for source in map(str, sources):
        path = Path(source).expanduser()
        if not source:  # an unset variable of a shell, which Path would take for the current folder
            base, paths = path, []
        elif path.is_file():
            base, paths = path.parent, [path]
        else:
            folder = path.is_dir()
            base, paths = (path, _below(path, problems)) if folder else (_fixed_part(path), _matches(path, problems))
        if not paths:
            empty.append(source or "'' (an empty name)")
        pictures = [item for item in paths if not is_result(item)]  # a shell names results too, for *.png
        results += len(paths) - len(pictures)
        if pictures:
            bases += [os.path.abspath(base), *(os.path.dirname(os.path.abspath(item)) for item in pictures)]
        for item in pictures:
            found.setdefault(os.path.realpath(item), item)  # unlike Path.resolve, no error for a link to itself
    problems = list(dict.fromkeys(problems))
    if unreadable is not None:
        unreadable += problems
    if empty:
        also = f"; could not be searched: {listing(problems)}" if problems else ""
        raise FileNotFoundError(
            f"no such file, or no picture in the folder or glob: {listing(empty)} "
            f"(folders and globs are searched for {', '.join(sorted(IMAGE_SUFFIXES))}{also})"
        )
    if not found and results:
        raise FileNotFoundError(
            f"all {results} files found are results of wsolkit predict: give the pictures themselves"
        )
    if not found:
        raise ValueError("no picture asked for: give files, folders or globs")
    common = os.path.commonpath(bases)
    return [PictureFile(path, Path(os.path.relpath(os.path.abspath(path), common))) for path in found.values()]


def is_result(path: Path) -> bool:
    """Whether the file says that `wsolkit predict` wrote it; only what is called .png or .json is looked into."""
    try:
        if path.suffix not in (".png", ".json") or not path.is_file():
            return False
        with open(path, "rb") as file:
            return RESULT_MARK.encode() in file.read(512)
    except OSError:  # unreadable: whoever reads it next says so
        return False


def _below(folder: Path, problems: list[str]) -> list[Path]:
    """Pictures in a folder and all folders in it, linked ones too, each once."""
    paths, seen = [], set()

    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: the folder cannot be searched ({error.strerror})")

    for where, folders, names in os.walk(folder, onerror=note, followlinks=True):
        if (real := os.path.realpath(where)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths += [Path(where, name) for name in names if not name.startswith(".")]
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_fifo())


def _matches(pattern: Path, problems: list[str]) -> list[Path]:
    matches = [Path(os.path.normpath(match)) for match in sorted(glob.glob(str(pattern), recursive=True))]
    files = [path for path in matches if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    if "**" in pattern.parts:  # glob passes over folders that it cannot list, without a word
        _below(_fixed_part(pattern), problems)
    return files + [path for folder in matches if folder.is_dir() for path in _below(folder, problems)]


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part with a wildcard."""
    while glob.has_magic(str(pattern)):
        pattern = pattern.parent
    return pattern


def read_picture(path: str | Path) -> Image.Image:
    """The picture as a viewer shows it: RGB, turned as its EXIF orientation says, transparency on white, first frame.

    Values of more than eight bits are scaled as in training (`eight_bits`). ValueError (FileNotFoundError) names a file that cannot be decoded, or whose pixels are more than Pillow
    decodes (`PIL.Image.MAX_IMAGE_PIXELS` times 2, 179 million).
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # half of the limit, broken EXIF and palette oddities are worth no line each among thousands of pictures
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.load()
                return _rgb(eight_bits(_upright(image), image.format))
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path}: more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller first") from None
    except Exception as error:  # Pillow raises many kinds for damaged files (OSError, SyntaxError, struct.error, ...)
        reason = (str(error) or type(error).__name__).splitlines()[0][:150]
        raise ValueError(f"{path}: not a readable picture ({reason})") from error


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # viewers show a picture with a broken EXIF block as it lies, so do we
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            return ImageOps.exif_transpose(image)
    return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def batches(
    files: Iterable[PictureFile], count: int, pixels: int, failed: list[str]
) -> Iterator[list[tuple[PictureFile, Image.Image]]]:
    """Read pictures one after the other, at most `count` at a time, fewer once they hold `pixels` pixels together.

    What cannot be read is left out, and why is appended to `failed`.
    """
    batch: list[tuple[PictureFile, Image.Image]] = []
    for file in files:
        try:
            batch.append((file, read_picture(file.path)))
        except (ValueError, OSError) as error:
            failed.append(str(error))
        if len(batch) == count or sum(picture.width * picture.height for _, picture in batch) >= pixels:
            yield batch
            batch = []
    if batch:
        yield batch
