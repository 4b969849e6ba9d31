"""Training-time methods: their mathematics on toys with numbers computed by hand, and what they leave behind."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn import functional

import wsolkit as wk
from wsolkit.methods.acol import ACoL
from wsolkit.methods.adl import ADL, attention, drop_mask, importance_map, layers
from wsolkit.methods.cutmix import CutMix, patch
from wsolkit.methods.has import HaS
from wsolkit.methods.registry import METHODS, TRAINING_CHAPTER, training_methods, variant
from wsolkit.networks.models import ACoLModel, GlobalAveragePool, erase, unit_range

LABELS = torch.tensor([0, 1, 2, 0])


def birds(split="train", per_class=6):
    return wk.load_dataset("synthetic", split, size=32, classes=3, per_class=per_class)


def network(word, backbone="mobilenet_v2", seed=0):
    pooling = "acol" if word == "acol" else "gap"
    return wk.build_model(backbone, 3, pooling, weights="none", width=0.125, stride=16, seed=seed)


# -- HaS --------------------------------------------------------------------------------------------------------------


def test_has_hides_whole_cells_and_the_last_ones_are_smaller():
    images = torch.ones(4, 3, 10, 10)
    torch.manual_seed(3)
    drawn = torch.rand(4, 3, 3)  # cells of four pixels: 4, 4 and 2
    torch.manual_seed(3)
    changed, target = HaS(grid=0.4, rate=0.5).change(images, LABELS)
    expected = torch.ones(4, 3, 10, 10)
    spans = [slice(0, 4), slice(4, 8), slice(8, 10)]
    for image in range(4):
        for row in range(3):
            for column in range(3):
                if drawn[image, row, column] < 0.5:
                    expected[image, :, spans[row], spans[column]] = 0
    assert torch.equal(changed, expected) and 0 < changed.mean() < 1
    assert torch.equal(images, torch.ones_like(images)) and target is LABELS


def test_has_hides_the_share_it_was_asked_for_and_scales_with_the_image():
    torch.manual_seed(0)
    for side, cell in ((224, 44), (64, 13), (32, 6), (3, 1)):
        changed, _ = HaS(rate=0.3).change(torch.ones(200, 1, side, side), LABELS)
        rows = changed[:, 0, ::1, 0]
        edges = (rows[:, 1:] != rows[:, :-1]).any(dim=0).nonzero().flatten() + 1
        assert (edges % cell == 0).all() and len(edges) == -(-side // cell) - 1
        assert float(changed[:, 0, ::cell, ::cell].mean()) == pytest.approx(0.7, abs=0.05)
    assert HaS(rate=0).change(torch.ones(2, 3, 8, 8), LABELS)[0].all()
    assert not HaS(rate=1).change(torch.ones(2, 3, 8, 8), LABELS)[0].any()


# -- CutMix -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "share, centre, expected",
    [
        (0.75, (8, 8), (4, 12, 4, 12)),  # side 16 * 0.5 = 8
        (0.75, (0, 15), (0, 4, 11, 16)),  # clipped above and on the right
        (0.75, (15, 2), (11, 16, 0, 6)),
        (1.0, (5, 5), (5, 5, 5, 5)),  # nothing
        (0.0, (8, 8), (0, 16, 0, 16)),  # everything
        (1 - (5 / 16) ** 2 - 1e-6, (8, 8), (6, 11, 6, 11)),  # an odd side is kept
    ],
)
def test_the_patch_of_cutmix(share, centre, expected):
    assert patch(16, 16, share, centre) == expected


def test_cutmix_pastes_partners_and_counts_the_real_area():
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16).contiguous()
    seen = set()
    for seed in range(30):
        torch.manual_seed(seed)
        changed, (own, partners, share) = CutMix().change(images, LABELS)
        assert own is LABELS
        torch.manual_seed(seed)
        torch.rand(())
        assert share >= float(torch.distributions.Beta(1.0, 1.0).sample()) - 1e-6, "clipping only adds to the own share"
        torch.randint(16, ()), torch.randint(16, ())
        partner = torch.randperm(4)
        assert torch.equal(partners, LABELS[partner])
        for i in range(4):
            pasted = (changed[i, 0] != i).float()
            if partner[i] != i:
                assert float(pasted.mean()) == pytest.approx(1 - share)
                assert set(changed[i].unique().tolist()) <= {float(i), float(partner[i])}
            else:
                assert not pasted.any()
        seen.add(round(share, 3))
    assert len(seen) > 20 and torch.equal(images[:, 0, 0, 0], torch.arange(4.0)), "the originals are untouched"


def test_the_loss_of_cutmix_by_hand():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])

    def model(images):
        return logits

    own, partners = torch.tensor([0, 1]), torch.tensor([1, 1])
    loss, shown = CutMix().loss(model, None, (own, partners, 0.25), functional.cross_entropy)
    low, high = torch.log1p(torch.exp(torch.tensor(-2.0))), torch.log1p(torch.exp(torch.tensor(2.0)))
    second = torch.log1p(torch.exp(torch.tensor(-1.0)))
    expected = 0.25 * (low + second) / 2 + 0.75 * (high + second) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6) and shown is logits


def test_cutmix_leaves_batches_alone_as_often_as_it_should():
    images, mixed = torch.rand(2, 3, 8, 8), 0
    torch.manual_seed(0)
    for _ in range(300):
        changed, (_, _, share) = CutMix(prob=0.3).change(images, LABELS[:2])
        mixed += changed is not images
        assert changed is not images or share == 1.0
    assert mixed == pytest.approx(90, abs=25)


# -- ADL --------------------------------------------------------------------------------------------------------------


def test_adl_maps_by_hand():
    features = torch.tensor([[[[1.0, 3.0], [0.0, 2.0]], [[3.0, 7.0], [0.0, 6.0]]]], requires_grad=True)
    assert torch.equal(attention(features)[0, 0], torch.tensor([[2.0, 5.0], [0.0, 4.0]]))
    assert drop_mask(features, 0.8).tolist() == [[[[1.0, 0.0], [1.0, 0.0]]]], "4 is not below 0.8 * 5"
    assert drop_mask(features, 0.81)[0, 0, 1, 1] == 1 and not drop_mask(features, 0.8).requires_grad
    importance = importance_map(features)
    assert importance[0, 0, 0].tolist() == pytest.approx([0.880797, 0.993307], abs=1e-6)
    (features * importance).sum().backward()
    s, a = torch.tensor([2.0, 5.0, 0.0, 4.0]).sigmoid(), torch.tensor([4.0, 10.0, 0.0, 8.0])
    by_hand = s + a * s * (1 - s) / 2  # x * s(mean x): the product rule, half of each channel in the mean
    assert torch.allclose(features.grad[0, 0].flatten()[[0, 1, 3]], by_hand[[0, 1, 3]], atol=1e-6)


def test_attention_of_linear_layers_is_that_of_their_positive_part():
    features = -torch.rand(1, 4, 3, 3)
    features[0, 0, 1, 1] = 2.0
    assert attention(features)[0, 0, 1, 1] == 0.5 and attention(features).sum() == 0.5
    assert drop_mask(features, 0.8).sum() == 8


class Toy(nn.Module):
    """Looks like a resnet to ADL; the layers pass their input on."""

    backbone = "resnet18"

    def __init__(self):
        super().__init__()
        parts = {name: nn.Sequential(nn.Identity(), nn.Identity()) for name in ("layer3", "layer4")}
        self.body = nn.Sequential(OrderedDict(parts))

    def forward(self, x):
        return self.body(x)


def test_adl_draws_once_per_layer_and_forward_pass():
    x, objective = torch.rand(2, 3, 4, 4) + 0.1, ADL(gamma=0.9, rate=0.5)
    outcomes = set()
    for seed in range(40):
        expected = x
        torch.manual_seed(seed)
        drops = [float(torch.rand(())) < 0.5 for _ in range(3)]
        for drop in drops:
            expected = expected * (drop_mask(expected, 0.9) if drop else importance_map(expected))
        torch.manual_seed(seed)
        model = Toy().train()
        with objective.attached(model):
            got = model(x)
        assert torch.equal(got, expected)
        outcomes.add(tuple(drops))
    assert len(outcomes) == 8, "two outcomes at each of three layers"
    model = Toy().train()
    for rate, expected in ((1.0, drop_mask(x, 0.9)), (0.0, importance_map(x))):
        with ADL(gamma=0.9, rate=rate).attached(model):
            assert torch.equal(model.body.layer3(x), x * expected)


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("backbone", ["vgg16", "resnet18", "resnet50", "mobilenet_v2", "convnext_tiny"])
def test_adl_is_there_in_training_only_and_gone_afterwards(backbone):
    model, images = network("adl", backbone), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        plain = model.eval()(images)
        with ADL().attached(model):
            assert hooks(model) == 3 and torch.equal(model(images), plain), "identity in evaluation"
            shapes = []
            for layer in layers(model):
                layer.register_forward_hook(lambda _, inputs, output: shapes.append(output.shape[-1]))
            model.train()(images)
        assert shapes == sorted(shapes, reverse=True) and len(shapes) == 3 and hooks(model) == 3
    for layer in layers(model):
        layer._forward_hooks.clear()
    with pytest.raises(KeyboardInterrupt), ADL().attached(model):
        raise KeyboardInterrupt
    assert hooks(model) == 0
    with pytest.raises(ValueError, match="adl knows no layers for Linear"), ADL().attached(nn.Linear(1, 1)):
        pass


@pytest.mark.parametrize("batch_norm", [None, True])
def test_adl_on_vgg_follows_pool3_conv4_3_and_conv5_3(batch_norm):
    model = wk.build_model("vgg16", 3, weights="none", width=0.1, stride=8, batch_norm=batch_norm)
    names = {id(module): name for name, module in model.body.features.named_modules()}
    found = [names[id(layer)] for layer in layers(model)]
    assert found == (["23", "32", "42"] if batch_norm else ["16", "22", "29"]), "torchvision's own numbers"


# -- ACoL -------------------------------------------------------------------------------------------------------------


def test_erasing_by_hand():
    seen = torch.tensor([[[0.0, 1.0], [3.0, 5.0]], [[2.0, 2.0], [2.0, 2.0]]])
    assert torch.equal(unit_range(seen)[0], torch.tensor([[0.0, 0.2], [0.6, 1.0]])) and not unit_range(seen)[1].any()
    left = erase(torch.ones(2, 3, 2, 2), seen, 0.6)
    assert left[0, 0].tolist() == [[1.0, 1.0], [0.0, 0.0]], "0.6 is not below 0.6"
    assert left[1].all(), "a flat map has no maximum to erase"


@pytest.fixture
def branches():
    """Two classes, features as they come: branch A sums channels 0 and 1 as class maps, branch B is its double."""

    def one(factor):
        convolution = nn.Conv2d(2, 2, 1, bias=False)
        convolution.weight.data = factor * torch.eye(2)[:, :, None, None]
        return nn.Sequential(convolution)

    spec = {"backbone": "toy", "num_classes": 2, "pooling": "acol", "stride": 1, "delta": 0.6}
    return ACoLModel(spec, (), nn.Identity(), branch_a=one(1.0), branch_b=one(2.0), pool=GlobalAveragePool())


FEATURES = torch.tensor([[[[0.0, 1.0], [3.0, 5.0]], [[4.0, 0.0], [2.0, 1.0]]]])


def test_two_branches_by_hand(branches):
    assert torch.equal(branches(FEATURES), torch.tensor([[2.25, 1.75]]))
    a, b = branches(FEATURES, torch.tensor([0]))
    assert torch.equal(a, torch.tensor([[2.25, 1.75]]))
    assert torch.equal(b, 2 * torch.tensor([[0.25, 1.0]])), "class 0 erases the lower row, of both channels"
    loss, logits = ACoL().loss(branches, FEATURES, torch.tensor([0]), functional.cross_entropy)
    by_hand = torch.log1p(torch.exp(torch.tensor(-0.5))) + torch.log1p(torch.exp(torch.tensor(1.5)))
    assert loss.item() == pytest.approx(by_hand.item()) and torch.equal(logits, a)


def test_no_gradient_runs_through_the_mask(branches):
    features = FEATURES.clone().requires_grad_(True)
    branches(features, torch.tensor([0]))[1][0, 1].backward()
    assert torch.equal(features.grad[0, 1], torch.tensor([[0.5, 0.5], [0.0, 0.0]])) and not features.grad[0, 0].any()
    assert branches.branch_a[0].weight.grad is None, "B's loss does not train A"


def test_the_map_of_acol_by_hand(branches):
    branches.eval()
    y = torch.tensor([0])
    maps = wk.score_maps(branches, None, y, "acol", features=FEATURES)
    # A: 0, .2, .6, 1; B sees 0, 1, 0, 0
    assert torch.allclose(maps[0], torch.tensor([[0.0, 1.0], [0.6, 1.0]]))
    later = wk.score_maps(branches, None, y, "acol", features=FEATURES, delta=0.7)
    assert torch.allclose(later[0], torch.tensor([[0.0, 1 / 3], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="delta must be a number greater than 0 and at most 1 or none, but is 2"):
        wk.score_maps(branches, None, y, "acol", features=FEATURES, delta=2.0)


def test_what_is_defined_on_which_network():
    two, plain = network("acol").eval(), network("gap").eval()
    for method in ("cam", "rethinking_cam"):
        assert not wk.is_defined(method, two)[0] and wk.is_defined(method, plain)[0]
    defined, reason = wk.is_defined("acol", plain)
    assert not defined and "mobilenet_v2 with pooling 'gap' has not" in reason and "pooling 'acol'" in reason
    images, y = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    maps = wk.score_maps(two, images, y, ["acol", "grad_cam"])
    assert maps["acol"].shape == (2, 2, 2) and maps["acol"].amin() >= 0 and (maps["acol"].amax(dim=(1, 2)) == 1).all()
    features = wk.feature_map(two, images)
    assert torch.allclose(two.rest(features), two(images), atol=1e-5), "methods by gradient see branch A"
    with pytest.raises(ValueError, match=r"two branches, which .* with pooling 'gap' has not"), ACoL().attached(plain):
        pass


def test_branches_are_as_published():
    model = wk.build_model("vgg16", 20, "acol", weights="none")
    assert not hasattr(model.body, "added"), "the branches bring their own convolutions"
    shapes = [tuple(p.shape) for p in model.branch_b.parameters() if p.ndim == 4]
    assert shapes == [(1024, 512, 3, 3), (1024, 1024, 3, 3), (20, 1024, 1, 1)]
    assert 0.008 < float(model.branch_a[-1].weight.detach().std()) < 0.012


def test_pretrained_files_load_below_the_branches(tmp_path):
    import torchvision

    path = tmp_path / "resnet18.pth"
    theirs = torchvision.models.resnet18(weights=None)
    torch.save(theirs.state_dict(), path)
    model = wk.build_model("resnet18", 3, "acol", weights=str(path), stride=32)
    assert torch.equal(model.body.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert model.is_new("branch_b.0.weight") and not model.is_new("body.conv1.weight")


def test_both_branches_get_their_gradients_through_the_wrapper_of_many_devices(tmp_path):
    import torch.distributed as dist

    model, plain = network("acol").train(), network("acol").train()
    images, y = torch.randn(4, 3, 32, 32), LABELS
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with ACoL().attached(model):
            ACoL().loss(wrapped, images, y, functional.cross_entropy)[0].backward()
    finally:
        dist.destroy_process_group()
    ACoL().loss(plain, images, y, functional.cross_entropy)[0].backward()
    for (name, a), b in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, atol=1e-6), name
    assert model.branch_b[0].weight.grad.any() and model.branch_a[0].weight.grad.any()


# -- all of them in the loop ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [name for name in training_methods() if METHODS[name].chapter == TRAINING_CHAPTER])
def test_a_training_repeats_is_a_plain_network_and_comes_back_from_its_file(word, tmp_path):
    recipe = {"epochs": 2, "batch_size": 8, "lr": 0.02, "backbone_grad_scale": 1.0}
    states = []
    for out in (tmp_path, None):
        model = network(word)
        history = wk.fit(model, birds(), birds("val"), out=out, objective=variant(word).objective(), **recipe)
        assert hooks(model) == 0 and len(history) == 2
        states.append(model.state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0]), "the seed decides all draws"
    loaded, info = wk.load_checkpoint(tmp_path / "best.pt")
    assert set(loaded.state_dict()) == set(network(word).state_dict())
    images, y = birds("val").images(range(2)), torch.tensor([0, 1])
    method = "acol" if word == "acol" else "cam"
    # the trained weights lie in another memory format, whose convolutions may round differently
    assert torch.allclose(wk.score_maps(loaded, images, y, method), wk.score_maps(model, images, y, method), atol=1e-5)
    assert info["spec"].get("delta") == (0.6 if word == "acol" else None)
    if word != "acol":
        plain = network(word)
        wk.fit(plain, birds(), birds("val"), **recipe)
        assert not torch.equal(plain.head.weight, model.head.weight), "the method changed the training"


def test_a_training_belongs_to_its_method_and_its_values(tmp_path):
    def train(objective):
        return wk.fit(network("has"), birds(), None, out=tmp_path, epochs=1, batch_size=8, objective=objective)

    train(HaS())
    for other in (HaS(rate=0.4), CutMix(), None):
        with pytest.raises(ValueError, match="belongs to another recipe"):
            train(other)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: HaS(grid=0), r"grid must be greater than 0 and at most 1, but is 0 .*a cell's share"),
        (lambda: HaS(rate=1.5), "rate must be at least 0 and at most 1, but is 1.5"),
        (lambda: CutMix(beta=0), "beta must be greater than 0, but is 0"),
        (lambda: CutMix(prob=-1), "prob must be at least 0"),
        (lambda: ADL(gamma=2), "gamma must be at least 0 and at most 1, but is 2"),
        (lambda: ADL(rate=float("nan")), "rate must be a number, but is nan"),
    ],
)
def test_impossible_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_changed_images_keep_their_memory_format():
    images = torch.rand(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    for objective in (HaS(), CutMix()):
        changed, _ = objective.change(images, LABELS)
        assert changed.is_contiguous(memory_format=torch.channels_last) and changed.shape == images.shape


def test_published_numbers_stand_beside_measured_ones():
    from wsolkit.report.index import METRICS, Group, published_table

    row: dict = dict.fromkeys(METRICS, 50.0)
    row |= {"method": "has", "backbone": "vgg16", "n_images": 5794, "config": {"size": 224, "epochs": 50}, "result": {}}
    row |= {"status": "completed"}
    lines = [line for line in published_table([Group("cub", "vgg16", "has", [row])]) if line["group"]]
    assert [(line["method"], line["network"]) for line in lines] == [
        ("HaS", name) for name in ("vgg16", "resnet50", "inception_v3")
    ]
    assert (
        lines[0]["published"]["max_box_acc_v2"] == 63.7
        and lines[0]["differs"] == "50 epochs, cells of one size, values not searched"
    )
    assert "network vgg16" in lines[1]["differs"]
