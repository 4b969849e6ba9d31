"""Score maps of a run, kept as files: what one report localised, the next one reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from wsolkit.common.files import alone, digest
from wsolkit.data.base import WSOLDataset
from wsolkit.localisation.localise import ScoreMaps, localise
from wsolkit.methods.maps import parse_smooth
from wsolkit.methods.registry import is_defined, resolve, study_methods
from wsolkit.networks.models import WSOLModel
from wsolkit.runs.fingerprints import localising_code
from wsolkit.runs.parameters import RunConfig


class MapStore:
    """`localise` with a memory, for `evaluate(..., localiser=store)`.

    Maps lie beside the training that they come from, one file per method, split and settings. Where the plain maps of a
    method are missing that needs only the feature map (and its gradient), those of all such methods of the study are made
    with them: the pass of the body, which is nearly all of the cost, is the same. Two processes do not make the same maps: the
    second waits for the first, but only where it wants the maps that are being made.
    """

    def __init__(self, config: RunConfig, variant: str) -> None:
        self.config, self.variant = config, variant
        self.folder = config.training_folder(variant) / "maps"

    def __call__(
        self,
        model: WSOLModel,
        dataset: WSOLDataset,
        method: str,
        smooth: Sequence[str] = (),
        indices: Sequence[int] | None = None,
        **options: Any,
    ) -> ScoreMaps:
        running = {name: options.pop(name) for name in ("batch_size", "progress") if name in options}
        if not _can_be_named(method, options):
            return localise(model, dataset, method, smooth, indices, **running, **options)
        settings = {"smooth": sorted(parse_smooth(smooth)), "options": options, "split": dataset.split}
        settings["weights"] = _weights(model)
        settings["indices"] = None if indices is None else np.asarray(indices).tolist()
        cheap = not settings["smooth"] and not options and resolve(method).needs != "forward"
        if (kept := self._load(method, settings)) is not None:  # files are written by rename, so reading needs no lock
            return kept
        # one lock, that of plain CAM, for what is made together; one for each of the others, which take long
        with alone(self._path("cam" if cheap else method, settings).with_suffix(".lock")):
            if (kept := self._load(method, settings)) is not None:
                return kept
            companions = self._companions(model) if cheap else []
            missing = [name for name in companions if not self._path(name, settings).exists()]
            names = list(dict.fromkeys([method, *missing]))
            made = localise(model, dataset, names, smooth, indices, **running, **options)
            for name, maps in made.items():
                maps.save(self._path(name, settings))
        return made[method]

    def _companions(self, model: WSOLModel) -> list[str]:
        """Methods whose first report uses this training run, and whose maps cost next to nothing beside its features."""
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


def _can_be_named(method: str, options: dict[str, Any]) -> bool:
    """Whether a file name can tell these maps from all others: not those of a user's own method, whose code may change, of
    random_cam, which should differ each time, or with a module or function among the options."""
    entry = resolve(method)
    plain = all(isinstance(value, str | int | float | None) for value in options.values())
    return plain and entry.name != "random_cam" and entry.function.__module__.startswith("wsolkit.methods.")


def _weights(model: WSOLModel) -> str:
    """Digest of the network's parameters and buffers: maps belong to these, whatever file they came from."""
    total = hashlib.blake2b(digest_size=8)
    for name, tensor in model.state_dict().items():
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().numpy().data)
    return total.hexdigest()
