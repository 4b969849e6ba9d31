"""Maps that one report made are read by the next: one pass of the body for all methods that need nothing else."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

import wsolkit as wk
from wsolkit.boxes.preparation import remove_inferior
from wsolkit.localisation.localise import ScoreMaps
from wsolkit.runs.folder import read_metrics
from wsolkit.runs.run import MapStore, Run


@pytest.fixture
def run(tmp_path):
    return Run.start(
        dataset="synthetic", classes=4, per_class=4, epochs=1, backbone="resnet18", width=0.125, out=str(tmp_path)
    )


@pytest.fixture
def passes(run):
    seen = []
    run.model("gap").body.register_forward_hook(lambda _, inputs, output: seen.append(len(inputs[0])))
    return seen


def files(run, pooling="gap"):
    return sorted(
        path.name.split("_" + "test")[0] for path in MapStore(run.config, pooling).folder.glob("*_test_*.npz")
    )


def test_three_reports_cost_one_pass(run, passes):
    cam = run.evaluate("cam")
    images = sum(passes)
    assert images == len(run.dataset("test")) + len(run.dataset("val"))
    results = {name: run.evaluate(name) for name in ("grad_cam", "grad_cam++", "cam")}
    assert sum(passes) == images
    assert files(run) == ["cam", "grad_cam", "grad_cam_plusplus"]
    assert results["cam"].to_dict() == cam.to_dict()
    alone = wk.localise(run.model("gap"), run.dataset("test"), "grad_cam++", indices=run.dataset("test").spread(None))
    assert np.array_equal(results["grad_cam++"].maps["test"].maps, alone.maps)
    assert results["grad_cam"].seconds_per_image > 0


def test_another_threshold_rule_needs_no_new_maps_but_other_options_do(run, passes):
    run.evaluate("cam")
    before = sum(passes)
    run.evaluate("cam", pas=True)
    assert sum(passes) == before
    run.evaluate("cam", smooth=("eigen",))
    assert sum(passes) == 2 * before
    run.evaluate("cam", limit=8)
    assert sum(passes) == 2 * before + 16
    run.evaluate("score_cam", channels=2, limit=4)
    assert files(run) == [
        "cam",
        "cam",
        "cam",
        "grad_cam",
        "grad_cam",
        "grad_cam_plusplus",
        "grad_cam_plusplus",
        "score_cam",
    ]


def test_torn_files_are_made_again(run, passes):
    expected = run.evaluate("cam")
    for path in MapStore(run.config, "gap").folder.glob("cam_*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    before = sum(passes)
    assert run.evaluate("cam").gt_known_loc == expected.gt_known_loc
    assert sum(passes) == 2 * before


def test_a_users_own_method_is_never_kept(run):
    @wk.register("store_test_cam", needs="features", description="first channel")
    def first(context):
        return context.features[:, 0]

    try:
        one = run.evaluate("store_test_cam").maps["test"].maps

        @wk.register("store_test_cam", needs="features", description="second channel")
        def first(context):
            return context.features[:, 1]

        two = run.evaluate("store_test_cam").maps["test"].maps
    finally:
        wk.methods.METHODS.pop("store_test_cam")
    assert not np.array_equal(one, two) and files(run) == []


def test_a_layer_given_as_a_module_has_no_name_in_a_file(run):
    body = run.model("gap").body
    maps = [run.evaluate("grad_cam", layer=layer).maps["test"].maps for layer in (body.layer2, body.layer3)]
    assert not np.array_equal(maps[0], maps[1]) and files(run) == []
    named = [run.evaluate("grad_cam", layer=f"body.layer{n}").maps["test"].maps for n in (2, 3)]
    assert all(np.array_equal(one, other) for one, other in zip(maps, named, strict=True))
    assert files(run) == ["grad_cam", "grad_cam"]


def test_maps_belong_to_the_weights(run, passes):
    first = run.evaluate("cam").maps["test"].maps
    before = sum(passes)
    with torch.no_grad():
        run.model("gap").head.weight.neg_()
    assert np.allclose(run.evaluate("cam").maps["test"].maps, -first, atol=1e-6) and sum(passes) == 2 * before


def test_a_report_waits_for_the_maps_it_wants_and_for_no_others(run):
    """While score_cam looks at its first batch, another process could make cam; one that wants score_cam waits."""
    model, test = run.model("gap"), run.dataset("test")
    outcomes: dict[str, object] = {}

    def localise(method):
        outcomes[method] = MapStore(run.config, "gap")(model, test, method, indices=[0, 1])

    started, may_go_on = threading.Event(), threading.Event()

    def progress(batches):
        started.set()
        assert may_go_on.wait(60)
        yield from batches

    def slowly():
        outcomes["first"] = MapStore(run.config, "gap")(model, test, "score_cam", indices=[0, 1], progress=progress)

    threads = [threading.Thread(target=slowly), threading.Thread(target=localise, args=("score_cam",))]
    threads[0].start()
    assert started.wait(60)
    threads[1].start()
    localise("cam")
    localise("grad_cam")
    assert set(outcomes) == {"cam", "grad_cam"}, "made meanwhile"
    may_go_on.set()
    for thread in threads:
        thread.join(60)
    assert np.array_equal(outcomes["first"].maps, outcomes["score_cam"].maps)
    assert outcomes["first"].seconds_per_image == outcomes["score_cam"].seconds_per_image, "read, not made again"
    assert files(run) == ["cam", "grad_cam", "grad_cam_plusplus", "score_cam"]


def test_approximations_are_labelled(run):
    result = run.evaluate("score_cam", channels=2, limit=4)
    assert "2 of largest energy (approximate)" in result.protocol_line()
    assert "precision: bf16" in run.evaluate("cam", limit=4, precision="bf16").protocol_line()


def test_a_row_and_its_method_with_smoothing_and_options_read_the_same_maps(run, passes):
    smoothed = run.evaluate("cam", smooth=("eigen", "aug"), limit=4)
    before = sum(passes)
    row = run.evaluate("CAM[aug+eigen]", limit=4)
    assert sum(passes) == before and row.method == "cam[eigen+aug]"
    assert row.to_dict() | {"method": "cam"} == smoothed.to_dict()
    assert run.evaluate("cam[aug]", smooth="eigen", limit=4).gt_known_loc == row.gt_known_loc
    assert sum(passes) == before
    few, layer = run.evaluate("score_cam[channels=2]", limit=4), run.evaluate("layer_cam[layer=layer1]", limit=4)
    before = sum(passes)
    assert run.evaluate("score_cam", channels=2, limit=4).to_dict() == few.to_dict() | {"method": "score_cam"}
    assert run.evaluate("layer_cam", layer="layer1", limit=4).gt_known_loc == layer.gt_known_loc
    assert sum(passes) == before and layer.maps["test"].maps.shape[1:] > few.maps["test"].maps.shape[1:]


def test_ivr_reads_the_maps_of_its_method_and_its_report_keeps_its_own(run, passes):
    plain = run.evaluate("cam")
    before, kept = sum(passes), files(run)
    result = run.evaluate("cam[ivr=val]")
    assert sum(passes) == before and files(run) == kept
    folder = run.finish("cam[ivr=val]", result).parent
    own = ScoreMaps.load(folder / read_metrics(folder).maps["test"]).maps
    expected = remove_inferior(plain.maps["test"].maps, read_metrics(folder).result.extra["ivr"])
    assert folder.name == "cam_ivr_val" and np.array_equal(own, expected)
