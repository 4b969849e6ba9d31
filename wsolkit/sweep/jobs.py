"""The jobs of a sweep: one notebook each, in an order that can be run, and what must be there when it is done. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsolkit.common.paths import notebooks_folder
from wsolkit.methods.registry import TRAIN_CHAPTER, Method, declared, study_methods, variant
from wsolkit.runs.fingerprints import page_state
from wsolkit.runs.folder import METRICS, TRAINED, is_fresh
from wsolkit.runs.parameters import RunConfig


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
        return self.done.name == TRAINED

    def fresh(self) -> bool:
        """True where result and page are complete and were made from the same parameters, data, code and notebook."""
        return is_fresh(self.folder, self.done, self.html, self.key, page_state())

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
        """All jobs, seed by seed, in an order that can be run, and the reports that are not defined on their backbone."""
        out = self.config.out_folder
        jobs, impossible = [], []
        for number, seed in enumerate(dict.fromkeys(self.seeds or (self.config.seed,))):
            config, prefix = self.config.with_changes(seed=seed), ""
            if number:
                config, prefix = config.with_changes(out=str(out / f"seed-{seed}")), f"seed-{seed}/"
            for backbone in dict.fromkeys(self.backbones):
                some, others = self._on(config.with_changes(backbone=backbone), prefix, out / "index.html")
                jobs, impossible = jobs + some, impossible + others
        return jobs, impossible

    def _on(self, config: RunConfig, prefix: str, home: Path) -> tuple[list[Job], list[Job]]:
        """The jobs on one backbone with one seed, training runs first, and the reports that are not defined there."""
        trainings, reports, impossible = {}, [], []
        for name in dict.fromkeys(self.methods):
            method, limit = declared(name), self.limits.get(name, self.limits.get("", config.limit))
            report = _report(config.with_changes(limit=limit), method, prefix, home)
            if method.undefined(config.backbone):
                impossible.append(report)
                continue
            reports.append(report)
            for used in method.variants_on(config.backbone):
                for trained in filter(None, (variant(used).starts_from(config.weights), used)):
                    trainings.setdefault(trained, _training(config.with_changes(limit=0), trained, prefix, home))
        return [*trainings.values(), *reports], impossible


def _training(config: RunConfig, word: str, prefix: str, home: Path) -> Job:
    name, folder = f"{prefix}{config.dataset}/{config.backbone}/train", config.training_folder(word)
    notebook, start = notebooks_folder() / TRAIN_CHAPTER, variant(word).starts_from(config.weights)
    return Job(
        name=f"{name} {word}", notebook=notebook, parameters={**config.for_notebook(notebook), "variant": word},
        config={**config.to_dict(), "variant": word}, folder=folder, done=folder / TRAINED,
        key=config.training_key(word), parts=config.training_parts(word), html=folder / "train.html", home=home,
        title=f"Training {config.backbone} with {variant(word).label} on {config.dataset}",
        needs=(f"{name} {start}",) if start else (),
    )  # fmt: skip


def _report(config: RunConfig, method: Method, prefix: str, home: Path) -> Job:
    name, folder = f"{prefix}{config.dataset}/{config.backbone}", config.runs_folder / method.slug
    variants = method.variants_on(config.backbone)
    own = {} if method.name in study_methods() else {"method": method.name}  # a chapter of the study knows its method
    return Job(
        name=f"{name}/{method.name}", notebook=method.notebook,
        parameters=config.for_notebook(method.notebook) | own, config={**config.to_dict(), "method": method.name},
        folder=folder, done=folder / METRICS, key=config.report_key(method.name, variants, method.notebook),
        parts=config.report_parts(method.name, variants, method.notebook), home=home,
        html=config.out_folder / config.dataset / config.backbone / f"{method.slug}.html",
        title=f"{method.name} on {config.backbone}, {config.dataset}",
        needs=tuple(f"{name}/train {word}" for word in variants),
    )  # fmt: skip
