"""A run, as notebooks use it: the flat parameters become datasets, trained models, results and files in their places."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsolkit import figures, methods
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import alone, atomic_write_bytes, digest
from wsolkit.common.processes import agreed, rank, together, world_size
from wsolkit.data.base import WSOLDataset
from wsolkit.data.catalogue import load_dataset
from wsolkit.evaluation.comparison import against_centre_box, against_result
from wsolkit.evaluation.evaluate import Evaluation, evaluate
from wsolkit.networks.models import WSOLModel, build_model
from wsolkit.runs import folder as files
from wsolkit.runs import galleries
from wsolkit.runs.map_store import MapStore
from wsolkit.runs.parameters import RunConfig, of_notebook
from wsolkit.training.checkpoints import load_checkpoint
from wsolkit.training.loop import fit
from wsolkit.training.recipe import Recipe, recipe_source

GALLERY_IMAGES = 8
PACKAGES = ("wsolkit", "torch", "torchvision", "grad-cam", "numpy", "opencv-python-headless", "papermill")


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
        self.device = _device(config.device)
        self._datasets: dict[str, WSOLDataset] = {}
        self._models: dict[str, WSOLModel] = {}

    @classmethod
    def start(cls, **parameters: Any) -> Run:
        """From the parameters of a notebook; an unknown or malformed one is an error."""
        return cls(RunConfig.make(**parameters))

    @classmethod
    def of(cls, namespace: dict[str, Any]) -> Run:
        """From a notebook's globals(): every variable that has the name of a parameter is taken as one."""
        torch.set_num_threads(int(os.environ.get("WSOLKIT_THREADS") or torch.get_num_threads()))
        return cls.start(**of_notebook(namespace))

    # -- data and networks ---------------------------------------------------------------------------------------------

    def dataset(self, split: str) -> WSOLDataset:
        if split not in self._datasets:
            values = self.config.to_dict()
            options = {name: values[name] for name in ("per_class", "metadata", "masks") if values[name]}
            options |= {name: values[name] for name in ("size", "geometry", "val_share", "seed")}
            options |= {name: values[name] or None for name in ("root", "classes")}
            self._datasets[split] = load_dataset(self.config.dataset, split, **options)
        return self._datasets[split]

    @property
    def variant(self) -> str:
        """The variant of this backbone's plain network: "fc" for vgg16_fc, else "gap"."""
        return methods.plain_variant(self.config.backbone)

    def recipe(self, variant: str) -> Recipe:
        """The recipe of a variant's training run."""
        return methods.variant(variant).recipe(Recipe.of(self.config, len(self.dataset("train"))), self.config)

    @property
    def recipe_source(self) -> str:
        """Where the recipe's values come from, in words, and which of them a parameter replaced."""
        return recipe_source(self.config)

    def model(self, variant: str | None = None) -> WSOLModel:
        """The trained network of a variant ("gap", "tap", "fc", or the name of a training-time method): loaded where
        the training is complete, else trained (or resumed) now, by all processes of a process group together."""
        variant = variant or self.variant
        if variant in self._models:
            return self._models[variant]
        folder = self.config.training_folder(variant)
        if not files.is_trained(folder):
            self.dataset("train")  # a wrong root or class is noticed before anything is written
            # two notebooks that need the same network train it once
            with alone(f"{folder}.lock") if rank() == 0 else nullcontext():
                if not agreed(files.is_trained(folder)):
                    self._train(variant, folder)
                together()  # the first process writes, all read
        model, _ = load_checkpoint(folder / files.WEIGHTS, self.device)
        self._models[variant] = model
        return model

    def _train(self, variant: str, folder: Path) -> None:
        c, wanted = self.config, methods.variant(variant)
        begin = time.perf_counter()
        train, val = self.dataset("train"), self.dataset("val")
        model = build_model(
            c.backbone, len(train.classes), pooling=wanted.pooling, weights=c.weights, stride=c.stride, tau=c.tau, width=c.width,
            batch_norm={"yes": True, "no": None}[c.batch_norm], seed=c.seed,
        )  # fmt: skip
        if start := wanted.starts_from(c.weights):
            model.load_state_dict(self.model(start).state_dict())
        recipe = self.recipe(variant)
        history = fit(
            model, train, val, out=folder, recipe=recipe, device=self.device, objective=wanted.objective(), compile=c.compile,
            checkpoint_seconds=c.checkpoint_seconds,
        )  # fmt: skip
        if rank() != 0:
            return
        best = max(range(len(history)), key=lambda i: (history[i]["val_top1"], -history[i]["val_loss"]))
        files.write_result(folder / files.TRAINED, c.training_parts(variant), c.training_key(variant), {
            "variant": variant, "config": c.to_dict(),
            "recipe": {"name": c.recipe, "source": self.recipe_source, **recipe.plain()},
            "compile": c.compile, "processes": world_size(), "best_epoch": best + 1,
            "val_top1": history[best]["val_top1"], "seconds": time.perf_counter() - begin, "versions": versions(),
            "device": device_name(self.device), "commit": git_commit(),
        })  # fmt: skip

    def history(self, variant: str | None = None) -> list[dict[Any, float]]:
        """Rows of the training run's history.csv, as numbers."""
        import pandas as pd

        path = self.config.training_folder(variant or self.variant) / files.HISTORY
        return pd.read_csv(path).to_dict("records")

    # -- results -------------------------------------------------------------------------------------------------------

    def evaluate(self, method: str, variant: str | None = None, **options: Any) -> Evaluation:
        """Localise (or read the maps that another report of this network made) and score on the test split; the threshold
        is chosen on the validation split.

        The network is that of the method's own variant ("tap" for rethinking_cam, "has" for has, the plain one for most)
        unless `variant` names another. Training-time methods but acol use plain CAM, which the result's conditions say.
        """
        entry = methods.resolve(method)
        variant = variant or entry.variants_on(self.config.backbone)[0]
        result = evaluate(
            self.model(variant), self.dataset("test"), entry.map, val=self.dataset("val"), seed=self.config.seed,
            localiser=MapStore(self.config, variant), **{"limit": self.config.limit, **options},
        )  # fmt: skip
        result.method, result.variant = entry.name, variant
        if (how := self._how(variant, entry.map)) is not None:
            result.conditions["method"] = how
        return result

    def baseline(self, result: Evaluation) -> Evaluation | None:
        """Plain CAM of the same backbone's plain network, on the images and under the protocol of a result of this run.

        None where the result is plain CAM itself, on vgg16_fc (CAM is not defined there), and where the plain network was
        not trained: nothing is trained for a comparison. Maps that another report has made are read.
        """
        plain = files.is_trained(self.config.training_folder("gap"))
        itself = (result.method, result.variant) == ("cam", "gap")
        if itself or methods.resolve("cam").undefined(self.config.backbone) or not plain:
            return None
        return self.evaluate("cam", "gap", limit=result.limit, protocol=result.protocol)

    def _how(self, variant: str, drawn: str) -> str | None:
        """How a training-time method comes to its map, in words; None on a network that was trained plainly."""
        wanted = methods.variant(variant)
        if (objective := wanted.objective()) is None:
            return None
        settings = objective.settings() or {"delta": self.model(variant).spec["delta"]}
        values = ", ".join(f"{name} {value:.3g}" for name, value in settings.items())
        return f"{methods.resolve(drawn).label} on a network trained with {wanted.label} ({values})"

    def gallery_items(self, result: Evaluation, indices: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """What `figures.gallery` draws, for positions in the result; without boxes where the result has none."""
        test, ids, labels = self.dataset("test"), result.ids, result.labels
        boxes, truths, ious = result.boxes, result.gt_boxes, result.ious
        assert ids is not None and labels is not None
        position = {sample.id: i for i, sample in enumerate(test.samples)}
        items = []
        for index in map(int, indices):
            pixels = test.geometry.crop(test.pixels([position[ids[index]]], test.geometry.side))[0]
            label = test.classes[labels[index]]
            item = {"pixels": pixels, "score_map": result.maps["test"].maps[index], "id": ids[index], "label": label}
            if boxes is not None and truths is not None and ious is not None:
                item |= {"gt_boxes": truths[index], "box": boxes[index], "iou": float(ious[index])}
            items.append(item)
        return items

    def folder(self, method: str) -> Path:
        return self.config.runs_folder / methods.declared(method).slug

    def finish(self, method: str, result: Evaluation, extra: dict[str, Any] | None = None) -> Path:
        """Write everything that belongs to a report; metrics.json comes last and by rename, and means "completed".

        Beside the result it holds what the report page shows: plain CAM on the same images, the differences to it and to
        the centre box ("against"), the folders of the trainings, and the classes' names.
        """
        folder = self.folder(method)
        files.forget_result(folder)
        plain, variant, seed = self.baseline(result), result.variant, self.config.seed
        against = {"cam": against_result(result, plain, seed) if plain else None,
                   "centre_box": against_centre_box(result, seed)}  # fmt: skip
        if plain:
            plain.save_per_image(folder / files.PLAIN_CAM)
        for split, maps in result.maps.items():
            if maps.path is None:  # those of a reader's own method, which no other report can use
                maps.save(folder / f"score_maps_{split}.npz")
        result.save_per_image(folder / files.PER_IMAGE)
        galleries.write(
            folder, result, result.maps["test"].maps,
            lambda shown: [item["pixels"] for item in self.gallery_items(result, shown)], self.dataset("test").classes, seed,
        )  # fmt: skip
        gallery = []
        for number, item in enumerate(self.gallery_items(result, range(min(GALLERY_IMAGES, result.n_images)))):
            name = f"{files.GALLERY}/{number}.jpg"
            image = figures.thumbnail(item["pixels"], item["score_map"], item.get("gt_boxes", ()), item.get("box"))
            atomic_write_bytes(folder / name, image)
            caption = f"IoU {figures.iou_text(item['iou'])}" if "iou" in item else ""
            gallery.append({"id": item["id"], "file": name, "caption": caption})
        faithfulness = {"faithfulness": result.faithfulness} if result.faithfulness else {}
        made_from = self.config.report_parts(methods.resolve(method))
        files.write_result(folder / files.METRICS, made_from, digest(made_from), {
            "method": method, "config": {**self.config.to_dict(), "method": method, "variant": variant}, "result": result.to_dict(),
            "against": against, "plain_cam": plain.to_dict() if plain else None,
            "training": self.config.training_folder(variant).name,
            "plain_training": self.config.training_folder("gap").name if plain else None,
            "maps": {split: os.path.relpath(str(maps.path), folder) for split, maps in result.maps.items()},
            "test_images": len(self.dataset("test")), "classes": list(self.dataset("test").classes),
            "gallery": gallery,
            "extra": {**(extra or {}), **faithfulness}, "versions": versions(), "device": device_name(self.device), "commit": git_commit(),
            "wall_seconds": time.time() - self.started, "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        })  # fmt: skip
        return folder / files.METRICS

    def with_changes(self, **changes: Any) -> Run:
        """A second run that differs in some parameters, for experiments."""
        return Run(self.config.with_changes(**changes))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise WsolkitError(f"unknown device '{name}'; choose cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise WsolkitError(f"device '{name}' is not there: {torch.cuda.device_count()} CUDA devices found; choose cpu")
    return device


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, as far as they are installed."""
    result = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            result[name] = version(name)
        except PackageNotFoundError:  # e.g. another build of OpenCV
            continue
    return result


def device_name(device: torch.device) -> str:
    """The name of a GPU, or the CPU with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} thread" + "s" * (torch.get_num_threads() > 1)


def git_commit() -> str:
    """Short commit of the package's checkout, with "+" where files differ from it; "" outside a checkout."""
    command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
