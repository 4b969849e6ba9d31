"""The registry: what a method and a trained network are called, need and mean. No torch here: a sweep plans with it.

A method weighs the channels of the feature map. It is one file in this folder, which nothing else has to name:

    @register("my_cam", needs="gradient", description="channels weighed by their largest gradient")
    def my_cam(context):
        return context.gradients.amax(dim=(2, 3))            # (B, C)

The function receives a `Context` (features, gradients, class weights, labels, the model) and returns one of

    (B, C)         one weight per channel: the map is sum_c w[c] A[c]
    (B, C, h, w)   one weight per channel and position: the map is sum_c w[c] * A[c]
    (B, h, w)      a finished map, for methods that are no weighted sum; of another resolution, if need be
    (B, 4)         with `gives="boxes"`, boxes and no map: x0, y0, x1, y1 in [0, 1] as shares of the image, edges

Everything else happens in one place for all methods (`wsolkit.methods.maps`): the sum, the eigen projection, the ReLU,
test-time augmentation, checks, and leaving the model as it was. Keyword arguments of the function beyond the context
become options of `score_maps`; an annotation says what their values may be (`Annotated[float, Field(ge=0, le=1)]`).

A method with smoothing or options of its own is a row, which everything takes in the place of a method: a sweep gives
it a report, the index a line. It is spelled NAME[eigen+aug+option=value] (see `resolve`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo

from wsolkit.boxes.protocols import check_share, fixed_threshold
from wsolkit.common.code import notebooks_folder
from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import digest
from wsolkit.common.parameters import KINDS, bounds_of
from wsolkit.networks.backbones import BACKBONES, Backbone

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from wsolkit.training.recipe import Objective

NEEDS = ("features", "gradient", "forward")
GIVES = ("map", "boxes")
SMOOTHINGS = ("eigen", "aug")
LAYER, IVR = "layer", "ivr"  # the options that `score_maps` has for every method (ivr: for every one that gives maps)
CHOSEN = "val"  # the value of ivr that `evaluate` replaces by a share chosen on validation boxes
TRAIN_CHAPTER, ANY_CHAPTER, TRAINING_CHAPTER = "01_train.ipynb", "07_any_cam.ipynb", "09_training_time_methods.ipynb"

STUDY = "the study this kit grew out of"
LIST = "public WSOL result list"
TABLE = "wsolevaluation, Choe et al., CVPR 2020"


class MethodNotDefined(WsolkitError):
    """The method exists, but has no meaning on this model (or the installed grad-cam does not offer it)."""


class Published(NamedTuple):
    """Published numbers on CUB-200-2011: network, source, values in percent by field of a result, what was done
    otherwise there ("" for nothing), and the smoothing and options of the row that they belong to ("eigen+aug")."""

    network: str
    source: str
    values: dict[str, float]
    note: str = ""
    row: str = ""


def table(**percents: float) -> tuple[Published, ...]:
    """MaxBoxAccV2 of wsolevaluation's table, by backbone."""
    return tuple(Published(network, TABLE, {"max_box_acc_v2": percent}) for network, percent in percents.items())


@dataclass(frozen=True)
class Variant:
    """One way to train a network, and the name of the network so trained: "gap", "tap", "fc", "has", ...

    Attributes:
        name: as it appears in the names of folders. label: as papers write it.
        pooling: the pooling layer (`build_model`).
        makes_objective: called without arguments, gives what a training step minimises; None is plain classification.
        start: the variant whose trained network this one starts from where there are no pretrained weights. always:
            with pretrained weights too, since its objective needs what was fitted there.
        changes: called with the run's `Recipe` and parameters, gives the recipe of its training run; None is the
            run's.
        view: called with the run's parameters, gives the input "size" and "stride" of its network where these are not
            the run's.
        parameters: names of the run's parameters that only this variant depends on.
    """

    name: str
    label: str
    pooling: str = "gap"
    makes_objective: Callable[[], Objective] | None = None
    start: str = ""
    always: bool = False
    changes: Callable[[Any, Any], Any] | None = None
    view: Callable[[Any], dict[str, int]] | None = None
    parameters: tuple[str, ...] = ()

    def objective(self) -> Objective | None:
        """A new objective of this variant, or None for plain classification."""
        return None if self.makes_objective is None else self.makes_objective()

    def starts_from(self, parameters: Any) -> str:
        """The variant whose trained network a training run with a run's `parameters` starts from, or "" for the start
        weights (a frozen body keeps these, and its head is fitted from zero)."""
        own = parameters.weights == "none" and not parameters.frozen
        return self.start if own or self.always else ""

    def recipe(self, base: Any, parameters: Any) -> Any:
        """The `Recipe` of this variant's training run, from that of a plain one and the run's parameters."""
        return self.changes(base, parameters) if self.changes else base

    def view_of(self, parameters: Any) -> dict[str, int]:
        """The input side "size" and the "stride" of this variant's network in a run with these parameters."""
        own = self.view(parameters) if self.view else {}
        return {"size": parameters.size, "stride": parameters.stride} | own


@dataclass(frozen=True)
class Method:
    """One entry of the registry, made by `register`.

    Attributes:
        name: lower case with underscores. function: see the module's docstring.
        needs: what one map costs: "features" (the feature map and the head's weights), "gradient" (one backward pass
            through pool and head) or "forward" (more forward passes).
        description: one line for tables and reports.
        label: the name as papers write it; "" is the name itself.
        gives: "map", or "boxes" for a method that gives a box and no map: it has no threshold, no curve and no PxAP.
        relu: negative values of the map become 0, after the sum and after the eigen projection.
        linear_head: defined only where the head acts on the channels of the feature map (`model.has_cam`).
        uses_classes: made from weights, maps or scores of classes, so not defined for a score of the caller's own
            (`score_maps(target=)`), as is no method with `linear_head`.
        project: the weighted maps are always reduced by the eigen projection instead of the sum.
        eigen: False where `smooth=("eigen",)` is refused.
        aliases: further names; case, `_` and `-` never matter, and `++` is the same as `plusplus`.
        check: called with the model; returns why the method is not defined on it, or "".
        variants: the trained networks that a report shows, the one it scores first, by name.
        percentile: of the map's values, at which a box's threshold is 1: 100 is the maximum, 90 that of PaS.
        threshold: the fixed one, where nothing can choose it; None is the published one of the percentile.
        chapter: the notebook that explains the method and reports it.
        published: numbers to compare with measured ones. differs: what separates the method here from the published.
        smooth, settings: of a row (`Method.row`): its smoothing, and values of its options by name; `score_maps`, and
            all that calls it, takes them where nothing else is said.
    """

    name: str
    function: Callable[..., Tensor]
    needs: str
    description: str
    label: str = ""
    gives: str = "map"
    relu: bool = True
    linear_head: bool = False
    uses_classes: bool = False
    project: bool = False
    eigen: bool = True
    aliases: tuple[str, ...] = ()
    check: Callable[[Module], str] | None = None
    variants: tuple[str, ...] = ("gap",)
    percentile: float = 100.0
    threshold: float | None = None
    chapter: str = ANY_CHAPTER
    published: tuple[Published, ...] = ()
    differs: str = ""
    smooth: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label or self.name)
        object.__setattr__(self, "uses_classes", self.uses_classes or self.linear_head)

    @property
    def base(self) -> str:
        """The name of the method alone: "grad_cam" of the row "grad_cam[aug]"."""
        return self.name.partition("[")[0]

    @property
    def slug(self) -> str:
        """The name as it appears in file names: `grad_cam++[aug]` is `grad_cam_plusplus_aug`.

        Where that is long, or might be the slug of another row too, it ends in a digest.
        """
        plain, _, inside = self.name.partition("[")
        made = plain.replace("++", "_plusplus")
        if not inside:
            return made
        made += "_" + re.sub(r"[^a-z0-9.-]+", "_", inside.lower()).strip("_.")
        clear = re.fullmatch(r"((eigen|aug|[a-z_]+=[a-z0-9.-]*[a-z0-9])[+\]])+", inside)
        return made if clear and len(inside) < 40 and made not in METHODS else f"{made[:60]}_{digest(self.name)[:8]}"

    @property
    def notebook(self) -> Path:
        """The notebook of its chapter."""
        return notebooks_folder() / self.chapter

    @property
    def map(self) -> str:
        """The method that makes the map: "cam" for `has`, which is plain CAM on another network, and "cam[aug]" for
        `has[aug]`; else its own name."""
        base = next(other.base for other in [*METHODS.values(), self] if other.function == self.function)
        return base + self.name[len(self.base) :]

    def refuse(self, **given: Any) -> None:
        """Raise a `WsolkitError` where a method that gives boxes is asked for what only a map has (a threshold, say):
        `given` are options by name, those that are None or empty were not asked for."""
        wrong = [name for name, value in given.items() if value is not None and value != ()]
        text = f"{self.name} gives boxes and no map: leave out {' and '.join(wrong)}"
        require(self.gives == "map" or not wrong, text)

    def fixed_threshold(self, percentile: float) -> float:
        """The threshold to take at a percentile where nothing can choose one."""
        own = self.threshold if percentile == self.percentile else None
        return fixed_threshold(percentile) if own is None else own

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the keyword options that `score_maps` passes on to this method; "*" where it takes any."""
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        return tuple("*" if p.kind is p.VAR_KEYWORD else p.name for p in parameters)

    def smoothed(self, smooth: Any) -> tuple[str, ...]:
        """Its smoothing and what is asked for beside it (see `parse_smooth`), in one order.

        Raises: WsolkitError: "eigen", where the method does not offer it.
        """
        names = {*self.smooth, *parse_smooth(smooth)}
        self.refuse(smooth=tuple(sorted(names)))
        refused = f'smooth "eigen" is not offered for {self.base!r}: no weighted channels, no fixed sign'
        require("eigen" not in names or self.eigen, refused)
        return tuple(name for name in SMOOTHINGS if name in names)

    def row(self, smooth: Any = (), settings: Mapping[str, Any] | None = None) -> Method:
        """The method with this smoothing and these values of options as well: a row with a name of its own.

        >>> METHODS["grad_cam"].row("aug", {"layer": "layer3"}).name
        'grad_cam[aug+layer=layer3]'
        """
        smooth, settings = self.smoothed(smooth), dict(sorted({**self.settings, **(settings or {})}.items()))
        parts = [*smooth, *(f"{option}={_shown(value)}" for option, value in settings.items())]
        if not parts:
            return self
        label = METHODS.get(self.base, self).label + f", {' + '.join(parts)}"
        name = f"{self.base}[{'+'.join(parts)}]"
        return replace(self, name=name, label=label, smooth=smooth, settings=settings)

    def ivr(self, given: Any = None) -> Any:
        """The share of a map's values that IVR makes 0 (`wsolkit.boxes.preparation.remove_inferior`), "val", or None
        for no IVR: as given, else the row's.

        Raises: WsolkitError: another value, or any for a method that gives boxes.
        """
        self.refuse(ivr=given)
        share = self.settings.get(IVR) if given is None else given
        if share not in (None, CHOSEN):
            check_share(share)
        return share

    def without(self, option: str) -> Method:
        """The row without its value of an option."""
        rest = {name: value for name, value in self.settings.items() if name != option}
        return self if option not in self.settings else resolve(self.base).row(self.smooth, rest)

    @property
    def changes_training(self) -> bool:
        """Whether the method is a way to train a network (HaS, ACoL, ...)."""
        return VARIANTS[self.variants[0]].makes_objective is not None

    @property
    def module(self) -> str:
        """The module that declares it: its objective's, as the function of `has` is plain CAM's, or its function's."""
        return (VARIANTS[self.variants[0]].makes_objective or self.function).__module__

    def variants_on(self, backbone: str) -> tuple[str, ...]:
        """The variants that a report of this method needs on a backbone, the one that is scored first."""
        own = tuple(name for name in self.variants if VARIANTS[name].pooling in poolings(backbone))
        return own or (plain_variant(backbone),)

    def undefined(self, backbone: str, frozen: bool = False) -> str:
        """Why the method has no meaning on a backbone, whose body may be frozen, or ""."""
        objective = VARIANTS[self.variants[0]].objective()
        if objective is not None and (reason := objective.lacks(backbone)):
            return reason
        if frozen and objective is not None and not objective.frozen:
            return f"{self.name} changes how the body is trained, and with frozen it is not"
        if frozen and "gap" not in poolings(backbone):
            return f"with frozen a linear head behind a pooling is fitted, and {backbone} has none"
        if not (self.linear_head or self.changes_training) or "gap" in poolings(backbone):
            return ""
        subject = f"{self.name} is compared with plain CAM, which" if self.changes_training else self.name
        return (
            f"{subject} weighs the channels of the feature map with the classifier's weights; on {backbone} three "
            "fully connected layers lie between the two, so there is no such weight"
        )


METHODS: dict[str, Method] = {}
VARIANTS: dict[str, Variant] = {}
# what the adapter of the grad-cam package, which imports this module, offers for names that are not declared:
# "register" makes the package's other classes methods (importing it takes a second), "adapted" is the function of one
ADAPTER: dict[str, Callable[..., Any]] = {}

_origin = attrgetter("name", "function.__module__", "function.__qualname__")  # of a method


def register(
    name: str, needs: str, description: str, *, variants: tuple[Variant | str, ...] = ("gap",), **declaration: Any
) -> Callable:
    """Decorator that makes a function reachable as `score_maps(..., method=name)`, and by every command and report.

    Args:
        name, needs, description, declaration: the fields of `Method`.
        variants: names of trained networks, and a `Variant` where the method declares one of its own.

    Raises:
        ValueError: unknown `needs`, or a name that another method already has. Running the same definition again (a
            notebook cell) replaces the earlier one.

    Example:
        >>> @register("doc_cam", needs="features", description="the mean of all channels")
        ... def doc_cam(context):
        ...     return context.features.mean(dim=1)  # (B, h, w)
        >>> METHODS.pop("doc_cam").variants
        ('gap',)
    """
    for field_, value, known in (("needs", needs, NEEDS), ("gives", declaration.get("gives", "map"), GIVES)):
        require(value in known, f"{field_}={value!r} of method {name!r} is not one of {', '.join(known)}")
    require("[" not in name, f"method name {name!r}: brackets are for smoothing and options, choose a name without")
    own = {item.name: item for item in variants if isinstance(item, Variant)}
    names = tuple(item if isinstance(item, str) else item.name for item in variants)
    if any(item.makes_objective for item in own.values()):
        declaration.setdefault("chapter", TRAINING_CHAPTER)

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        made = Method(name, function, needs, description, variants=names, **declaration)
        for taken in (name, *made.aliases):
            if (other := find(taken)) is not None and _origin(other) != _origin(made):
                raise WsolkitError(
                    f"method name {taken!r} is already taken by {other.name!r}: "
                    f"choose another, or remove that one first with METHODS.pop({other.name!r})"
                )
        VARIANTS.update(own)
        METHODS[name] = made
        return function

    return decorate


def method_names() -> tuple[str, ...]:
    """Names of all methods that make a map of their own: the kit's in the order of the study, then by registration."""
    return tuple(name for name, method in METHODS.items() if method.map == name)


def study_methods() -> tuple[str, ...]:
    """Names of the methods that have a chapter to themselves and need no training of their own kind, in its order."""
    chapters = [method.chapter for method in METHODS.values()]
    return tuple(n for n, m in METHODS.items() if chapters.count(m.chapter) == 1 and not m.changes_training)


def training_methods() -> tuple[str, ...]:
    """Names of the methods that are a way to train a network, which has the same name as the method."""
    return tuple(name for name, method in METHODS.items() if method.changes_training)


def resolve(name: str) -> Method:
    """The method of that name or alias; classes of the installed grad-cam package count by their class name too.

    In brackets stand smoothing and options, in any order, with + or a comma between them: "grad_cam[eigen+aug]",
    "rethinking_cam[nwc=no]", "layer_cam[aug+layer=layer3]". That is a row, see `Method.row`.

    Raises: WsolkitError: nothing is called so (the message lists the names); a smoothing or option that the method has
        not, or that is said twice; a value of another kind.

    >>> resolve("GradCAM[aug, eigen]").name
    'grad_cam[eigen+aug]'
    """
    require(isinstance(name, str), f"unknown method {name!r}; the names are: {', '.join(METHODS)}")
    base, bracket, inside = name.partition("[")
    closed = not bracket or inside.rstrip().endswith("]")
    require(closed, f"method {name!r}: expected NAME[eigen+aug+option=value], in quotes in a shell; close the bracket")
    if find(base) is None:
        ADAPTER["register"]()
    if (method := find(base)) is None:
        raise WsolkitError(f"unknown method {base!r}; the names are: {', '.join(METHODS)}")
    return _row(method, inside.rstrip()[:-1]) if bracket else method


def _row(method: Method, inside: str) -> Method:
    """The row of a method for the text in its brackets."""
    smooth: list[str] = []
    settings: dict[str, Any] = {}
    spelled = f"{method.name}[{inside}]"
    known = {*method.options, LAYER, *([IVR] if method.gives == "map" else [])} - {"*"}
    for part in re.split("[+,]", inside):
        option, equals, text = (word.strip() for word in part.partition("="))
        require(option not in (*smooth, *settings), f"{spelled} says {option!r} twice; say it once")
        if not equals:
            need = f"expected {', '.join(SMOOTHINGS)} or option=value (options: {', '.join(sorted(known))})"
            require(option in SMOOTHINGS, f"{spelled}: {option!r} is no smoothing; {need}")
            smooth.append(option)
            continue
        method.refuse(ivr=text if option == IVR else None)
        has = f"{method.name} has no option {option!r}; its options are: {', '.join(sorted(known))}"
        require(option in known or ("*" in method.options and option), f"{spelled}: {has}")
        settings[option] = _value(method, option, text, spelled)
    return method.row(smooth, settings)


def _value(method: Method, option: str, text: str, spelled: str) -> Any:
    """The value of an option, of the kind that the function declares."""
    kind, default = _kind(method, option)
    if default is None and text.lower() == "none":
        return None
    kind = kind or Annotated[int | float | str, Field(union_mode="left_to_right")]
    try:
        value = TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False)).validate_strings(text)
    except (ValidationError, PydanticUserError):
        wanted = f"a share of at least 0 and below 1, or {CHOSEN}" if option == IVR else _wanted(kind)
        raise WsolkitError(f"{spelled}: {option} must be {wanted}, but is {text!r}") from None
    require(value != "", f"{spelled}: {option} is empty; give it a value")
    return value


def check_option(method: Method, option: str, value: Any) -> None:
    """Raise a `WsolkitError` where a value of an option, given in Python, is not of the kind and in the range that the
    method's function declares."""
    kind, default = _kind(method, option)
    if kind is None or value is default:
        return
    with suppress(PydanticUserError):  # a kind that pydantic does not know
        try:
            TypeAdapter(kind, config=ConfigDict(allow_inf_nan=False, strict=True)).validate_python(value)
        except ValidationError:
            raise WsolkitError(f"{method.base}: {option} must be {_wanted(kind)}, but is {value!r}") from None


def _kind(method: Method, option: str) -> tuple[Any, Any]:
    """The kind of an option, by the annotation of the function's parameter (with its range in `Annotated`) or its
    default, None where nothing tells it; and the default."""
    parameter, empty = inspect.signature(method.function).parameters.get(option), inspect.Parameter.empty
    annotation, default = (parameter.annotation, parameter.default) if parameter else (empty, empty)
    annotation = {LAYER: str, IVR: Literal["val"] | Annotated[float, Field(ge=0, lt=1)]}.get(option, annotation)
    if isinstance(annotation, str):  # the module postpones annotations; one that needs torch stays as it is
        with suppress(Exception):
            annotation = eval(annotation, getattr(method.function, "__globals__", {}))
    if annotation is not empty and not isinstance(annotation, str):
        return annotation, default
    return None if default in (None, empty) else type(default), default


def _wanted(kind: Any) -> str:
    """A kind of value, as an error says it."""
    if get_origin(kind) is Annotated:
        base, field = get_args(kind)[:2]
        bounds = bounds_of(field) if isinstance(field, FieldInfo) else ""
        return f"{_wanted(base)} {'of ' if bounds.startswith('at') else ''}{bounds}".strip()
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(map(_wanted, get_args(kind)))
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    known = {**KINDS, bool: "yes or no", type(None): "none"}
    return known.get(kind, getattr(kind, "__name__", str(kind)))


def _shown(value: Any) -> str:
    """The value of an option as it is spelled: no +, which separates."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 1e15
    return str(int(value) if whole else value).replace("e+", "e")


def parse_smooth(smooth: Any) -> frozenset[str]:
    """The set of smoothings asked for: a name, or any iterable of names, in any order; None is none.

    Raises: WsolkitError: a name that is neither "eigen" nor "aug".
    """
    single = isinstance(smooth, str) or not isinstance(smooth or (), Iterable)
    names = (smooth,) if single else tuple(smooth or ())
    unknown = [name for name in names if name not in SMOOTHINGS]
    if unknown:
        raise WsolkitError(f"unknown smoothing {unknown[0]!r} in smooth={smooth!r}; valid are: {', '.join(SMOOTHINGS)}")
    return frozenset(names)


def find(name: str) -> Method | None:
    """The registered method of that name or alias, or None; nothing is imported for it."""
    return next((m for m in METHODS.values() if _key(name) in map(_key, (m.name, *m.aliases))), None)


def _key(name: str) -> str:
    return name.lower().replace("++", "plusplus").translate(dict.fromkeys(map(ord, "_- ")))


def declared(name: str) -> Method:
    """The method of that name for plans and pages, which import nothing and read folders of other versions: where
    nothing is called so (a class of the grad-cam package, somebody's own method), one with all defaults.

    >>> declared("GradCAM++").name, declared("Other-CAM[aug]").name
    ('grad_cam++', 'other_cam[aug]')
    """
    base, bracket, inside = name.strip().partition("[")
    plain = base.strip().lower().replace("-", "_").replace("_plusplus", "++")
    method = find(base) or Method(plain, ADAPTER["adapted"](plain), "gradient", "")
    if not bracket:
        return method
    with suppress(WsolkitError):
        return _row(method, inside.removesuffix("]"))
    return replace(method, name=f"{method.name}[{inside}")  # another version's options; `resolve` says what is wrong


def variant(name: str) -> Variant:
    """The variant of that name.

    Raises: ValueError: nothing is called so; the message lists the names.
    """
    require(name in VARIANTS, f"unknown variant {name!r}; the names are: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def poolings(backbone: str) -> tuple[str, ...]:
    """The pooling layers that a backbone is offered with, the default first; of an unknown one (in a folder of another
    version) those of a pooled feature map."""
    return BACKBONES[backbone].poolings if backbone in BACKBONES else Backbone.poolings


def plain_variant(backbone: str) -> str:
    """The variant of a backbone's plain network: "gap", or "fc" where fully connected layers follow the feature map."""
    return poolings(backbone)[0]


def is_defined(method: str, model: Module) -> tuple[bool, str]:
    """Whether `method` has a meaning on `model`, and if not, why: (True, "") or (False, reason).

    Raises: ValueError: unknown method.
    """
    entry = resolve(method)
    reason = entry.check(model) if entry.check else ""
    if entry.linear_head and not getattr(model, "has_cam", True):
        kind = getattr(model, "backbone", type(model).__name__)
        reason = (
            f"{entry.name} is not defined on {kind}: it weighs the channels of the feature map with the rows of a "
            "linear head, and here other layers lie between the two; use pooling 'gap' or 'tap', or a gradient method"
        )
    return not reason, reason
