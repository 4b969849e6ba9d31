"""What a sweep is asked for: its YAML file, the jobs (one notebook each, in an order that can be run), why each would
run, and how long that may take. No torch import here.

Keys of a file are the parameters of `RunConfig` by name, and those of `SweepFile`. Relative paths start at its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from wsolkit.common.code import notebooks_folder
from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import atomic_write_text, digest, listing, read_yaml
from wsolkit.common.parameters import nearest, parameter, shown
from wsolkit.common.progress import about
from wsolkit.data.catalogue import DATASETS
from wsolkit.methods.registry import TRAIN_CHAPTER, Method, Variant, declared, study_methods, training_methods, variant
from wsolkit.networks.backbones import BACKBONES
from wsolkit.runs import folder as files
from wsolkit.runs.data_check import said_before
from wsolkit.runs.parameters import PSEUDO, RunConfig, absolute, changes, page_state, parameter_lines
from wsolkit.training import CHECKPOINT
from wsolkit.training.recipe import SEEDS

ONCE = ("dataset", "datasets", "out", "jobs", "seed", "seeds", "device")  # not in a section of `datasets`
NAMES: dict[str, Any] = {"title": "a list of names with at least one entry", "min_length": 1}
NUMBERS: dict[str, Any] = {"title": "a list of whole numbers with at least one entry", "min_length": 1}
PAGE_SECONDS = 5.0  # for a page alone: nearly all of it is the start of Python
Say = Callable[[str], None]  # prints a line


@dataclass(frozen=True)
class Job:
    """One notebook to run. `done` is the file that proves it, `key` what it must say, `needs` the names of other jobs,
    `parts` what `key` is the digest of, `home` the index that its page links to, `purpose` why it is there where no
    method asks for it."""

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
    purpose: str = ""

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
        of_plan = ("name", "needs", "parts", "purpose")
        values = {name: value for name, value in vars(self).items() if name not in of_plan}
        return {name: str(v) if isinstance(v, Path) else v for name, v in values.items()} | {"page": page_state()}


def _line(own: Variant, config: RunConfig) -> list[str]:
    """The variants of the training runs that one needs, one after another, its own as the last."""
    start = own.starts_from(config)
    return [*(_line(variant(start), config) if start else ()), own.name]


def _training(config: RunConfig, variant_name: str, prefix: str, home: Path, purpose: str = "") -> Job:
    name, notebook = f"{prefix}{config.dataset}/{config.backbone}/train", notebooks_folder() / TRAIN_CHAPTER
    start, folder = variant(variant_name).starts_from(config), config.training_folder(variant_name)
    own = {"variant": variant_name}
    given, values = config.for_notebook(notebook) | own, config.to_dict() | own
    done, html, needs = folder / files.TRAINED, folder / files.TRAINING_PAGE, (f"{name} {start}",) if start else ()
    title = f"Training {config.backbone} with {variant(variant_name).label} on {config.dataset}"
    name, parts = f"{name} {variant_name}", config.training_parts(variant_name)
    return Job(name, notebook, given, values, folder, done, digest(parts), html, title, needs, parts, home, purpose)


def _report(config: RunConfig, method: Method, prefix: str, home: Path) -> Job:
    name, notebook = f"{prefix}{config.dataset}/{config.backbone}", method.notebook
    own = {"method": method.name} if "method" in parameter_lines(notebook) else {}
    fault = f"{method.name}: {notebook.name} has no parameter method, so that it reports nothing but {method.base}"
    require(own or method.name == method.base, f"{fault}; give it one, or sweep {method.base}")
    given, values = config.for_notebook(notebook) | own, config.to_dict() | {"method": method.name}
    folder, pages = config.runs_folder / method.slug, config.out_folder / config.dataset / config.backbone
    title, parts = f"{method.name} on {config.backbone}, {config.dataset}", config.report_parts(method)
    needs = tuple(f"{name}/train {variant_name}" for variant_name in config.variants_for(method))
    name, done, html = f"{name}/{method.name}", folder / files.METRICS, pages / f"{method.slug}.html"
    return Job(name, notebook, given, values, folder, done, digest(parts), html, title, needs, parts, home)


class SweepFile(RunConfig):
    """The keys of a sweep file: those of `RunConfig`, and lists of what is combined. What `grids` makes is for one data
    set: methods on backbones, with one or more seeds; "" among its limits is for all methods, `out` for the first seed.
    """

    backbones: tuple[str, ...] = parameter(("vgg16", "resnet18"), f"of {', '.join(BACKBONES)}", **NAMES)
    methods: tuple[str, ...] = parameter(
        study_methods(),
        f"training-time methods ({', '.join(training_methods())}) and grad-cam's work too, and any with smoothing or "
        "options, in quotes: 'grad_cam[eigen+aug]'",
        **NAMES,
    )
    seeds: tuple[Annotated[int, Field(ge=0, le=SEEDS)], ...] = parameter(
        (), "the same grid with each seed; the first in OUT, the others in OUT/seed-N", **NUMBERS
    )
    limits: dict[str, Annotated[int, Field(ge=1)]] = parameter(
        {},
        "images of a method and its rows; `limit` is for all others",
        title="a mapping from methods to numbers of images",
    )
    jobs: int = parameter(1, "runs at a time, 0 is one per core (at most 4) or GPU; with --dask one per thread", ge=0)
    datasets: dict[str, Any] = parameter(
        {}, "replace the common keys there, not `dataset`", title="a mapping from data sets to their keys", min_length=1
    )

    @property
    def home(self) -> Path:
        """Where the lock and the stored specification lie."""
        return self.out_folder / "runs" / self.dataset

    def plan(self) -> tuple[list[Job], list[Job]]:
        """All jobs, seed by seed, on each backbone training runs first, and the reports that are undefined there."""
        jobs: list[Job] = []
        impossible: list[Job] = []
        methods = [declared(name) for name in dict.fromkeys(self.methods)]
        out = self.out_folder.absolute()  # one place, whoever looks
        home = out / files.INDEX
        for number, seed in enumerate(dict.fromkeys(self.seeds or (self.seed,))):
            prefix = f"seed-{seed}/" if number else ""
            for backbone in dict.fromkeys(self.backbones):
                config = self.with_changes(seed=seed, backbone=backbone, out=str(out / prefix), limit=0)
                defined = [method for method in methods if not method.undefined(backbone, config.frozen)]
                asked = [name for method in defined for name in method.variants_on(backbone)]
                used = [variant(name) for method in defined for name in config.variants_for(method)]
                names = [name for own in used for name in _line(own, config)]
                for name in dict.fromkeys(names):
                    chosen_by = name == PSEUDO and name not in asked
                    jobs.append(_training(config, name, prefix, home, config.why_pseudo_boxes if chosen_by else ""))
                for method in methods:
                    told = [self.limits[name] for name in (method.name, method.base, "") if name in self.limits]
                    limit = [*told, self.limit][0]
                    report = _report(config.with_changes(limit=limit), method, prefix, home)
                    (jobs if method in defined else impossible).append(report)
        return jobs, impossible


def read(path: str | Path) -> dict[str, Any]:
    """The content of a sweep file, checked and in the form that `grids` takes.

    Raises: WsolkitError, OSError: names file, key, value and what is expected.
    """
    values = read_yaml(Path(path))
    try:
        content = section(values, Path(path).resolve().parent)
        grids(content)  # a mistake in it is reported before it is joined with anything
    except WsolkitError as error:
        raise WsolkitError(f"{path}: {error}") from None
    return content


def section(content: Any, base: Path, inside: str = "") -> dict[str, Any]:
    """Check keys and values, and give what is said in one form: a single seed or backbone is a list of one, a limit for
    all is the limit of the method "", paths are absolute.

    Args:
        content: of a file, of one of its `datasets` (whose name is in `inside`), or options of the command line.
        base: the folder where relative paths start.
    """
    prefix = f"{inside}: " if inside else ""
    if not isinstance(content, dict):
        raise WsolkitError(f"{inside or 'the file'} must be a mapping of keys to values, but is {shown(content)}")
    content = {str(key): value for key, value in content.items()}
    if inside and (once := [key for key in content if key in ONCE]):
        raise WsolkitError(f"key '{inside}.{once[0]}' cannot be set for one data set; set it for all")
    try:
        said = SweepFile(**{key: value for key, value in content.items() if not SweepFile.is_empty(key, value)})
        values = absolute({key: getattr(said, key) for key in content if key in said.model_fields_set}, base)
    except WsolkitError as error:
        text = f"{prefix}{error}"
        if text.endswith((" True", " False")):
            text += "; YAML takes yes, no, on and off for true and false unless they are quoted"
        elif "unknown parameter" in text and not text.endswith("?"):
            text += "; `wsolkit sweep --help` lists the parameters"
        raise WsolkitError(text) from None
    for single, several in (("seed", "seeds"), ("backbone", "backbones"), ("dataset", "datasets")):
        require(not {single, several} <= values.keys(), f"{prefix}give '{single}' or '{several}', not both")
        if single in values and single != "dataset":
            values[several] = (values.pop(single),)
    if "methods" in values:
        odd = [name for name in values["methods"] if ("[" in name) != name.rstrip().endswith("]")]
        require(not odd, f"{prefix}method {listing(odd)}: close the bracket, as in grad_cam[eigen+aug], in quotes")
        values["methods"] = tuple(declared(name).name for name in values["methods"])
    given = values.get("limits", {})
    limits = {declared(name).name: number for name, number in given.items()}
    require(len(limits) == len(given), f"{prefix}limits has two entries for one method: {', '.join(given)}; keep one")
    limits = ({"": values.pop("limit")} if values.get("limit") else {}) | limits
    values |= {"limits": limits} if limits else {}
    for name, own in values.get("datasets", {}).items():
        require(name in DATASETS, f"datasets: '{name}' is none of {', '.join(DATASETS)}{nearest(name, DATASETS)}")
        values["datasets"][name] = section({} if own is None else own, base, f"datasets.{name}")
    return values


def grids(content: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> list[SweepFile]:
    """One grid for each data set.

    Args:
        content: of a file, as `read` returns it; {} without one.
        given: on the command line, as `section` returns it; it wins over the file.

    Raises: WsolkitError: for a value that does not go with the others.
    """
    given = dict(given or {})
    sections = content.get("datasets") or {content.get("dataset", "synthetic"): {}}
    if wanted := given.get("dataset"):
        if "datasets" in content and wanted not in sections:
            raise WsolkitError(f"dataset '{wanted}' is none of the file's datasets {', '.join(sections)}")
        sections = {wanted: sections.get(wanted, {})}
    plain = {name: SweepFile.model_fields[name].default for name in ("backbones", "methods", "limits")}
    plain["seeds"] = (SweepFile.model_fields["seed"].default,)
    whole = [{**plain, **content, **own, **given, "dataset": name} for name, own in sections.items()]
    methods = list(dict.fromkeys(name for values in whole for name in values["methods"]))
    # the command line may choose fewer methods than the file has limits for
    limited = dict.fromkeys(name for values in ([given] if given else whole) for name in values.get("limits", ()))
    known = {"", *methods, *(declared(name).base for name in methods)}
    if strangers := ", ".join(name for name in limited if name not in known):
        raise WsolkitError(f"a limit is for {strangers}, which is not among the methods {', '.join(methods)}")
    result = []
    for values in whole:
        known = {"", *values["methods"], *(declared(name).base for name in values["methods"])}
        limits = {name: number for name, number in values["limits"].items() if name in known}
        first = {"seed": values["seeds"][0], "backbone": values["backbones"][0], "limits": limits}
        grid = SweepFile.make(**{name: v for name, v in values.items() if name not in ("datasets", "jobs")} | first)
        for name in grid.backbones:  # each has its own mistakes
            grid.with_changes(backbone=name)
        result.append(grid)
    return result


def store(grid: SweepFile) -> Path:
    """Write the specification of a sweep as OUT/runs/<dataset>/sweep.yaml, which `read` takes."""
    content = grid.model_dump(mode="json")
    frozen = ("frozen",) if grid.frozen else ()  # by the recipe, say: the index tells by it what is not defined
    asked = dict.fromkeys(("dataset", "backbones", "methods", "limits", *grid.given, *frozen))
    values = {name: content[name] for name in asked if name not in ("backbone", "seed", "out")}
    values |= {"seeds": content["seeds"] or [grid.seed]}
    values |= {"limit": values["limits"].pop("")} if "" in grid.limits else {}
    text = "# What the last sweep of this data set was asked for: `wsolkit sweep --file` takes it.\n"
    path = grid.home / files.SWEEP
    atomic_write_text(path, text + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    return path


def reasons(job: Job, jobs: dict[str, Job]) -> list[str]:
    """Why a job would run, as text; [] where its result is up to date.

    Args:
        jobs: all jobs of the sweep by name.
    """
    folder, before, failure = job.folder, files.content_of(job.done), files.content_of(job.folder / files.FAILURE)
    now, made_from = (job.parts, job.notebook.name), before.get("made_from")
    if (folder / files.FAILURE).exists() and failure.get("status", "failed") == "failed":
        lines = str(failure.get("error", "")).strip().splitlines() or ["no error was written"]
        return [f"failed last time: {lines[-1]}"]
    if job.complete():
        page = files.content_of(folder / files.PAGE)
        stale = {"report page is missing": not job.html.exists()}
        stale["report page is older than its numbers"] = page.get("fingerprint") != job.key
        stale["page template changed"] = page.get("page") != page_state()
        return [f"{reason} (page only)" for reason, applies in stale.items() if applies][:1]
    if not job.done.exists():  # a training run may have been made with other parameters, in a folder of its own
        for name, resumed in ((CHECKPOINT, "; goes on from its checkpoint"), (files.EXECUTIONS, "")):
            if (folder / name).exists():
                return ["not finished last time" + resumed]
        others = [files.content_of(path).get("made_from") for path in files.records_like(job.done, [folder.parents[2]])]
        known = [changes(other, *now) for other in others if isinstance(other, dict)]
        unknown = ["made by an earlier version" if others and not known else "never run"]
        return min(known, key=len, default=unknown) or unknown
    if before.get("status") != "completed":
        return [f"{job.done.name} is damaged"]
    if not isinstance(made_from, dict):
        return ["made by an earlier version"]
    if job.trains and not files.is_trained(folder):
        return [f"its network {files.WEIGHTS} is missing"]
    gone = files.missing(folder, before)
    lines = [*_training_changes(made_from, job, jobs), *changes(made_from, *now)]
    lines += [f"{gone[0]} is missing" + (f", and {len(gone) - 1} more" if len(gone) > 1 else "")] if gone else []
    return list(dict.fromkeys(lines)) or [f"{job.done.name} was changed by hand"]


def _training_changes(before: dict[str, Any], job: Job, jobs: dict[str, Job]) -> Iterator[str]:
    """What differs in the networks that a report uses."""
    known = before.get("trainings")
    known = known if isinstance(known, dict) else {}
    for variant_name, key in job.parts.get("trainings", {}).items():
        if (old := known.get(variant_name)) == key:
            continue
        training = next(jobs[name] for name in job.needs if name.endswith(f"/train {variant_name}"))
        if not training.complete():
            yield f"its training train {variant_name} is stale"
            continue
        # the network that is wanted has been trained: what differs is told by the record of the one that was used
        record = training.folder.with_name(files.training_name(variant_name, str(old))) / files.TRAINED
        used = files.content_of(record).get("made_from")
        differing = changes(used, training.parts, training.notebook.name) if isinstance(used, dict) else []
        yield from differing or [f"its training train {variant_name} is another one"]


def expected_seconds(job: Job) -> float | None:
    """How long a job will take, from an earlier run of it, be it with other parameters (a training run's time goes with
    its epochs) or with another seed; None where there was none."""
    if job.complete():
        return PAGE_SECONDS
    seeds = [job.home.parent / "runs", *sorted(job.home.parent.glob("seed-*/runs"))] if job.home else []
    for path in files.records_like(job.done, [job.folder.parents[2], *seeds]):
        seconds, recipe = files.seconds_of(path.parent, path), files.content_of(path).get("recipe")
        epochs = recipe.get("epochs") if isinstance(recipe, dict) else None
        if seconds is not None and not job.trains:
            return seconds
        if seconds is not None and epochs:  # a network that starts from another one trains for a shorter time
            return seconds * job.config["tap_epochs" if job.needs else "epochs"] / epochs
    return None


def undefined(job: Job) -> str:
    """Why a report has no meaning; "" where it has one."""
    return declared(job.config["method"]).undefined(job.config["backbone"], job.config["frozen"])


def show_plan(grids: Sequence[SweepFile], workers: int, say: Say) -> None:
    """Print what a sweep would run, in which order, why, and how long that may take; nothing is run or written."""
    jobs: dict[str, Job] = {}
    for grid in grids:
        todo, impossible = grid.plan()
        jobs |= {job.name: job for job in todo}
        for job in impossible:
            say(f"{job.name}  not defined: {undefined(job)}")
        if grid.root:
            say(said_before(grid))
    why = {name: reasons(job, jobs) for name, job in jobs.items()}
    times = {name: expected_seconds(jobs[name]) for name in jobs if why[name]}
    rows = [("", "run", "time", "why")] if times else []
    for number, (name, seconds) in enumerate(times.items(), 1):
        said = "; ".join([*why[name], *filter(None, [jobs[name].purpose])])
        rows.append((str(number), name, "" if seconds is None else about(seconds), said))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:3]
    for row in rows:
        say("  ".join([row[0].rjust(widths[0]), row[1].ljust(widths[1]), row[2].ljust(widths[2]), row[3]]))
    say(f"{len(jobs) - len(times)} of {len(jobs)} runs are up to date; {len(times)} would run")
    known = [seconds for seconds in times.values() if seconds is not None]
    if known:
        together = about(max(sum(known) / workers, *known))
        others = f", without {len(times) - len(known)} that never ran before" if len(known) < len(times) else ""
        say(f"{together} with {workers} at a time, judged by earlier runs{others}")
