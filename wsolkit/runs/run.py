"""A run, as notebooks use it: flat parameters become datasets, trained networks, kept score maps, results and files."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsolkit import figures, methods
from wsolkit.boxes.protocols import IVR_SHARE
from wsolkit.boxes.shares import boxes_of_shares
from wsolkit.common.cores import chosen_threads
from wsolkit.common.errors import WsolkitError, reason, require
from wsolkit.common.files import alone, atomic_write_bytes, atomic_write_text, digest, given_path
from wsolkit.common.memory import keep_freed_memory
from wsolkit.common.processes import agreed, device_named, rank, world_size
from wsolkit.data.base import Geometry, WSOLDataset
from wsolkit.data.catalogue import SPLITS, load_dataset
from wsolkit.evaluation.comparison import against_centre_box, against_result
from wsolkit.evaluation.evaluate import Evaluation, evaluate
from wsolkit.evaluation.found_boxes import CORNERS
from wsolkit.evaluation.results import EvalResult
from wsolkit.localisation.localise import ScoreMaps, localise
from wsolkit.methods import psol
from wsolkit.methods.registry import CHOSEN, IVR, METHODS, is_defined, resolve, study_methods
from wsolkit.networks.models import WSOLModel, build_model
from wsolkit.runs import folder as files
from wsolkit.runs.galleries import write_galleries
from wsolkit.runs.parameters import PSEUDO, RunConfig, localising_code, of_notebook
from wsolkit.training.checkpoints import checkpoint, load_checkpoint, restored
from wsolkit.training.loop import fit
from wsolkit.training.recipe import Recipe, recipe_source

GALLERY_IMAGES = 8
PACKAGES = ("wsolkit", "torch", "torchvision", "grad-cam", "numpy", "opencv-python-headless", "papermill")
MISFIT = (RuntimeError, TypeError, KeyError, AttributeError, ValueError)  # what weights raise that do not fit
OF_A_REPORT = ("limit", "device", "compile", "checkpoint_seconds", "out", "method")  # may differ in a report


class Run:
    """One configuration at work.

    >>> run = Run.start(dataset="synthetic", backbone="resnet18")  # doctest: +SKIP
    >>> model = run.model("gap")  # trained now, or loaded when it was trained before  # doctest: +SKIP
    >>> result = run.evaluate("cam")  # doctest: +SKIP
    >>> run.finish("cam", result)  # score maps, table, figures, metrics.json (last)  # doctest: +SKIP
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.started = time.time()
        self.device = device_named(config.device)
        self._datasets: dict[str, WSOLDataset] = {}
        self._models: dict[str, WSOLModel] = {}

    @classmethod
    def start(cls, **parameters: Any) -> Run:
        """From the parameters of a notebook; an unknown or malformed one is an error."""
        return cls(RunConfig.make(**parameters))

    @classmethod
    def of(cls, namespace: dict[str, Any]) -> Run:
        """From a notebook's globals(): every variable that has the name of a parameter is taken as one."""
        torch.set_num_threads(chosen_threads() or torch.get_num_threads())
        keep_freed_memory()
        return cls.start(**of_notebook(namespace))

    def dataset(self, split: str, variant: str = "") -> WSOLDataset:
        """A split of the run's data set, "train", "val" or "test"; each is opened once. With a variant, its images are
        as large as that one's network sees them."""
        if split not in self._datasets:
            values = self.config.to_dict()
            options = {name: values[name] for name in ("per_class", "metadata", "masks") if values[name]}
            options |= {name: values[name] for name in ("size", "geometry", "val_share", "seed")}
            options |= {name: values[name] or None for name in ("root", "classes")}
            self._datasets[split] = load_dataset(self.config.dataset, split, **options)
        opened = self._datasets[split]
        return opened.at(methods.variant(variant).view_of(self.config)["size"]) if variant else opened

    def leave_out(self, ids: Iterable[str]) -> None:
        """Open all splits without the images of these ids, such as unreadable ones."""
        for split in SPLITS if (away := set(ids)) else ():
            opened = self.dataset(split)
            self._datasets[split] = opened.subset([i for i, name in enumerate(opened.ids) if name not in away])

    @property
    def variant(self) -> str:
        """The variant of this backbone's plain network: "fc" for vgg16_fc, else "gap"."""
        return methods.plain_variant(self.config.backbone)

    def recipe(self, variant: str) -> Recipe:
        """The recipe of a variant's training run."""
        return methods.variant(variant).recipe(Recipe.of(self.config, len(self.dataset("train"))), self.config)

    @property
    def recipe_source(self) -> str:
        """Where the recipe's values come from, as text, and which of them a parameter replaced."""
        return recipe_source(self.config)

    def model(self, variant: str | None = None) -> WSOLModel:
        """The trained network of a variant ("gap", "tap", "fc", or the name of a training-time method): loaded where
        the training is complete, else trained (or resumed) now, by all processes of a process group together."""
        variant = variant or self.variant
        if variant not in self._models:
            folder = self.config.training_folder(variant)
            if not files.is_trained(folder):
                self.dataset("train")  # a wrong root or class is noticed before anything is written
                # two notebooks that need the same network train it once
                with alone(f"{folder}.lock") if rank() == 0 else nullcontext():
                    if not agreed(files.is_trained(folder)):
                        self._train(variant, folder)
                    agreed(None)  # the first process writes, all read
            self._models[variant] = load_checkpoint(folder / files.WEIGHTS, self.device)[0]
        return self._models[variant]

    def _train(self, variant: str, folder: Path) -> None:
        c, wanted, recipe, begin = self.config, methods.variant(variant), self.recipe(variant), time.perf_counter()
        train, val = (self.dataset(split, variant) for split in ("train", "val"))
        network = {name: getattr(c, name) for name in ("weights", "tau", "width", "seed")}
        network |= {**wanted.view_of(c), "bare": recipe.frozen and c.weights != "none"}
        batch_norm = {"yes": True, "no": None}[c.batch_norm]
        model = build_model(c.backbone, len(train.classes), wanted.pooling, batch_norm=batch_norm, **network)
        start = wanted.starts_from(c)
        if recipe.frozen and c.weights == "none" and not start:
            text = (
                "frozen without pretrained weights: the head is fitted to the features of a random body; give weights"
            )
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        if start:  # what both have, such as the body; and what is fitted there
            started: Any = self.model(start)
            if hasattr(started, "fitted"):
                model.keep(**{name: tensor.clone() for name, tensor in started.fitted.named_buffers()})
            known, own = started.state_dict(), model.state_dict()
            shared = {name: value for name, value in known.items() if name in own and own[name].shape == value.shape}
            model.load_state_dict(own | shared)
        how: dict[str, Any] = {"compile": c.compile, "checkpoint_seconds": c.checkpoint_seconds}
        how |= {"out": folder, "recipe": recipe, "device": self.device, "objective": wanted.objective()}
        history = fit(model, train, val, **how)
        if rank() != 0:
            return
        best = max(range(len(history)), key=lambda i: (history[i]["val_top1"], -history[i]["val_loss"]))
        content = {"variant": variant, "config": c.to_dict(), "compile": c.compile, "processes": world_size()}
        content |= {"recipe": {"name": c.recipe, "source": self.recipe_source, **recipe.plain()}}
        content |= {"best_epoch": best + 1, "val_top1": history[best]["val_top1"]}
        content |= {"seconds": time.perf_counter() - begin} | self._provenance()
        files.write_result(folder / files.TRAINED, c.training_parts(variant), c.training_key(variant), content)

    def _provenance(self) -> dict[str, Any]:
        return {"versions": versions(), "device": device_name(self.device), "commit": git_commit()}

    def history(self, variant: str | None = None) -> list[dict[str, float]]:
        """Rows of the training run's history.csv, as numbers."""
        return files.read_history(self.config.training_folder(variant or self.variant))

    def evaluate(self, method: str, variant: str | None = None, **options: Any) -> Evaluation:
        """Localise (or read the maps that another report of this network made) and score on the test split.

        The threshold is chosen on the validation split, by true boxes and, where `RunConfig.why_pseudo_boxes` has a
        reason, by `pseudo_boxes` (for DDT's own maps that would be a circle: they keep their fixed threshold). The
        network is that of the method's own variant ("tap" for rethinking_cam, "has" for has, the plain one for most)
        unless `variant` names another. Training-time methods but acol use plain CAM, which the result's conditions say.
        A row ("grad_cam[eigen+aug]") has smoothing and options of its own, beside which those given here count.
        """
        entry = methods.resolve(method)
        variant = variant or entry.variants_on(self.config.backbone)[0]
        how = {"limit": self.config.limit, "localiser": MapStore(self.config, variant), **options}
        how |= {"view": methods.variant(variant).view_of(self.config)["size"]}
        test, val = self.dataset("test"), self.dataset("val")
        if self.config.why_pseudo_boxes and entry.base != PSEUDO:
            how.setdefault("pseudo", self.pseudo_boxes)
        result = evaluate(self.model(variant), test, entry.map, val, seed=self.config.seed, **how)
        result.method, result.variant = entry.name, variant
        used = "pseudo_boxes" in (result.extra["boxes"]["chosen"], *(result.point_ious or ()))
        if used and how.get("pseudo") == self.pseudo_boxes:
            result.conditions["pseudo boxes"] = f"those of {methods.resolve(PSEUDO).label} at its fixed threshold"
        wanted = methods.variant(variant)
        if (objective := wanted.objective()) is not None:  # how a training-time method comes to its map
            settings = objective.settings() or {name: self.model(variant).spec.get(name) for name in ("delta",)}
            known = {name: value for name, value in settings.items() if value is not None}
            values = ", ".join(f"{n} {v if isinstance(v, str) else format(v, '.3g')}" for n, v in known.items())
            trained = f"on a network trained with {wanted.label} ({values})"
            if objective.frozen:
                trained = f"fitted to {len(self.dataset('train'))} training images"
            result.conditions["method"] = f"{methods.resolve(entry.map).label} {trained}"
        return result

    def pseudo_boxes(self, val: WSOLDataset, indices: np.ndarray) -> list[np.ndarray]:
        """The box that DDT cuts at its own fixed threshold in each of some validation images: (1, 4) int64 in the frame
        of `val`, (0, 4) where it cuts none. Its network is fitted to the training images now where that is not done;
        its maps are kept."""
        view = val.at(methods.variant(PSEUDO).view_of(self.config)["size"])
        maps = MapStore(self.config, PSEUDO)(self.model(PSEUDO), view, PSEUDO, indices=indices).maps
        shares, empty = psol.pseudo_boxes(maps, PSEUDO, (val.geometry.size, val.geometry.size))
        boxes = boxes_of_shares(shares, val.geometry.size)[:, None]
        return [own[:0] if blank else own for own, blank in zip(boxes, empty, strict=True)]

    def baseline(self, result: Evaluation) -> Evaluation | None:
        """Plain CAM of the same backbone's plain network, on the images and under the protocol of a result of this run.

        None where the result is plain CAM itself, on vgg16_fc (CAM is not defined there), and where the plain network
        was not trained: nothing is trained for a comparison. Maps that another report has made are read.
        """
        plain = files.is_trained(self.config.training_folder("gap"))
        itself = (result.method, result.variant) == ("cam", "gap")
        if itself or methods.resolve("cam").undefined(self.config.backbone) or not plain:
            return None
        return self.evaluate("cam", "gap", limit=result.limit, protocol=result.protocol)

    def gallery_items(self, result: Evaluation, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """What `figures.gallery` plots, for positions in the result; without a true box and IoU where the result has
        none, and without a map where the method gives boxes."""
        test = self.dataset("test")
        position = {sample.id: i for i, sample in enumerate(test.samples)}
        items = []
        for index in map(int, indices):
            name, label = result.ids[index], test.classes[result.labels[index]]
            pixels = test.geometry.crop(test.pixels([position[name]], test.geometry.side))[0]
            maps = result.maps["test"].maps
            item = {"pixels": pixels, "score_map": None if maps is None else maps[index], "id": name, "label": label}
            if result.boxes is not None:
                item |= {"gt_boxes": result.gt_boxes[index], "box": result.boxes[index]}
                item["iou"] = float(result.ious[index])
            elif result.found is not None and (box := result.found.loc[index, CORNERS]).min() >= 0:
                item["box"] = box.to_numpy(np.int64)
            items.append(item)
        return items

    def folder(self, method: str) -> Path:
        """The folder of a method's report."""
        return self.config.runs_folder / methods.declared(method).slug

    def finish(self, method: str, result: Evaluation, extra: dict[str, Any] | None = None) -> Path:
        """Write everything that belongs to a report; metrics.json comes last and by rename, and means "completed".

        Beside the result it holds what the report page shows: plain CAM on the same images, the differences to it and
        to the centre box ("against"), the folders of the training runs, and the classes' names.
        """
        folder, c, variant, test = self.folder(method), self.config, result.variant, self.dataset("test")
        files.forget_result(folder)
        plain, classes = self.baseline(result), list(test.classes)
        against = {"cam": against_result(result, plain, c.seed) if plain else None}
        against["centre_box"] = against_centre_box(result, c.seed)
        if plain:
            plain.save_per_image(folder / files.PLAIN_CAM)
        for split, maps in result.maps.items():
            if maps.path is None:  # those of a reader's own method, which no other report can use
                maps.save(folder / f"score_maps_{split}.npz")
        result.save_per_image(folder / files.PER_IMAGE)
        if result.found is not None:
            atomic_write_text(folder / files.FOUND, result.found.to_csv(index=False, lineterminator="\n"))
        write_galleries(folder, result, partial(self.gallery_items, result), classes, c.seed)
        gallery = []
        for number, item in enumerate(self.gallery_items(result, range(min(GALLERY_IMAGES, result.n_images)))):
            name = f"{files.GALLERY}/{number}.jpg"
            image = figures.thumbnail(item["pixels"], item["score_map"], item.get("gt_boxes", ()), item.get("box"))
            atomic_write_bytes(folder / name, image)
            caption = f"IoU {figures.iou_text(item['iou'])}" if "iou" in item else ""
            gallery.append({"id": item["id"], "file": name, "caption": caption})
        made_from, faithful = c.report_parts(methods.resolve(method)), {"faithfulness": result.faithfulness}
        content: dict[str, Any] = {"method": method, "config": c.to_dict() | {"method": method, "variant": variant}}
        content |= {"result": result.to_dict(), "against": against, "plain_cam": plain.to_dict() if plain else None}
        content["training"] = c.training_folder(variant).name
        content["plain_training"] = c.training_folder("gap").name if plain else None
        content |= {"maps": {name: os.path.relpath(str(maps.path), folder) for name, maps in result.maps.items()}}
        content |= {"test_images": len(test), "classes": classes, "gallery": gallery}
        shown = [*(folder / files.GALLERIES).iterdir(), *(folder / image["file"] for image in gallery)]
        tables = [folder / name for name in (files.PER_IMAGE, files.PLAIN_CAM, files.FOUND)]
        present = [path.relative_to(folder).as_posix() for path in (*tables, *shown) if path.is_file()]
        content["files"] = sorted(present)
        content |= {"extra": (extra or {}) | (faithful if result.faithfulness else {})} | self._provenance()
        content["wall_seconds"] = time.time() - self.started
        content["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        files.write_result(folder / files.METRICS, made_from, digest(made_from), content)
        return folder / files.METRICS

    def with_changes(self, **changes: Any) -> Run:
        """A second run that differs in some parameters, for experiments."""
        return Run(self.config.with_changes(**changes))


class MapStore:
    """`localise` with a memory, for `evaluate(..., localiser=store)`: what one report localised, the next one reads.

    Maps lie beside the training run that they come from, one file per method, split and settings. Where the plain maps
    of a method are missing that needs only the feature map (and its gradient), those of all such methods of the study
    are made with them: the pass of the body, which is nearly all of the cost, is the same. Two processes do not make
    the same maps: the second waits for the first, but only where it wants the maps that are being made.
    """

    def __init__(self, config: RunConfig, variant: str) -> None:
        self.config, self.variant = config, variant
        self.folder = config.training_folder(variant) / files.MAPS

    def __call__(self, model: WSOLModel, dataset: WSOLDataset, method: str, smooth=(), indices=None, **options: Any):
        """`ScoreMaps` of one method, from the file that holds them or made now; arguments as for `localise`."""
        running = {name: options.pop(name) for name in ("batch_size", "progress") if name in options}
        entry = resolve(method)  # the maps of a row are those of its method with smoothing and options
        method, smooth, options = entry.base, entry.smoothed(smooth), entry.settings | options
        # no file name can tell these maps from all others: those of a user's own method, whose code may change, of
        # random_cam, which should differ each time, or with a module or function among the options
        plain = all(isinstance(value, str | int | float | None) for value in options.values())
        if not plain or method == "random_cam" or not entry.function.__module__.startswith("wsolkit.methods."):
            return localise(model, dataset, method, smooth, indices, **running, **options)
        settings: dict[str, Any] = {"smooth": sorted(smooth), "options": options, "split": dataset.split}
        settings |= {"weights": _weights(model), "indices": None if indices is None else np.asarray(indices).tolist()}
        cheap = not settings["smooth"] and not options and entry.needs != "forward"
        if (kept := self._load(method, settings)) is not None:  # files are written by rename, so reading needs no lock
            return kept
        # one lock, that of plain CAM, for what is made together; one for each of the others, which take long
        with alone(self._path("cam" if cheap else method, settings).with_suffix(".lock")):
            if (kept := self._load(method, settings)) is not None:
                return kept
            names = self._companions(model) if cheap else []  # with those that cost next to nothing beside the features
            names = list(dict.fromkeys([method, *(own for own in names if not self._path(own, settings).exists())]))
            made = localise(model, dataset, names, smooth, indices, **running, **options)
            for name, maps in made.items():
                maps.save(self._path(name, settings))
        return made[method]

    def _companions(self, model: WSOLModel) -> list[str]:
        """Methods whose first report uses this training run, and whose maps cost nearly nothing beside the features."""
        own = [name for name in study_methods() if resolve(name).variants_on(self.config.backbone)[0] == self.variant]
        return [name for name in own if resolve(name).needs != "forward" and is_defined(name, model)[0]]

    def _path(self, method: str, settings: dict[str, Any]) -> Path:
        made_from = {"training": self.config.training_key(self.variant), "code": localising_code(resolve(method))}
        made_from |= {name: version(name) for name in ("torch", "grad-cam")}
        return self.folder / f"{resolve(method).slug}_{settings['split']}_{digest({**settings, **made_from})}.npz"

    def _load(self, method: str, settings: dict[str, Any]) -> ScoreMaps | None:
        try:
            return ScoreMaps.load(self._path(method, settings))
        except (FileNotFoundError, ValueError):  # absent or torn: made again
            return None


def _weights(model: WSOLModel) -> str:
    """Digest of the network's parameters and buffers: maps belong to these, whatever file they came from."""
    total = hashlib.blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().data)
    return total.hexdigest()


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network with what its training run knows.

    Attributes:
        model: in evaluation mode. classes: its class names. geometry: of its input, None where nothing says.
        path: the checkpoint file. run: its run.json, {} where there is none.
    """

    model: WSOLModel
    classes: list[str]
    geometry: Geometry | None
    path: Path
    run: dict[str, Any]

    @property
    def view(self) -> dict[str, Any]:
        """The arguments of `predict` that this training run decides."""
        return {"geometry": self.geometry, "classes": self.classes}

    @property
    def variant(self) -> str:
        """What it was trained as; the pooling, where there is no run.json."""
        return self.run.get("variant") or self.model.pooling

    def remark(self, method: str) -> str:
        """What is to be said where a method asks for a network that was trained in another way; "" where it fits.

        Raises: WsolkitError: the method is nothing but another way to train, e.g. has on a plain network.
        """
        entry, backbone = resolve(method), self.model.backbone
        own = entry.variants_on(backbone)[0]
        if own in (self.variant, methods.plain_variant(backbone)):
            return ""
        text = f"{entry.name} is for a network trained as '{own}', and {self.path} was trained as '{self.variant}'"
        advice = f"; give the best.pt of such a training run, or choose --method {entry.map}"
        require(not self.run or entry.map == entry.name, text + advice)
        return text


def load_trained(path: str | Path, device: str | torch.device = "cpu") -> Trained:
    """Open a checkpoint (best.pt) or the folder of a training run that holds it; the run.json beside it says how large
    inputs are.

    Raises: FileNotFoundError: there is no best.pt. WsolkitError: it, or run.json, cannot be used.
    """
    path = given_path(path, "a best.pt or the folder of a training run")
    if path.is_dir():
        if not (path / files.WEIGHTS).is_file():
            below = [*path.glob(f"*/{files.WEIGHTS}"), *path.glob(f"runs/*/*/*/{files.WEIGHTS}")]
            inside = [str(weights.parent) for weights in sorted(below)]
            hint = f"choose one of {', '.join(inside)}" if inside else "give a best.pt or the folder of a training run"
            raise FileNotFoundError(f"{path} holds no best.pt; {hint}")
        path /= files.WEIGHTS
    content = checkpoint(path)
    try:
        model, classes = restored(content, device), [str(name) for name in content["classes"]]
    except MISFIT as error:
        need = "give the best.pt of a training run"
        raise WsolkitError(f"checkpoint {path} cannot be used ({reason(error)}); {need}") from error
    fault = f"checkpoint {path} has {len(classes)} class names for {model.num_classes} classes; train again"
    require(len(classes) == model.num_classes, fault)
    run, known = files.read_run(path.parent), content.get("geometry")
    try:
        if run and not known:
            known = {"size": run["config"]["size"], "kind": run["config"]["geometry"]}
        geometry = Geometry(**known) if known else None
    except (KeyError, TypeError, ValueError) as error:
        record = path if content.get("geometry") else path.parent / files.TRAINED
        raise WsolkitError(f"{record} is not the record of a training run ({error!r}); restore or remove it") from error
    return Trained(model, classes, geometry, path, run)


def default_threshold(
    trained: Trained, method: str, percentile: float, smooth: Sequence[str] = (), view: Geometry | None = None
) -> tuple[float, str]:
    """The threshold that suits, and where it comes from.

    It is the one that the report of this method chose on validation data, where a metrics.json of the same training
    run lies beside the folder of the training run, and maps are made and thresholded as there; else the published one.
    view: how images reach the network, None is as in the training run.
    """
    fixed = resolve(method).fixed_threshold(percentile), "fixed"
    result, file = _report_beside(trained, method, smooth)
    chosen = result is not None and result.operating_point in ("validation", "pseudo_boxes")
    if result is None or result.threshold is None or not chosen or result.percentile != percentile:
        return fixed
    known = trained.geometry
    if known is not None and view not in (None, known):
        return fixed[0], f"fixed (the one chosen on validation data is for {known.size} px, {known.kind})"
    return result.threshold, f"{result.choice} ({file})"


def with_share(trained: Trained, method: str, smooth: Sequence[str] = (), view: Geometry | None = None) -> str:
    """The name of the method, of a row with ivr=val the one with the share that its report chose (which is found as by
    `default_threshold`), else with the paper's."""
    entry = resolve(method)
    if entry.ivr() != CHOSEN:
        return entry.name
    result = _report_beside(trained, method, smooth)[0] if view in (None, trained.geometry) else None
    return entry.row((), {IVR: IVR_SHARE if result is None else result.extra.get(IVR, IVR_SHARE)}).name


def _report_beside(trained: Trained, method: str, smooth: Sequence[str]) -> tuple[EvalResult | None, Path]:
    """The result of the method's report beside the folder of the training run, if it is of that run, and its file."""
    entry, variant, own = resolve(method), trained.run.get("variant", ""), trained.run.get("config", {})
    of_variant = METHODS.get(variant)
    if of_variant is not None and of_variant.map == entry.base:  # the report has the training-time method's name
        entry = of_variant.row(entry.smooth, entry.settings)
    folder = trained.path.parent.parent / entry.row(smooth).slug
    if not (folder / files.METRICS).is_file():
        return None, folder / files.METRICS
    report = files.read_metrics(folder)
    configs = report.config, own | {"variant": variant}
    compared = [{name: config[name] for name in config if name not in OF_A_REPORT} for config in configs]
    same = compared[0] == compared[1] and report.training == trained.path.resolve().parent.name  # data, code
    return (report.result if same else None), folder / files.METRICS


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, as far as they are installed."""
    result = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # e.g. another build of OpenCV
            result[name] = version(name)
    return result


def device_name(device: torch.device) -> str:
    """The name of a GPU, or the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)


def git_commit() -> str:
    """Short commit of the package's checkout, with "+" where files differ from it; "" outside a checkout."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    how: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, check=True, **how).stdout.strip()
    return ""
