"""Why a job of a sweep would run, how long it took before, and both as a table. Reads files, writes nothing. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from wsolkit.common.progress import about
from wsolkit.methods.registry import declared
from wsolkit.runs.fingerprints import page_state
from wsolkit.runs.folder import (
    CHECKPOINT,
    EXECUTIONS,
    FAILURE,
    PAGE,
    TRAINED,
    WEIGHTS,
    content_of,
    is_complete,
    is_trained,
    seconds_of,
)
from wsolkit.sweep.jobs import Grid, Job

PAGE_SECONDS = 5.0  # for a page alone: nearly all of it is the start of Python
# parts of a result (`RunConfig.training_parts`, `report_parts`) that are digests, in words; all others are parameters
_DIGESTS = {"data": "data", "metadata": "metadata", "masks": "masks", "start": "start weights", "code": "code of {stage}",
            "notebook": "notebook {notebook}"}  # fmt: skip


def reasons(job: Job, jobs: dict[str, Job]) -> list[str]:
    """Why a job would run, in words; [] where its result is up to date.

    Args:
        jobs: all jobs of the sweep by name.
    """
    failure, before = content_of(job.folder / FAILURE), content_of(job.done)
    if (job.folder / FAILURE).exists() and failure.get("status", "failed") == "failed":
        lines = str(failure.get("error", "")).strip().splitlines()
        return [f"failed last time: {lines[-1] if lines else 'no error was written'}"]
    if is_complete(job.folder, job.done, job.key):
        return _page_reasons(job)
    if not job.done.exists():
        return _first_time(job)
    if before.get("status") != "completed":
        return [f"{job.done.name} is damaged"]
    if not isinstance(before.get("made_from"), dict):
        return ["made by an earlier version"]
    if job.trains and not is_trained(job.folder):
        return [f"its network {WEIGHTS} is missing"]
    changes = [*_training_changes(before["made_from"], job, jobs), *_changes(before["made_from"], job)]
    return list(dict.fromkeys(changes)) or [f"{job.done.name} was changed by hand"]


def _page_reasons(job: Job) -> list[str]:
    written = content_of(job.folder / PAGE)
    if not job.html.exists():
        return ["report page is missing (page only)"]
    if written.get("fingerprint") != job.key:
        return ["report page is older than its numbers (page only)"]
    return [] if written.get("page") == page_state() else ["page template changed (page only)"]


def _first_time(job: Job) -> list[str]:
    """Nothing is there: a report was never made, a training run perhaps with other parameters, in a folder of its own."""
    if (job.folder / CHECKPOINT).exists():
        return ["not finished last time; goes on from its checkpoint"]
    if (job.folder / EXECUTIONS).exists():
        return ["not finished last time"]
    others = [content_of(path) for path in _records(job, job.folder.parents[2])]
    known = [other["made_from"] for other in others if isinstance(other.get("made_from"), dict)]
    if not known:
        return ["made by an earlier version" if others else "never run"]
    return min((_changes(old, job) for old in known), key=len) or ["never run"]


def _records(job: Job, runs: Path) -> list[Path]:
    """metrics.json of a report, or run.json of the training runs of the same variant, newest first, in a folder of runs."""
    name = job.folder.name.rpartition("-")[0] + "-*" if job.trains else job.folder.name
    paths = (runs / job.folder.parent.relative_to(job.folder.parents[2])).glob(f"{name}/{job.done.name}")
    return sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)


def _training_changes(before: dict[str, Any], job: Job, jobs: dict[str, Job]) -> list[str]:
    """What differs in the networks that a report uses."""
    lines = []
    trainings = before.get("trainings")
    for variant, key in job.parts.get("trainings", {}).items():
        old = trainings.get(variant) if isinstance(trainings, dict) else None
        if old == key:
            continue
        training = next(jobs[name] for name in job.needs if name.endswith(f"/train {variant}"))
        if not is_complete(training.folder, training.done, training.key):
            lines.append(f"its training train {variant} is stale")
            continue
        # the network that is wanted has been trained: what differs is told by the record of the one that was used
        used = content_of(training.folder.with_name(f"train-{variant}-{str(old)[:8]}") / TRAINED).get("made_from")
        changes = _changes(used, training) if isinstance(used, dict) else []
        lines += changes or [f"its training train {variant} is another one"]
    return lines


def _changes(old: dict[str, Any], job: Job) -> list[str]:
    """What differs between what a result was made from and what the job would make it from, but for its networks."""
    lines = []
    stage = "training" if job.trains else "scoring"
    told = {name: f"{text} changed".format(stage=stage, notebook=job.notebook.name) for name, text in _DIGESTS.items()}
    for name in [name for name in job.parts | old if name not in (*told, "trainings")] + list(told):
        before, now = (list(v) if isinstance(v, tuple) else v for v in (old.get(name), job.parts.get(name)))
        if before != now:
            lines.append(told.get(name) or f"parameter {name} changed from {_shown(before)} to {_shown(now)}")
    return lines


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 40 else text[:37] + "..."


# -- time -------------------------------------------------------------------------------------------------------------


def expected_seconds(job: Job) -> float | None:
    """How long a job will take, from an earlier run of it, be it with other parameters (a training run's time goes with its
    epochs) or with another seed; None where there was none."""
    if is_complete(job.folder, job.done, job.key):
        return PAGE_SECONDS
    places = [job.folder.parents[2]]
    if job.home:
        places += [job.home.parent / "runs", *sorted(job.home.parent.glob("seed-*/runs"))]
    for path in (path for runs in places for path in _records(job, runs)):
        seconds = seconds_of(path.parent, path)
        if job.trains and seconds is not None:
            epochs = content_of(path).get("recipe", {}).get("epochs")
            now = job.config["tap_epochs" if job.needs else "epochs"]  # one that starts from another is a short one
            seconds = seconds * now / epochs if epochs else None
        if seconds is not None:
            return seconds
    return None


def show_plan(grids: Sequence[Grid], workers: int, say: Callable[[str], None]) -> None:
    """Print what a sweep would run, in which order, why, and how long that may take; nothing is run or written."""
    jobs: dict[str, Job] = {}
    for grid in grids:
        todo, impossible = grid.plan()
        jobs |= {job.name: job for job in todo}
        for job in impossible:
            say(f"{job.name}  not defined: {declared(job.config['method']).undefined(job.config['backbone'])}")
    why = {name: reasons(job, jobs) for name, job in jobs.items()}
    times = {name: expected_seconds(jobs[name]) for name in jobs if why[name]}
    rows = [("", "run", "time", "why")] if times else []
    for number, (name, seconds) in enumerate(times.items(), 1):
        rows.append((str(number), name, "" if seconds is None else about(seconds), "; ".join(why[name])))
    widths = [max(len(row[column]) for row in rows) for column in range(3)] if rows else []
    for number, name, time, reason in rows:
        say(f"{number:>{widths[0]}}  {name:<{widths[1]}}  {time:<{widths[2]}}  {reason}")
    say(f"{len(jobs) - len(times)} of {len(jobs)} runs are up to date; {len(times)} would run")
    known = [seconds for seconds in times.values() if seconds is not None]
    if known:
        together = about(max(sum(known) / workers, *known))
        rest = f", without {len(times) - len(known)} that never ran before" if len(known) < len(times) else ""
        say(f"{together} with {workers} at a time, judged by earlier runs{rest}")
