"""What lies in the folder of a run, and whether it is complete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsolkit.common.files import read_json, write_json
from wsolkit.runs.fingerprints import PAGE

TRAINED = "run.json"  # of a training run: written last
WEIGHTS = "best.pt"


def is_trained(folder: Path) -> bool:
    """Whether a training run left its record and its network; without the network it goes on from its checkpoint."""
    return (folder / TRAINED).is_file() and (folder / WEIGHTS).is_file()


def is_complete(folder: Path, done: Path, fingerprint: str) -> bool:
    """True where the numbers on disk were made from the same parameters, data, code and notebook, and nothing went wrong."""
    if done.name == TRAINED and not is_trained(folder):
        return False
    content = content_of(done)
    good = content.get("status") == "completed" and content.get("fingerprint") == fingerprint
    return good and not (folder / "failure.json").exists()


def is_fresh(folder: Path, done: Path, html: str | Path | None, fingerprint: str, page: str = "") -> bool:
    """True where the numbers are complete and their page is there; `page`, where it is given, is the state of templates
    (`staleness.page_state`) that the page must have been written with."""
    if not is_complete(folder, done, fingerprint):
        return False
    if not html:
        return True
    written = content_of(folder / PAGE)
    return Path(html).exists() and (
        not page or (written.get("page"), written.get("fingerprint")) == (page, fingerprint)
    )


def seconds_of(folder: Path, done: Path) -> float | None:
    """How long the run in a folder took: as a job, or else (run by plain papermill) by its own account; None where it is
    not known."""
    content = content_of(done)
    found = content_of(folder / PAGE).get("seconds") or content.get("wall_seconds") or content.get("seconds")
    return found if isinstance(found, int | float) else None


def maps_of(folder: Path) -> dict[str, Path]:
    """The files of the score maps by split ("test", "val") behind the report in `folder`; most lie in its training's maps/,
    where other reports read them too."""
    return {split: folder / path for split, path in content_of(folder / "metrics.json").get("maps", {}).items()}


def content_of(path: Path) -> dict[str, Any]:
    """What a JSON file says; {} where it is absent or damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def note_failure(folder: Path, error: str, config: dict[str, Any], status: str = "failed") -> None:
    """Leave failure.json, from which the index tells what went wrong (or, with status "undefined", why there is nothing)."""
    write_json(folder / "failure.json", {"status": status, "error": error, "config": config, "log": "log.txt"})
