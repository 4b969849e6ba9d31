"""The registry: what a method and a variant say of themselves, without torch."""

from __future__ import annotations

import doctest
import subprocess
import sys
from typing import Annotated

import pytest
from pydantic import Field

from wsolkit.methods import registry
from wsolkit.methods.registry import METHODS, VARIANTS, declared, register, resolve, study_methods, variant
from wsolkit.runs.parameters import RunConfig


def test_declarations_are_read_without_torch():
    lines = "import sys, wsolkit.methods as m; m.resolve('cam'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", lines]).returncode == 0


def test_study_methods_have_a_chapter_to_themselves_in_its_order():
    assert study_methods() == ("cam", "rethinking_cam", "grad_cam", "grad_cam++", "score_cam", "affinity_cam")
    assert [METHODS[name].chapter[:2] for name in study_methods()] == ["02", "03", "04", "05", "06", "15"]


def test_variants_say_how_a_network_is_trained():
    assert {name: (item.label, item.pooling) for name, item in VARIANTS.items()} == {
        "gap": ("GAP", "gap"), "tap": ("TAP", "tap"), "fc": ("FC", "fc"), "has": ("HaS", "gap"),
        "cutmix": ("CutMix", "gap"), "adl": ("ADL", "gap"), "acol": ("ACoL", "acol"),
        "ddt": ("DDT", "gap"), "psol": ("PSOL", "gap"), "c2am": ("C2AM", "gap"), "bas": ("BAS", "bas"),
    }  # fmt: skip
    assert variant("gap").objective() is None and variant("has").objective().name == "has"
    starts = {
        (weights, frozen): variant("tap").starts_from(RunConfig.make(weights=weights, frozen=frozen))
        for weights in ("none", "imagenet") for frozen in (False, True)
    }  # fmt: skip
    assert [key for key, start in starts.items() if start] == [("none", False)] and starts["none", False] == "gap"
    assert [METHODS[name].module for name in ("cam", "has")] == ["wsolkit.methods.cam", "wsolkit.methods.has"]
    with pytest.raises(ValueError, match=r"unknown variant 'mean'; the names are: .*gap"):
        variant("mean")


def test_a_plan_takes_names_that_nobody_declared():
    other = declared("Somebodys-CAM")
    assert (other.name, other.map, other.chapter) == ("somebodys_cam", "somebodys_cam", "07_any_cam.ipynb")
    assert other.variants_on("resnet18") == ("gap",) and other.variants_on("vgg16_fc") == ("fc",)
    assert other.undefined("vgg16_fc") == "" and "somebodys_cam" not in METHODS


def test_a_method_declares_its_variant_chapter_and_numbers_itself():
    try:

        @register("test_cam", needs="features", description="for a test", label="Test-CAM", percentile=90.0)
        def test_cam(context):
            return context.features.mean(dim=1)

        method = resolve("TestCAM")
        assert (method.label, method.slug, method.percentile, method.map) == ("Test-CAM", "test_cam", 90.0, "test_cam")
        with pytest.raises(ValueError, match="already taken"):
            register("cam", needs="features", description="")(test_cam)
    finally:
        METHODS.pop("test_cam", None)


def test_an_option_is_checked_where_its_module_postpones_annotations():
    try:

        @register("test_cam", needs="features", description="for a test")
        def test_cam(context: Tensor, power: Annotated[float, Field(ge=0, le=1)] = 0.5, top: int | None = None):  # noqa: F821
            return context.features.mean(dim=1)

        assert resolve("test_cam[power=0.25+top=3]").settings == {"power": 0.25, "top": 3}
        for text in ("power=2", "top=many"):
            with pytest.raises(ValueError, match="must be"):
                resolve(f"test_cam[{text}]")
    finally:
        METHODS.pop("test_cam", None)


def test_examples_of_the_registry_run():
    assert doctest.testmod(registry).failed == 0


def test_with_a_frozen_body_what_is_fitted_to_it_is_defined_and_what_trains_it_is_not():
    for name in ("ddt", "psol", "c2am", "cam", "grad_cam[aug]"):
        assert resolve(name).undefined("mobilenet_v2", frozen=True) == ""
    for name in ("has", "bas", "acol"):
        assert "changes how the body is trained" in resolve(name).undefined("mobilenet_v2", frozen=True)
