"""The parameters of a run, each declared once, their defaults for each data set, and what makes a finished run stale.

The options of the command line, the keys of a sweep file, the `options` of a notebook, the table of a report and the
keys of results are made from these declarations and those of `wsolkit.training.recipe.Recipe`. No torch here.

Results depend on digests: of code, notebooks, page templates, data files, start weights. Code counts by wing. A
training run depends on the wings of training and, where a method changes its step, on that method's file; the values
that a variant chooses (pooling, recipe, settings) are in its key themselves. The numbers of a report depend also on the
wings of scoring, on what all methods share, and on the files of its method and of plain CAM, to which it is compared;
and on the fit of DDT where its boxes choose thresholds.
What draws and writes pages computes nothing: a change there writes pages again, and no more.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, field_validator
from pydantic_core import PydanticCustomError

from wsolkit.common.code import PACKAGE, code_state, project_path
from wsolkit.common.errors import WsolkitError, is_digits, require
from wsolkit.common.files import digest, files_below, given_path
from wsolkit.common.parameters import nearest, parameter, shown, told_of
from wsolkit.data.catalogue import DATASETS, load_dataset
from wsolkit.evaluation.results import FEWEST
from wsolkit.methods.registry import METHODS, VARIANTS, Method, Variant, resolve
from wsolkit.methods.registry import variant as find_variant
from wsolkit.networks.backbones import BACKBONES, TIMM, family
from wsolkit.runs.folder import training_name
from wsolkit.training.recipe import BATCH, LEAST_STEPS, RECIPES, Recipe, recipe_values

RUN = "runs/run.py#"  # a function or class there
TRAINING = ("common", "data", "networks", "training", f"{RUN}dataset", f"{RUN}recipe", f"{RUN}_train")
LOCALISING = ("localisation", f"{RUN}MapStore")  # beside what the training runs depend on, as all that follow
SCORING = ("boxes", *LOCALISING, "evaluation", "methods/psol.py#pseudo_boxes", "runs/galleries.py", "study/chapter.py")
_SCORED_BY = tuple(f"{RUN}{name}" for name in ("evaluate", "pseudo_boxes", "baseline", "finish"))
PSEUDO = "ddt"  # the method, and the variant, whose boxes of validation images are pseudo boxes
NATIVE_FOLDERS = ("ILSVRC", *(entry.archive.folder for entry in DATASETS.values() if entry.archive))
COMPRESSED = (".jpg", ".jpeg", ".png", ".webp")  # of these both ends count, of any other file the whole content
END = 1024  # bytes
PATHS = ("root", "metadata", "masks", "out", "weights")

# Where a parameter is left empty, dataset and start weights decide. Pretrained networks follow the recipe of Bae et al.
# (ECCV 2020), the defaults below; a network from scratch has no pretrained gradients to damp, and its rate must end.
_SCRATCH = {"backbone_grad_scale": 1.0, "schedule": "cosine", "warmup_epochs": 2, "batch_size": 32, "lr": 0.02}
_SCRATCH["stride"] = 8


def _classes(value: Any) -> int | list[str]:
    if isinstance(value, str):
        names = [item.strip() for item in value.split(",") if item.strip()]
        value = int(value) if is_digits(value.strip()) else names
    items = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(item, bool) or not isinstance(item, str | int) for item in items):
        raise PydanticCustomError("kind", "")
    return value if isinstance(value, int) else [str(item) for item in items]


def absolute(values: dict[str, Any], base: Path) -> dict[str, Any]:
    """`values` with absolute paths; relative ones start at the folder `base`.

    Raises: WsolkitError: a text that is no path.
    """
    result = dict(values)
    for name in PATHS:
        if values.get(name, "") not in ("", "none", "imagenet"):
            result[name] = str((base / given_path(values[name], f"one for {name}")).resolve())
    return result


Classes = Annotated[Any, BeforeValidator(_classes)]
KIND = "a number or a list of names or numbers"


class RunConfig(Recipe):
    """Everything that defines one training run and its reports, flat, as notebooks take it.

    Build one with `make`: an empty value (None, "", [], and 0 where 0 is out of range) means "as dataset and start
    weights ask". The help of a parameter says what it is; `load_dataset` (data), `build_model` (network), `fit`
    (compile, checkpoint_seconds) and `Recipe` (all others of training) say more. The stages are "data", "network" and
    "training" (a training run depends on these), "scoring" (a report does), and "" for what changes no number.

    Attributes:
        batch_norm: "auto" is "yes" for a VGG that trains from scratch, else "no".
        tap_epochs: without pretrained weights a TAP training run starts from the trained GAP network, as the published
            recipe starts from ImageNet's, and lasts this many epochs at a third of the learning rate.
        recipe: its values fill what is empty before dataset and start weights do.
        limit: images are chosen so that all classes have the same number.
        out: relative paths start at the project's folder; the environment variable WSOLKIT_OUT replaces its default.
    """

    dataset: str = parameter("synthetic", "data set", "data", choices=DATASETS)
    root: str = parameter(
        "", "folder of the dataset: its native layout, class folders, or the images of a metadata folder"
    )
    metadata: str = parameter("", "folder of train/, test/ and perhaps val/ as in wsolevaluation (dataset metadata)")
    masks: str = parameter("", "folder of the mask files that the metadata names (dataset metadata)")
    classes: Classes = parameter(
        0, "a number N for the first N classes, or names or numbers separated by commas", "data", title=KIND
    )
    size: int = parameter(0, "input side in pixels", "data", ge=8)
    geometry: str = parameter("resize", "evaluation geometry", "data", choices=("resize", "crop"))
    val_share: float = parameter(0.2, "share of training images held out for validation", "data", gt=0, lt=1)
    per_class: int = parameter(0, "synthetic birds: images per class", "data", ge=0)
    backbone: str = parameter("resnet18", f"network: {', '.join(BACKBONES)}, or {TIMM}NAME", "network")
    stride: int = parameter(16, "stride of the feature map", "network", ge=1)
    width: float = parameter(1.0, "multiplies all channels (1 is the published network)", "network", gt=0, le=4)
    batch_norm: str = parameter("no", "batch normalisation in VGG", "network", choices=("yes", "no", "auto"))
    weights: str = parameter("", "imagenet, none, or a .safetensors or .pth file")
    tau: float = parameter(0.1, "threshold of TAP pooling, as a share of the channel's maximum", "network", ge=0, lt=1)
    recipe: str = parameter("", "named recipe; other options replace single values of it", choices=RECIPES)
    tap_epochs: int = parameter(0, "epochs of a TAP or BAS run from the GAP network; 0 is a quarter of epochs", ge=0)
    frozen_size: int = parameter(
        0, "input side of methods fitted on a frozen body such as ddt (448 with pretrained weights)", ge=8
    )
    frozen_stride: int = parameter(0, "stride of their feature map (the largest with pretrained weights)", ge=1)
    compile: bool = parameter(False, "run training steps through torch.compile")
    checkpoint_seconds: float = parameter(300.0, "seconds between saves within an epoch; 0 saves at its end only", ge=0)
    limit: int = parameter(0, "images to localise in each split; 0 is all", "scoring", ge=0)
    faithfulness: int = parameter(0, "test images for deletion, insertion and ROAD curves; 0 is none", "scoring", ge=0)
    device: str = parameter("", "cpu or cuda (default: cuda where there is one)")
    out: str = parameter("reports", "folder of the reports")

    @classmethod
    def make(cls, **given: Any) -> Self:
        """Build a complete configuration: what is not given, or given empty, is filled from the dataset's defaults.

        Raises:
            WsolkitError: for an unknown parameter (naming the nearest known one), a value of the wrong kind or out of
                range, or a stride that the backbone does not have.

        Example:
            >>> config = RunConfig.make(dataset="cub", backbone="vgg16", epochs="3", lr=0)
            >>> config.epochs, config.lr, config.weights, config.stride
            (3, 0.0, 'imagenet', 16)
            >>> config.with_changes(weights="none").stride
            8
        """
        asked = cls(**{name: value for name, value in given.items() if not cls.is_empty(name, value)})
        values = {name: getattr(asked, name) for name in cls.model_fields}
        given = {name: value for name, value in values.items() if name in asked.model_fields_set}
        entry = DATASETS[asked.dataset]
        weights = asked.weights or entry.defaults["weights"]
        scratch = weights == "none"
        filled: dict[str, Any] = {"batch_size": 0, "lr": 0.0}  # `Recipe.of` chooses them by the number of images
        filled |= {**(_SCRATCH if scratch else {}), **entry.defaults, **(entry.scratch if scratch else {})}
        filled["batch_norm"] = "yes" if scratch and asked.backbone.startswith("vgg") else "no"
        filled |= recipe_values(asked.recipe, asked.backbone, weights)
        if "lr_steps" in given:
            filled["lr_period"] = 0  # the steps that were asked for, not the recipe's period
        values |= filled | given
        if values["frozen"]:
            fault = f"epochs={values['epochs']} has no meaning with frozen, which fits the head at once; leave it out"
            require("epochs" not in given or values["epochs"] == 1, fault)
            values["epochs"] = 1
        if scratch and not values["tap_epochs"]:
            values["tap_epochs"] = max(1, values["epochs"] // 4)
        strides, scales = family(asked.backbone).strides, family(asked.backbone).scales
        if not scales:
            good = "width" not in given or values["width"] == 1
            require(good, f"{asked.backbone} has its published channels only; leave width at 1")
            values["width"] = 1.0
        for name in ("stride", "frozen_stride"):
            if values[name] and values[name] not in strides:
                choice = ", ".join(map(str, strides))
                require(name not in given, f"{asked.backbone} has no {name} {values[name]}; choose from {choice}")
                values[name] = strides[0]
        values |= absolute({name: values[name] for name in PATHS if name != "out"}, project_path("."))
        return cls.model_construct(set(given), **values)

    @classmethod
    def names(cls) -> list[str]:
        """The names of all parameters, those of the recipe last."""
        return sorted(RunConfig.model_fields, key=lambda name: name in Recipe.model_fields)

    @field_validator("backbone")
    @classmethod
    def _known_backbone(cls, value: str) -> str:
        family(value)  # raises a WsolkitError where there is none
        return value

    @field_validator("batch_norm", mode="before")
    @classmethod
    def _yes_or_no(cls, value: Any) -> Any:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value  # what YAML makes of the words

    @classmethod
    def is_empty(cls, name: str, value: Any) -> bool:
        """Whether a value says nothing: what dataset, weights and recipe say then counts."""
        nothing = value is None or (isinstance(value, str | list | tuple) and not value)
        if nothing or (name, value) == ("batch_norm", "auto"):
            return name in RunConfig.model_fields
        bounds = cls.model_fields[name].metadata if name in cls.model_fields else ()
        positive = any(getattr(bound, "gt", -1) >= 0 or getattr(bound, "ge", 0) > 0 for bound in bounds)
        return positive and value == 0 and not isinstance(value, bool)

    @classmethod
    def shown_default(cls, name: str) -> str:
        """The value of a parameter where nothing is said, as text; "" where it is nothing, or others decide."""
        filled = {"size", "weights", "stride", "width", "batch_norm", *Recipe.model_fields}
        filled -= {"label_smoothing", "precision"}
        default = cls.model_fields[name].default
        text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
        return "" if name in filled or default in (0, "", ()) else text

    @property
    def given(self) -> dict[str, Any]:
        """What was asked for: all else was filled in."""
        return {name: getattr(self, name) for name in RunConfig.model_fields if name in self.model_fields_set}

    def with_changes(self, **changes: Any) -> RunConfig:
        """What `make` gives for the same wishes and these: what this configuration filled in is filled in anew."""
        return RunConfig.make(**{**self.given, **changes})

    def to_dict(self) -> dict[str, Any]:
        """All values as JSON holds them."""
        values = self.model_dump(mode="json")
        return {name: values[name] for name in self.names()}

    def for_notebook(self, notebook: Path) -> dict[str, Any]:
        """The variables that a notebook takes: those that its cell of parameters names, and `options` with the rest
        that was asked for."""
        values, lines = self.to_dict(), parameter_lines(notebook)
        options = {name: values[name] for name in self.given if name not in lines}
        return {**{name: value for name, value in values.items() if name in lines}, "options": options}

    def _of_stages(self, *stages: str) -> dict[str, Any]:
        fields = RunConfig.model_fields
        return {name: value for name, value in self.to_dict().items() if told_of(fields[name], "stage") in stages}

    def data_parts(self) -> dict[str, Any]:
        """All that decides which images and boxes a run sees: parameters, and digests of the folders of data."""
        return self._of_stages("data") | {"data": data_state(self.root)} | self._states("metadata", "masks")

    def _states(self, *names: str) -> dict[str, str]:
        return {name: data_state(getattr(self, name)) for name in names if getattr(self, name)}

    def training_parts(self, name: str) -> dict[str, Any]:
        """All that a training run of the variant `name` depends on.

        The parameters of data and network, the recipe that the variant makes of this run's, the settings of its
        objective, and digests of data ("data", "metadata"), start weights ("start": those of the network from which it
        starts, where there is one) and the code that does it ("code"). Where batch size and rate follow the number of
        images, those of 640 images stand for the rule: the data, and the code that applies the rule, count anyway.
        """
        variant = find_variant(name)
        others = {own for other in VARIANTS.values() for own in other.parameters} - {*variant.parameters}
        values = {key: value for key, value in self._of_stages("data", "network").items() if key not in others}
        recipe = variant.recipe(Recipe.of(self, BATCH * LEAST_STEPS), self).plain()
        objective, start = variant.objective(), variant.starts_from(self)
        values |= variant.view_of(self)
        settings = {f"{name} {key}": value for key, value in (objective.settings() if objective else {}).items()}
        parts = {"variant": name, "pooling": variant.pooling}
        parts["data"] = data_state(self.root, DATASETS[self.dataset].truth)
        parts["start"] = self.training_key(start) if start else weights_state(self.weights)
        parts["code"] = training_code(variant)
        return values | recipe | settings | self._states("metadata") | parts

    def training_key(self, variant: str) -> str:
        """Digest of `training_parts`."""
        return digest(self.training_parts(variant))

    def report_parts(self, method: Method) -> dict[str, Any]:
        """All that the numbers of one report depend on.

        Its own parameters, the keys of its training runs, and digests of masks, of boxes that no training run reads, of
        notebook and the code of scoring (that of training is in the keys of training runs). The look of the page is not
        in it: a page is written again from what is there."""
        trainings = {name: self.training_key(name) for name in self.variants_for(method)}
        parts = {"method": method.name, "trainings": trainings, **self._states("masks"), **self._of_stages("scoring")}
        parts |= {"data": data_state(self.root)} if DATASETS[self.dataset].truth else {}
        return parts | {"code": scoring_code(method), "notebook": notebook_state(method.notebook)}

    @property
    def why_pseudo_boxes(self) -> str:
        """Why thresholds are chosen on pseudo boxes of validation images (DDT's, which takes a pass over the training
        images) too, or ""; in a network that is trained from scratch DDT finds too little to choose by unless there is
        nothing else, and test images to measure it on."""
        scratch = self.weights == "none"
        if METHODS[PSEUDO].undefined(self.backbone, self.frozen) or (scratch and self.lacks_boxes("test", 1)):
            return ""
        if self.lacks_boxes("val", FEWEST):
            return "its boxes choose the thresholds, as validation images lack boxes"
        return "" if scratch else "its boxes choose thresholds too, beside those of validation images"

    def lacks_boxes(self, split: str, least: int) -> bool:
        """Whether not all images of a split have a box or mask, and not `least` of them either. Where the format leaves
        that open, the split is opened, once; where it cannot be, a check of the data says more."""
        names = ("root", "metadata", "masks", "classes", "val_share", "seed")
        known = {name: value for name in names if (value := getattr(self, name))}
        if DATASETS[self.dataset].boxed:
            return False
        boxed = _boxed(self.dataset, split, json.dumps(known))
        return not all(boxed) and sum(boxed) < least

    def variants_for(self, method: Method) -> tuple[str, ...]:
        """The variants whose training runs a report of this method uses, the one that it scores first."""
        return tuple(dict.fromkeys((*method.variants_on(self.backbone), *([PSEUDO] if self.why_pseudo_boxes else []))))

    @property
    def out_folder(self) -> Path:
        """OUT, which holds all reports; the environment variable WSOLKIT_OUT replaces the default."""
        if self.out == "reports" and os.environ.get("WSOLKIT_OUT"):
            return given_path(os.environ["WSOLKIT_OUT"], "a folder in the environment variable WSOLKIT_OUT")
        return project_path(self.out)

    @property
    def runs_folder(self) -> Path:
        """OUT/runs/<dataset>/<backbone>, which holds the folders of reports and of training runs."""
        return self.out_folder / "runs" / self.dataset / self.backbone

    def training_folder(self, variant: str) -> Path:
        """The folder of a variant's training run, which its key names."""
        return self.runs_folder / training_name(variant, self.training_key(variant))


@cache
def parameter_lines(notebook: Path) -> list[str]:
    """The names in a notebook's cell of parameters, which is where papermill looks for them."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    return [name for cell in tagged for name in _assigned("".join(cell["source"]))]


def of_notebook(namespace: dict[str, Any]) -> dict[str, Any]:
    """Every variable of a notebook's globals() that has the name of a parameter of `RunConfig`, and those in `options`.

    Raises:
        WsolkitError: `options` names a parameter that has a line of its own, or papermill has set a variable that the
            notebook's cell of parameters does not know (it only warns, and the value would be lost). Or `weights` is
            None, which is what papermill makes of the word on a command line.
    """
    cells = [cell for cell in namespace.get("In", ()) if isinstance(cell, str)]  # IPython's record of what was executed
    injected = [number for number, cell in enumerate(cells) if cell.startswith("# Parameters\n")]  # papermill's mark
    if injected:
        known = {name for cell in cells[: injected[-1]] for name in _assigned(cell)} | set(RunConfig.model_fields)
        if unknown := [name for name in _assigned(cells[injected[-1]]) if name not in known]:
            hint = nearest(unknown[0], known) or f"; it has {', '.join(sorted(known))}"
            raise WsolkitError(f"this notebook has no parameter {', '.join(unknown)}{hint}")
    if namespace.get("weights", "") is None:
        raise WsolkitError("weights is None; write none (lower case) for random weights, imagenet, or a file")
    values = {name: value for name, value in namespace.items() if name in RunConfig.model_fields}
    options = namespace.get("options", {})
    require(isinstance(options, dict), f"options must be a mapping such as {{'lr': 0.01}}, but is {shown(options)}")
    if twice := [name for name in options if name in values]:
        raise WsolkitError(f"options names '{twice[0]}', which has a line of its own in its cell: set it there")
    return values | options


def _assigned(source: str) -> list[str]:
    """Names that the plain assignments of a cell set."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a magic command, say
        return []
    targets = [target for statement in statements if isinstance(statement, ast.Assign) for target in statement.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def training_code(variant: Variant) -> str:
    """Digest of the code that trains a variant; an objective may extend that of another method."""
    objective = variant.objective()
    modules = dict.fromkeys(kind.__module__ for kind in type(objective).__mro__)
    own = _files(name for name in modules if name.startswith("wsolkit.methods."))
    return code_state((*TRAINING, *own, *(objective.code if objective else ())))


def localising_code(method: Method) -> str:
    """Digest of the code that makes a method's score maps, training included."""
    return code_state((*TRAINING, *LOCALISING, *_method_files(method.module, method.function.__module__)))


def scoring_code(method: Method) -> str:
    """Digest of the code that scores a method, without that of training."""
    files = [name for own in (resolve("cam"), method) for name in _method_files(own.module, own.function.__module__)]
    return code_state((*SCORING, *_SCORED_BY, *dict.fromkeys(files)))


@cache
def _method_files(*modules: str) -> list[str]:
    """The files of modules that declare a method, of what all methods share, and of the methods that these import."""
    declaring = {method.module for method in METHODS.values()} | {"wsolkit.methods.__init__"}
    known = {f"wsolkit.methods.{path.stem}" for path in (PACKAGE / "methods").glob("*.py")}
    used = known - declaring
    wanted = set(modules) - used
    while wanted:
        used |= wanted
        nodes = [node for name in _files(wanted) for node in ast.walk(ast.parse((PACKAGE / name).read_text("utf-8")))]
        imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
        # "from .cam import" names wsolkit.methods.cam, and so does "from wsolkit.methods import cam"
        places = [("wsolkit.methods." if node.level else "") + (node.module or "") for node in imports]
        names = [f"{place}.{own.name}" for place, node in zip(places, imports, strict=True) for own in node.names]
        wanted = known.intersection(places + [name.replace("..", ".") for name in names]) - used
    return _files(sorted(used))


def _files(modules: Iterable[str]) -> list[str]:
    """The files of modules, relative to the package; a method that is none of the package's has none."""
    return [name.removeprefix("wsolkit.").replace(".", "/") + ".py" for name in modules if name.startswith("wsolkit.")]


@cache
def page_state() -> str:
    """Digest of the style, the templates and the code of report pages (every sweep writes the index anew)."""
    files = [path for wing in ("figures", "report") for path in sorted((PACKAGE / wing).rglob("*.*"))]
    files = [path for path in files if path.suffix == ".py" or not path.name.startswith("index")]
    total = hashlib.sha256(code_state(tuple(str(path) for path in files if path.suffix == ".py")).encode())
    for path in files:
        if path.suffix in (".css", ".j2", ".js", ".mplstyle"):
            total.update(path.read_bytes())
    return total.hexdigest()[:16]


def notebook_state(path: Path) -> str:
    """Digest of a notebook's cells (outputs and metadata do not count)."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return digest([[cell["cell_type"], "".join(cell["source"])] for cell in cells])


@cache
def data_state(root: str, without: tuple[str, ...] = ()) -> str:
    """Digest of the files below a folder of data, but for those of some names in it and below these; "" where there is
    no folder. A copy elsewhere has the same one.

    Names, sizes, both ends of compressed images and the whole content of all other files count: of 12,000 images of
    100 KB that takes 0.4 s, where to read all of them takes 1.5 s (more from a disk), in every process. A compressed
    image hardly changes in its middle and keeps its size and its ends: PNG ends in checksums, and the rest of a JPEG
    stream follows from what is before. Links are followed.

    Raises: FileNotFoundError: there is no such folder.
    """
    if not root:
        return ""
    base = Path(root).resolve()
    inside = (base / name for name in NATIVE_FOLDERS if (base / name).is_dir())
    base = next(inside, base)  # a parent folder is a root too
    if not base.is_dir():
        raise FileNotFoundError(f"folder of data '{root}' not found; expected a folder in the dataset's own layout")
    total = hashlib.sha256()
    for name, path in files_below(str(base)):
        if name.partition("/")[0] in without:
            continue
        with open(path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            total.update(f"{name}|{size}\n".encode())
            if path.lower().endswith(COMPRESSED):
                total.update(file.read(END))
                file.seek(max(0, size - END))
                total.update(file.read(END))
            else:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()[:16]


@cache
def _boxed(dataset: str, split: str, options: str) -> list[bool]:
    """Whether each image of a split has a box or mask; [] where it cannot be opened."""
    from wsolkit.data.readers import leniently

    try:
        with leniently():
            samples = load_dataset(dataset, split, **json.loads(options)).samples
    except (WsolkitError, OSError):
        return []
    return [bool(sample.boxes or sample.masks) for sample in samples]


@cache
def weights_state(weights: str) -> str:
    """Digest of the start weights: a name, or the content of a file."""
    if weights in ("none", "imagenet"):
        return weights
    if not Path(weights).is_file():
        need = "expected 'imagenet', 'none' or a .safetensors or .pth file"
        raise FileNotFoundError(f"weights '{weights}' not found; {need}")
    with open(weights, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def changes(old: dict[str, Any], new: dict[str, Any], notebook: str) -> list[str]:
    """What differs between the parts of two results (`RunConfig.training_parts`, `report_parts`) but for training runs.

    As text: the parameters first, with both values, then digests; `notebook` makes the new result."""
    told = {"data": "data", "metadata": "metadata", "masks": "masks", "start": "start weights"}
    told |= {"code": f"code of {'scoring' if 'trainings' in new else 'training'}", "notebook": f"notebook {notebook}"}
    lines = []
    for name in [name for name in new | old if name not in (*told, "trainings")] + list(told):
        before, now = (list(v) if isinstance(v, tuple) else v for v in (old.get(name), new.get(name)))
        if before != now:
            values = "" if name in told else f" from {_shown(before)} to {_shown(now)}"
            lines.append(f"{told.get(name, f'parameter {name}')} changed{values}")
    return lines


def _shown(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else "nothing" if value in (None, "") else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
