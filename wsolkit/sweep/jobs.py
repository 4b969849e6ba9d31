"""The jobs of a sweep: one notebook each, in an order that can be run, why each would run, and how long that may take.

Files are read here, and none is written. No torch import here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsolkit.common.files import digest
from wsolkit.common.paths import notebooks_folder
from wsolkit.common.progress import about
from wsolkit.methods.registry import TRAIN_CHAPTER, Method, declared, study_methods, variant
from wsolkit.runs import folder as files
from wsolkit.runs.fingerprints import changes, page_state
from wsolkit.runs.parameters import RunConfig

PAGE_SECONDS = 5.0  # for a page alone: nearly all of it is the start of Python


@dataclass(frozen=True)
class Job:
    """One notebook to run. `done` is the file that proves it, `key` what it must say, `needs` the names of other jobs,
    `parts` what `key` is the digest of, `home` the index that its page links to."""

    name: str
    notebook: Path
    parameters: dict[str, Any]
    config: dict[str, Any]
    folder: Path
    done: Path
    key: str
    html: Path
    title: str
    needs: tuple[str, ...] = ()
    parts: dict[str, Any] = field(default_factory=dict)
    home: Path | None = None

    @property
    def trains(self) -> bool:
        """Whether this is a training run, and not a report."""
        return self.done.name == files.TRAINED

    def complete(self) -> bool:
        """True where the result is complete and was made from the same parameters, data, code and notebook."""
        return files.is_complete(self.folder, self.done, self.key)

    def fresh(self) -> bool:
        """True where the result is complete and its page was written from it, with these templates."""
        return files.is_fresh(self.folder, self.done, self.html, self.key, page_state())

    def content(self) -> dict[str, Any]:
        """What `wsolkit.sweep.worker` takes."""
        values = {name: value for name, value in vars(self).items() if name not in ("name", "needs", "parts")}
        return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()} | {"page": page_state()}


@dataclass(frozen=True)
class Grid:
    """What a sweep is asked for on one data set: methods on backbones, with one or more seeds.

    Attributes:
        config: what all runs share; its `out` is the folder of the first seed.
        limits: images per method; the name "" is for all methods.
        seeds: the first seed's runs lie in OUT, those of another one N in OUT/seed-N; empty is the configuration's seed.
    """

    config: RunConfig
    backbones: tuple[str, ...]
    methods: tuple[str, ...]
    limits: dict[str, int] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()

    @property
    def home(self) -> Path:
        """Where the lock and the stored specification lie."""
        return self.config.out_folder / "runs" / self.config.dataset

    def plan(self) -> tuple[list[Job], list[Job]]:
        """All jobs, seed by seed, on each backbone the training runs first, and the reports that are not defined there."""
        jobs: list[Job] = []
        impossible: list[Job] = []
        out = self.config.out_folder
        for number, seed in enumerate(dict.fromkeys(self.seeds or (self.config.seed,))):
            prefix = f"seed-{seed}/" if number else ""
            place = {"out": str(out / prefix)} if number else {}
            for backbone in dict.fromkeys(self.backbones):
                config = self.config.with_changes(seed=seed, backbone=backbone, **place)
                trainings: dict[str, Job] = {}
                reports: list[Job] = []
                for method in map(declared, dict.fromkeys(self.methods)):
                    limit = self.limits.get(method.name, self.limits.get("", config.limit))
                    report = _report(config.with_changes(limit=limit), method, prefix, out / files.INDEX)
                    undefined = method.undefined(backbone)
                    (impossible if undefined else reports).append(report)
                    for used in () if undefined else method.variants_on(backbone):
                        for word in filter(None, (variant(used).starts_from(config.weights), used)):
                            training = _training(config.with_changes(limit=0), word, prefix, out / files.INDEX)
                            trainings.setdefault(word, training)
                jobs += [*trainings.values(), *reports]
        return jobs, impossible


def _training(config: RunConfig, word: str, prefix: str, home: Path) -> Job:
    name, folder = f"{prefix}{config.dataset}/{config.backbone}/train", config.training_folder(word)
    notebook, parts = notebooks_folder() / TRAIN_CHAPTER, config.training_parts(word)
    start = variant(word).starts_from(config.weights)
    return Job(
        name=f"{name} {word}", notebook=notebook, parameters={**config.for_notebook(notebook), "variant": word},
        config={**config.to_dict(), "variant": word}, folder=folder, done=folder / files.TRAINED,
        key=digest(parts), parts=parts, html=folder / files.TRAINING_PAGE, home=home,
        title=f"Training {config.backbone} with {variant(word).label} on {config.dataset}",
        needs=(f"{name} {start}",) if start else (),
    )  # fmt: skip


def _report(config: RunConfig, method: Method, prefix: str, home: Path) -> Job:
    name, folder = f"{prefix}{config.dataset}/{config.backbone}", config.runs_folder / method.slug
    own = {} if method.name in study_methods() else {"method": method.name}  # a chapter of the study knows its method
    parts = config.report_parts(method)
    return Job(
        name=f"{name}/{method.name}", notebook=method.notebook,
        parameters=config.for_notebook(method.notebook) | own, config={**config.to_dict(), "method": method.name},
        folder=folder, done=folder / files.METRICS, key=digest(parts), parts=parts, home=home,
        html=config.out_folder / config.dataset / config.backbone / f"{method.slug}.html",
        title=f"{method.name} on {config.backbone}, {config.dataset}",
        needs=tuple(f"{name}/train {word}" for word in method.variants_on(config.backbone)),
    )  # fmt: skip


# -- why --------------------------------------------------------------------------------------------------------------


def reasons(job: Job, jobs: dict[str, Job]) -> list[str]:
    """Why a job would run, as text; [] where its result is up to date.

    Args:
        jobs: all jobs of the sweep by name.
    """
    folder, before, failure = job.folder, files.content_of(job.done), files.content_of(job.folder / files.FAILURE)
    if (folder / files.FAILURE).exists() and failure.get("status", "failed") == "failed":
        lines = str(failure.get("error", "")).strip().splitlines() or ["no error was written"]
        return [f"failed last time: {lines[-1]}"]
    if job.complete():
        page = files.content_of(folder / files.PAGE)
        stale = {"report page is missing": not job.html.exists(),
                 "report page is older than its numbers": page.get("fingerprint") != job.key,
                 "page template changed": page.get("page") != page_state()}  # fmt: skip
        return [f"{reason} (page only)" for reason, applies in stale.items() if applies][:1]
    if (
        not job.done.exists()
    ):  # a report was never made, a training run perhaps with other parameters, in a folder of its own
        if (folder / files.CHECKPOINT).exists() or (folder / files.EXECUTIONS).exists():
            resumed = (folder / files.CHECKPOINT).exists()
            return ["not finished last time" + ("; goes on from its checkpoint" if resumed else "")]
        others = [files.content_of(path).get("made_from") for path in files.records_like(job.done, [folder.parents[2]])]
        known = [changes(other, job.parts, job.notebook.name) for other in others if isinstance(other, dict)]
        unknown = ["made by an earlier version" if others and not known else "never run"]
        return min(known, key=len, default=unknown) or unknown
    if before.get("status") != "completed":
        return [f"{job.done.name} is damaged"]
    if not isinstance(before.get("made_from"), dict):
        return ["made by an earlier version"]
    if job.trains and not files.is_trained(folder):
        return [f"its network {files.WEIGHTS} is missing"]
    lines = [
        *_training_changes(before["made_from"], job, jobs),
        *changes(before["made_from"], job.parts, job.notebook.name),
    ]
    return list(dict.fromkeys(lines)) or [f"{job.done.name} was changed by hand"]


def _training_changes(before: dict[str, Any], job: Job, jobs: dict[str, Job]) -> list[str]:
    """What differs in the networks that a report uses."""
    lines = []
    trainings = before.get("trainings")
    for word, key in job.parts.get("trainings", {}).items():
        old = trainings.get(word) if isinstance(trainings, dict) else None
        if old == key:
            continue
        training = next(jobs[name] for name in job.needs if name.endswith(f"/train {word}"))
        if not training.complete():
            lines.append(f"its training train {word} is stale")
            continue
        # the network that is wanted has been trained: what differs is told by the record of the one that was used
        record = training.folder.with_name(files.training_name(word, str(old))) / files.TRAINED
        used = files.content_of(record).get("made_from")
        differing = changes(used, training.parts, training.notebook.name) if isinstance(used, dict) else []
        lines += differing or [f"its training train {word} is another one"]
    return lines


# -- time -------------------------------------------------------------------------------------------------------------


def expected_seconds(job: Job) -> float | None:
    """How long a job will take, from an earlier run of it, be it with other parameters (a training run's time goes with its
    epochs) or with another seed; None where there was none."""
    if job.complete():
        return PAGE_SECONDS
    seeds = [job.home.parent / "runs", *sorted(job.home.parent.glob("seed-*/runs"))] if job.home else []
    for path in files.records_like(job.done, [job.folder.parents[2], *seeds]):
        seconds = files.seconds_of(path.parent, path)
        epochs = files.content_of(path).get("recipe", {}).get("epochs")
        now = (
            job.config["tap_epochs" if job.needs else "epochs"] if job.trains else 0
        )  # from another network: a short one
        if seconds is not None and (epochs or not job.trains):
            return seconds * now / epochs if job.trains else seconds
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
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:3]
    for row in rows:
        say("  ".join([row[0].rjust(widths[0]), row[1].ljust(widths[1]), row[2].ljust(widths[2]), row[3]]))
    say(f"{len(jobs) - len(times)} of {len(jobs)} runs are up to date; {len(times)} would run")
    known = [seconds for seconds in times.values() if seconds is not None]
    if known:
        together = about(max(sum(known) / workers, *known))
        others = f", without {len(times) - len(known)} that never ran before" if len(known) < len(times) else ""
        say(f"{together} with {workers} at a time, judged by earlier runs{others}")
