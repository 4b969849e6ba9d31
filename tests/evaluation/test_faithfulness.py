"""Deletion, insertion and ROAD: known answers, identities between the curves, and grad-cam's own functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pytorch_grad_cam.metrics.road import ROADCombined, ROADMostRelevantFirstAverage
from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
from torch import nn

import wsolkit as wk
from wsolkit.boxes.preparation import prepare_map
from wsolkit.data.base import normalise
from wsolkit.evaluation import faithfulness as module
from wsolkit.evaluation.faithfulness import RISE, Faithfulness, faithfulness, faithfulness_table, measure_faithfulness
from wsolkit.figures import faithfulness_curves

SIDE = 16
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # inside grad-cam


class Corner(nn.Module):
    """Logit of class 1: mean brightness of the 4 x 4 pixels at the top left, times 20; logit of class 0: 10.

    Counts its calls and the largest batch, and drops out in training mode, so that a wrong mode would show.
    """

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.9)
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.largest = 0

    def forward(self, images):
        self.largest = max(self.largest, len(images))
        bright = self.dropout(images[:, :, :4, :4].mean(dim=(1, 2, 3)))
        return torch.stack([torch.full_like(bright, 10.0), self.scale * bright], dim=1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(128, 5)

    def forward(self, images):
        return self.head(self.layers(images))


def pictures(count=2, side=SIDE):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def bright(count=1):
    return torch.ones(count, 3, SIDE, SIDE)


def corner_map():
    """Strictly falling from the top left corner's 16 pixels, which all lie above the others."""
    scores = np.linspace(0.5, 0, SIDE * SIDE).reshape(SIDE, SIDE)
    scores[:4, :4] += 0.5
    return scores[None]


def smooth_maps(count, side=SIDE):
    """Without ties."""
    return np.random.default_rng(0).random((count, side, side))


def labels(count=1, label=1):
    return torch.full((count,), label)


# ------------------------------------------------------------------------------------------------ curves


def test_the_right_pixels_decide_at_once():
    found = faithfulness(Corner(), bright(), labels(), corner_map(), steps=16, baseline="mean")
    high, low = 1 / (1 + np.exp(-10.0)), 1 / (1 + np.exp(10.0))
    np.testing.assert_allclose(found.shares, np.arange(17) / 16)
    np.testing.assert_allclose(found.deletion[0], [high] + [low] * 16, rtol=1e-5)
    np.testing.assert_allclose(found.insertion[0], [low] + [high] * 16, rtol=1e-5)
    assert found.deletion_area[0] == pytest.approx((high + low) / 2 / 16 + low * 15 / 16, rel=1e-5)
    assert found.insertion_area[0] == pytest.approx((high + low) / 2 / 16 + high * 15 / 16, rel=1e-5)


def test_half_of_the_corner_is_half_of_the_logit():
    found = faithfulness(Corner(), bright(), labels(), corner_map(), steps=32, baseline="mean")
    assert found.deletion[0, 1] == pytest.approx(0.5, abs=1e-6)  # 8 of 16 pixels: logit 10 against 10


def test_a_perfect_map_beats_random_beats_its_opposite():
    maps = np.concatenate([corner_map(), smooth_maps(1), -corner_map()])
    found = faithfulness(Corner(), bright(3), labels(3), maps, baseline="mean")
    assert (np.diff(found.deletion_area) > 0.1).all()
    assert (np.diff(found.insertion_area) < -0.1).all()


def test_both_ends_are_the_picture_and_the_baseline():
    net, images = Net().eval(), pictures()
    black = normalise(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    found = faithfulness(net, images, torch.tensor([3, 1]), smooth_maps(2), steps=5, baseline=("mean", "black"))
    with torch.no_grad():
        whole = net(images).softmax(1)[[0, 1], [3, 1]].numpy()
        grey = net(torch.zeros_like(images)).softmax(1)[[0, 1], [3, 1]].numpy()
        dark = net(black).softmax(1)[0, [3, 1]].numpy()
    for values, expected in (
        (found.deletion[:, 0], whole), (found.deletion[:, -1], grey),
        (found.insertion[:, 0], dark), (found.insertion[:, -1], whole),
    ):  # fmt: skip
        np.testing.assert_allclose(values, expected, atol=1e-6)


def test_curves_against_a_loop_over_pixels():
    net, images, maps = Net().eval(), pictures(), smooth_maps(2)
    found = faithfulness(net, images, torch.tensor([3, 1]), maps, steps=8, baseline="mean")
    for n, label in enumerate((3, 1)):
        order = np.argsort(maps[n].ravel())[::-1]
        for k in range(9):
            taken = np.isin(np.arange(SIDE * SIDE), order[: k * 32]).reshape(SIDE, SIDE)
            kept = torch.from_numpy(~taken) * images[n]
            with torch.no_grad():
                probabilities = net(torch.stack([kept, images[n] - kept])).softmax(1)[:, label]
            assert found.deletion[n, k] == pytest.approx(float(probabilities[0]), abs=1e-6)
            assert found.insertion[n, k] == pytest.approx(float(probabilities[1]), abs=1e-6)


@pytest.mark.parametrize("baseline", ["blur", "mean", "black"])
def test_insertion_is_the_deletion_of_the_opposite_map_backwards(baseline):
    """With one baseline for both, the pictures are the same ones."""
    net, images, maps = Net(), pictures(), smooth_maps(2)
    found = faithfulness(net, images, labels(2), maps, steps=16, baseline=baseline)
    opposite = faithfulness(net, images, labels(2), -maps, steps=16, baseline=baseline)
    np.testing.assert_allclose(found.insertion, opposite.deletion[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(found.insertion_area, opposite.deletion_area, atol=1e-6)


def test_baselines():
    seen = []

    class Spy(Corner):
        def forward(self, images):
            seen.append(images.clone())
            return super().forward(images)

    images = pictures(1, 64)
    for baseline in module.BASELINES:
        seen.clear()
        faithfulness(Spy(), images, labels(), smooth_maps(1), steps=1, baseline=baseline)
        filled = seen[0][1]  # deletion, share 1
        if baseline == "blur":
            assert filled.std() < images.std() / 5 and filled.mean() == pytest.approx(float(images.mean()), abs=0.05)
        elif baseline == "mean":
            assert (filled == 0).all()
        else:
            assert (wk.denormalise(filled) == 0).all()
        torch.testing.assert_close(seen[0][0], images[0], rtol=0, atol=0)
        torch.testing.assert_close(seen[1][0], filled, rtol=0, atol=0)
    one, pair = (faithfulness(Net(), images, labels(), smooth_maps(1), baseline=b) for b in (RISE, "blur"))
    assert (one.insertion == pair.insertion).all() and (one.deletion != pair.deletion).any()


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 9, 64)])
def test_any_shape_of_image(shape):
    found = faithfulness(
        nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten()), torch.rand(1, *shape), labels(), smooth_maps(1, 4)
    )
    assert np.isfinite(found.road).all() and np.isfinite(found.deletion).all()


@pytest.mark.parametrize("steps", [1, 7, 300])
def test_steps(steps):
    """Any number, also one that does not divide the pixels or is larger than they are many."""
    found = faithfulness(Corner(), bright(), labels(), corner_map(), steps=steps)
    assert found.deletion.shape == found.insertion.shape == (1, steps + 1)
    assert found.shares[0] == 0 and found.shares[-1] == 1 and (np.diff(found.shares) >= 0).all()
    assert found.deletion_area[0] == pytest.approx(np.trapezoid(found.deletion[0], found.shares))


def test_ties_go_in_reading_order():
    flat = np.zeros((1, 4, 4))
    np.testing.assert_array_equal(module._removal_order(flat)[0].ravel(), np.arange(16))
    np.testing.assert_array_equal(
        module._removal_order(np.array([[[0.0, 1, 0], [1, 0, 0.5]]])), [[[3, 0, 4], [1, 5, 2]]]
    )
    few = np.random.default_rng(0).integers(0, 3, (1, 40, 50)) / 2.0
    order = np.lexsort((np.arange(2000), -few.ravel()))
    np.testing.assert_array_equal(module._removal_order(few).ravel()[order], np.arange(2000))
    images = pictures()
    reading = -np.arange(SIDE * SIDE, dtype=float).reshape(1, SIDE, SIDE).repeat(2, axis=0)
    one, other = (faithfulness(Net(), images, labels(2), maps) for maps in (np.full((2, 4, 4), 7.0), reading))
    np.testing.assert_array_equal(one.deletion, other.deletion)
    np.testing.assert_array_equal(one.road, other.road)


def test_maps_are_grown_as_for_boxes():
    """A small map, a tensor or an array, in any range, is the large map that `prepare_map` makes of it."""
    small = np.random.default_rng(3).random((2, 4, 4)).astype(np.float32)
    large = np.stack([prepare_map(scores, SIDE) for scores in small])
    found = [
        faithfulness(Net(), pictures(), labels(2), maps) for maps in (torch.from_numpy(small), large, 32 * small - 8)
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].deletion, other.deletion)
        np.testing.assert_array_equal(found[0].insertion, other.insertion)
        np.testing.assert_array_equal(found[0].road, other.road)


# ------------------------------------------------------------------------------------------------ ROAD


def test_road_is_that_of_grad_cam():
    """Without ties; of one image, whose noise grad-cam draws in the same order from the same seed."""
    net, images, maps = Net().eval(), pictures(1), np.stack([prepare_map(smooth_maps(1)[0], SIDE)])
    percentiles = [20, 50, 90]
    targets = [ClassifierOutputSoftmaxTarget(3)]
    found = faithfulness(net, images, labels(label=3), maps, percentiles=percentiles, seed=5)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = ROADCombined(percentiles)(images, maps, targets, net)
        most = ROADMostRelevantFirstAverage(percentiles)(images, maps, targets, net)  # with other noise
    np.testing.assert_allclose(found.road, expected, atol=1e-6)
    np.testing.assert_allclose((found.most_first - found.deletion[:, :1]).mean(axis=1), most, atol=0.02)
    np.testing.assert_allclose(found.removed, [0.8, 0.5, 0.1])


def test_road_knows_the_right_pixels():
    """A gradient across the picture: without the corner its neighbours fill it in, so brightness stays outside only."""
    image = torch.zeros(1, 3, SIDE, SIDE)
    image[:, :, :4, :4] = 1
    found = faithfulness(Corner(), image, labels(), corner_map(), percentiles=(50, 90))
    assert (found.most_first < 1e-3).all() and (found.least_first > 0.999).all()
    assert found.road[0] == pytest.approx(0.5, abs=1e-3)
    opposite = faithfulness(Corner(), image, labels(), -corner_map(), percentiles=(50, 90))
    np.testing.assert_allclose(opposite.road, -found.road, atol=1e-6)


def test_road_of_a_map_of_zeros_is_defined():
    """By grad-cam's comparison every pixel of a flat map would be removed, and nothing be left to fill in from."""
    half = np.zeros((2, SIDE, SIDE))
    half[1, 5, 5] = 1
    found = faithfulness(Net(), pictures(), labels(2), half)
    assert np.isfinite(found.road).all() and np.isfinite(found.most_first).all()
    assert (found.most_first[0] != found.most_first[1]).any()


# ------------------------------------------------------------------------------------------------ promises


def test_the_same_call_gives_the_same_numbers_and_chunks_change_nothing():
    net, images, maps = Net(), pictures(3), smooth_maps(3)
    before = torch.random.get_rng_state()
    first, again = (faithfulness(net, images, labels(3), maps, chunk=7) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state()), "the global random state is not touched"
    other = faithfulness(net, images, labels(3), maps, chunk=64)
    alone = [faithfulness(net, images[i : i + 1], labels(), maps[i : i + 1]) for i in range(3)]
    together = Faithfulness.concatenate(alone)
    for name in ("deletion", "insertion", "most_first", "least_first"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_allclose(getattr(first, name), getattr(other, name), atol=1e-6)
        np.testing.assert_allclose(getattr(first, name), getattr(together, name), atol=1e-6)
    assert len(together) == 3 and together.shares.shape == (33,)
    noisy = faithfulness(net, images, labels(3), maps, seed=1)
    assert (noisy.most_first != first.most_first).any() and np.abs(noisy.road - first.road).max() < 0.01


def test_chunk_bounds_the_batch():
    model = Corner()
    faithfulness(model, bright(3), labels(3), corner_map().repeat(3, axis=0), chunk=5)
    assert model.largest == 5


@pytest.mark.parametrize("fits", [1, 3])
def test_a_full_device_makes_the_chunk_smaller(fits):
    class Narrow(Net):
        seen = 0

        def forward(self, images):
            if len(images) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            self.seen += len(images)
            return super().forward(images)

    narrow, images, maps = Narrow(), pictures(3), smooth_maps(3)
    with pytest.warns(RuntimeWarning, match=rf"chunk=7 ran out of device memory and became {fits}"):
        found = faithfulness(narrow, images, labels(3), maps, steps=4, percentiles=(30, 70), chunk=7)
    expected = faithfulness(Net(), images, labels(3), maps, steps=4, percentiles=(30, 70), chunk=7)
    assert narrow.seen == 3 * (5 + 5 + 4), "no picture is looked at twice"
    for name in ("deletion", "insertion", "most_first", "least_first"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-6)
    fits = 0
    with pytest.raises(torch.OutOfMemoryError, match="even one image"):
        faithfulness(narrow, images, labels(3), maps, steps=4, percentiles=(30,), chunk=7)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_the_model_is_left_as_found(error):
    class Fails(Net):
        def forward(self, images):
            assert not self.training and not torch.is_grad_enabled()
            if error:
                raise error("stop")
            return super().forward(images)

    net = Fails().train()
    net.layers[1].eval()  # a frozen layer among training ones
    net.head.weight.requires_grad_(False)
    net.head.bias.grad = torch.ones(5)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    images = pictures(1).requires_grad_(True)
    copy = images.detach().clone()
    if error:
        with pytest.raises(error, match="stop"):
            faithfulness(net, images, labels(), smooth_maps(1))
    else:
        faithfulness(net, images, labels(), smooth_maps(1))
    assert net.training and net.head.training and not net.layers[1].training
    assert not net.head.weight.requires_grad and net.layers[0].weight.requires_grad
    assert torch.equal(net.head.bias.grad, torch.ones(5)) and net.layers[0].weight.grad is None
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
    assert torch.equal(images, copy) and images.grad is None and torch.is_grad_enabled()


def test_half_precision():
    net, images, maps = Net(), pictures(), smooth_maps(2)
    full, half = (faithfulness(net.to(t), images.to(t), labels(2), maps) for t in (torch.float32, torch.bfloat16))
    np.testing.assert_allclose(half.deletion, full.deletion, atol=0.03)
    np.testing.assert_allclose(half.road, full.road, atol=0.03)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": torch.zeros(2, 1, 8, 8)}, r"\(B, 3, H, W\)"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "at least one"),
        ({"images": np.zeros((2, 3, 8, 8))}, "ndarray"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, "uint8"),
        ({"labels": torch.tensor([0])}, r"shape \(2,\)"),
        ({"labels": torch.tensor([0.0, 1.0])}, "whole numbers"),
        ({"labels": torch.tensor([0, -1])}, "-1"),
        ({"labels": torch.tensor([0, 2])}, "labels reach 2"),
        ({"maps": np.zeros((1, 4, 4))}, "one for each of 2"),
        ({"images": bright(2) * float("nan")}, "not finite"),
        ({"maps": np.zeros((4, 4))}, r"\(B, h, w\)"),
        ({"steps": 0}, "steps=0"),
        ({"chunk": True}, "chunk=True"),
        ({"baseline": "white"}, "blur, mean, black"),
        ({"baseline": ("blur",)}, "pair"),
        ({"percentiles": ()}, "at least one"),
        ({"percentiles": (0, 50)}, "between 0 and 100"),
        ({"percentiles": (100,)}, "between 0 and 100"),
    ],
)
def test_errors(changes, words):
    arguments = {"images": bright(2), "labels": labels(2), "maps": smooth_maps(2), **changes}
    with pytest.raises(ValueError, match=words):
        faithfulness(Corner(), **arguments)


# ------------------------------------------------------------------------------------------------ of a dataset


@pytest.fixture(scope="module")
def birds():
    return wk.load_dataset("synthetic", "test", size=32, per_class=2)


@pytest.fixture(scope="module")
def network(birds):
    return wk.build_model("resnet18", len(birds.classes), weights="none", width=0.125)


OPTIONS = {"steps": 4, "percentiles": (50,)}


def test_table(birds, network):
    measured = measure_faithfulness(network, birds, ["cam", "GradCAM"], limit=5, **OPTIONS)
    again = measure_faithfulness(network, birds, ["cam", "grad_cam"], limit=5, batch_size=2, **OPTIONS)
    table = faithfulness_table(again)
    assert list(table.index) == list(measured) == ["cam", "grad_cam", "random map", "centre Gaussian"]
    assert list(table.columns) == [f"{name}{end}" for name in ("deletion", "insertion", "road") for end in ("", "_low", "_high")] + ["n"]  # fmt: skip
    assert (table["n"] == 5).all()
    for name in ("deletion", "insertion", "road"):
        assert (table[f"{name}_low"] <= table[name]).all() and (table[name] <= table[f"{name}_high"]).all()
    np.testing.assert_allclose(table.to_numpy(), faithfulness_table(measured).to_numpy(), atol=1e-6)
    assert table.loc["cam", "deletion"] == pytest.approx(measured["cam"].deletion_area.mean())


def test_dataset_numbers_are_those_of_the_function(birds, network):
    chosen = birds.spread(3, 0)
    images, wanted = birds.images(chosen), torch.from_numpy(birds.labels[chosen])
    maps = wk.score_maps(network, images, wanted, "cam")
    expected = faithfulness(network, images, wanted, maps, **OPTIONS)
    found = measure_faithfulness(network, birds, "cam", limit=3, **OPTIONS)["cam"]
    np.testing.assert_allclose(found.deletion, expected.deletion, atol=1e-6)
    np.testing.assert_allclose(found.road, expected.road, atol=1e-6)


def test_baseline_maps(birds, network):
    chosen = birds.spread(3, 7)
    images, wanted = birds.images(chosen), torch.from_numpy(birds.labels[chosen])
    measured = measure_faithfulness(network, birds, "cam", limit=3, seed=7, batch_size=2, **OPTIONS)
    cells = wk.feature_map(network, images).shape[2:]
    noise = np.stack([np.random.default_rng([7, int(i)]).random(cells) for i in chosen])
    centre = module._centre_gaussian(32)  # its corners differ by rounding only: another formula has another order
    y, x = np.mgrid[:32, :32] - 15.5
    np.testing.assert_allclose(centre, np.exp(-(y**2 + x**2) / (2 * 8**2)))
    centre = centre[None].repeat(3, axis=0)
    for name, maps in (("random map", noise), ("centre Gaussian", centre)):
        expected = faithfulness(network, images, wanted, maps, seed=7, **OPTIONS)
        np.testing.assert_allclose(measured[name].deletion, expected.deletion, atol=1e-6)
        np.testing.assert_allclose(measured[name].most_first, expected.most_first, atol=1e-6)


def test_one_pass_of_the_body_for_all_maps(birds, network):
    calls = []
    handle = network.body.register_forward_hook(lambda *_: calls.append(1))
    try:
        counts = []
        for methods in (["cam"], ["cam", "grad_cam", "layer_cam"]):
            calls.clear()
            measure_faithfulness(network, birds, methods, limit=2, steps=1, percentiles=(50,), chunk=100)
            counts.append(len(calls))
    finally:
        handle.remove()
    assert counts == [1 + 3 * 3, 1 + 5 * 3]  # one for the maps; deletion, insertion and ROAD for each map


def test_kept_maps_are_taken(birds, network):
    """Those of a report, whatever their order and number; the network makes none."""
    kept = wk.localise(network, birds, "grad_cam", indices=birds.spread(6, 0)[::-1])
    found = measure_faithfulness(network, birds, {"mine": kept}, limit=3, **OPTIONS)
    expected = measure_faithfulness(network, birds, ["grad_cam"], limit=3, **OPTIONS)
    assert list(found) == ["mine", "random map", "centre Gaussian"]
    np.testing.assert_allclose(found["mine"].deletion, expected["grad_cam"].deletion, atol=1e-5)
    np.testing.assert_array_equal(found["random map"].deletion, expected["random map"].deletion)
    with pytest.raises(ValueError, match="'mine' lack 2 of 8 images"):
        measure_faithfulness(network, birds, {"mine": kept}, limit=8, **OPTIONS)


def test_the_network_of_a_dataset_is_left_in_its_mode(birds, network):
    network.train()
    try:
        measure_faithfulness(network, birds, ["cam"], limit=1, **OPTIONS)
        assert all(part.training for part in network.modules())
    finally:
        network.eval()


def test_an_unknown_method_is_refused(birds, network):
    with pytest.raises(ValueError, match="nonsense"):
        measure_faithfulness(network, birds, ["cam", "nonsense"], limit=1, **OPTIONS)
    with pytest.raises(ValueError, match="no method"):
        measure_faithfulness(network, birds, [], limit=1, **OPTIONS)


def test_figure(birds, network):
    measured = measure_faithfulness(network, birds, ["cam"], limit=3, **OPTIONS)
    fig = faithfulness_curves(measured)
    upper, lower = fig.axes
    np.testing.assert_allclose(upper.lines[0].get_ydata(), measured["cam"].deletion.mean(axis=0))
    np.testing.assert_allclose(lower.lines[0].get_ydata(), measured["cam"].insertion.mean(axis=0))
    assert [text.get_text() for text in lower.get_legend().get_texts()] == list(measured)
    assert len(upper.collections) == len(measured), "a band for every line"
    assert wk.figures.svg_uri(fig) == wk.figures.svg_uri(faithfulness_curves(measured))
    with pytest.raises(ValueError, match="no curve"):
        faithfulness_curves({})
