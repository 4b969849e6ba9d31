"""The jobs of a sweep: one notebook each, in an order that can be run, and what must be there when it is done. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsolkit.common.paths import notebooks_folder
from wsolkit.methods.registry import TRAIN_CHAPTER, Method, declared, study_methods, variant
from wsolkit.runs.fingerprints import page_state
from wsolkit.runs.folder import is_fresh
from wsolkit.runs.parameters import RunConfig


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
        """Where lock, token and the stored specification lie."""
        return self.config.out_folder / "runs" / self.config.dataset

    def plan(self) -> tuple[list[Job], list[Job]]:
        """All jobs, seed by seed, and the reports that are not defined on their backbone."""
        jobs, impossible = [], []
        for number, seed in enumerate(dict.fromkeys(self.seeds or (self.config.seed,))):
            config, prefix = self.config, ""
            if number or seed != config.seed:
                out = config.out_folder / f"seed-{seed}" if number else config.out_folder
                config = config.with_changes(seed=seed, out=str(out))
                prefix = f"seed-{seed}/" if number else ""
            index = self.config.out_folder / "index.html"
            found = plan(config, self.backbones, self.methods, self.limits, prefix, index)
            for whole, part in zip((jobs, impossible), found, strict=True):
                whole += part
        return jobs, impossible


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

    def fresh(self) -> bool:
        """True where result and page are complete and were made from the same parameters, data, code and notebook."""
        return is_fresh(self.folder, self.done, self.html, self.key, page_state())

    def content(self) -> dict[str, Any]:
        """What `wsolkit.sweep.worker` takes."""
        return {
            "notebook": str(self.notebook), "parameters": self.parameters, "config": self.config,
            "folder": str(self.folder), "done": str(self.done), "fingerprint": self.key, "html": str(self.html),
            "title": self.title, "page": page_state(), "home": None if self.home is None else str(self.home),
        }  # fmt: skip


def plan(
    config: RunConfig, backbones: Iterable[str], methods: Iterable[str], limits: dict[str, int], prefix: str = "",
    home: Path | None = None,
) -> tuple[list[Job], list[Job]]:  # fmt: skip
    """All jobs of a grid in an order that can be run, and the reports that are not defined on their backbone.

    Args:
        config: what all runs share.
        limits: images per method; the name "" is for all methods.
        prefix: of the names of the jobs.
        home: the index that pages link to.
    """
    jobs: dict[str, Job] = {}
    impossible = []
    for backbone in dict.fromkeys(backbones):
        base = config.with_changes(backbone=backbone)
        reports = []
        for method in dict.fromkeys(methods):
            own = base.with_changes(limit=limits.get(method, limits.get("", base.limit)))
            entry = declared(method)
            job = _report_job(own, entry, prefix, home)
            if entry.undefined(backbone):
                impossible.append(job)
                continue
            for name in entry.variants_on(backbone):
                for wanted in filter(None, (variant(name).starts_from(base.weights), name)):
                    training = _train_job(base, wanted, prefix, home)
                    jobs.setdefault(training.name, training)
            reports.append(job)
        jobs.update({job.name: job for job in reports})
    return list(jobs.values()), impossible


def _train_job(config: RunConfig, word: str, prefix: str, home: Path | None) -> Job:
    folder = config.training_folder(word)
    name = f"{prefix}{config.dataset}/{config.backbone}/train"
    config, notebook = config.with_changes(limit=0), notebooks_folder() / TRAIN_CHAPTER
    start = variant(word).starts_from(config.weights)
    return Job(
        f"{name} {word}", notebook, {**config.for_notebook(notebook), "variant": word},
        {**config.to_dict(), "variant": word}, folder, folder / "run.json", config.training_key(word),
        folder / "train.html", f"Training {config.backbone} with {variant(word).label} on {config.dataset}",
        (f"{name} {start}",) if start else (), config.training_parts(word), home,
    )  # fmt: skip


def _report_job(config: RunConfig, method: Method, prefix: str, home: Path | None) -> Job:
    folder, variants = config.runs_folder / method.slug, method.variants_on(config.backbone)
    notebook = method.notebook
    parameters = config.for_notebook(notebook)
    if method.name not in study_methods():
        parameters["method"] = method.name
    html = config.out_folder / config.dataset / config.backbone / f"{method.slug}.html"
    name = f"{prefix}{config.dataset}/{config.backbone}"
    return Job(
        f"{name}/{method.name}", notebook, parameters, {**config.to_dict(), "method": method.name}, folder,
        folder / "metrics.json", config.report_key(method.name, variants, notebook), html,
        f"{method.name} on {config.backbone}, {config.dataset}", tuple(f"{name}/train {word}" for word in variants),
        config.report_parts(method.name, variants, notebook), home,
    )  # fmt: skip
