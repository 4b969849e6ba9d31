"""Score maps: their numbers, by hand, against the reference vectors and against the grad-cam package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import pytorch_grad_cam as package
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import nn
from torchvision.models.vgg import make_layers

import wsolkit as wk
from wsolkit import methods as cams
from wsolkit.methods.maps import eigen_projection
from wsolkit.methods.score_cam import representatives
from wsolkit.networks.backbones import BACKBONES
from wsolkit.networks.models import GlobalAveragePool, ThresholdedAveragePool, build_model, unit_range

VECTORS = Path(__file__).parents[1] / "vectors" / "rethinking_cam.npz"


class Net(nn.Module):
    """Body, pool and head, as every network of the package."""

    backbone = "toy"

    def __init__(self, body, pool, head, pooling="gap", has_cam=True):
        super().__init__()
        self.body, self.pool, self.head = body, pool, head
        self.rest = nn.Sequential(pool, head)
        self.pooling, self.has_cam, self.num_classes = pooling, has_cam, head.out_features

    def forward(self, x):
        return self.head(self.pool(self.body(x)))


def vgg_body(stride=2):
    """torchvision's VGG layers, small, every ReLU in place."""
    torch.manual_seed(0)
    config = [8, "M", 12, "M", 16] if stride == 4 else [8, "M", 16] if stride == 2 else [8, 16]
    return make_layers(config)


def gap_net(pooling="gap", stride=2):
    body = vgg_body(stride)
    pool = GlobalAveragePool() if pooling == "gap" else ThresholdedAveragePool(0.3)
    return Net(body, pool, nn.Linear(16, 5), pooling).eval()


def fc_net(stride=4):
    """As vgg16_fc: pool5, adaptive pooling, fully connected layers with in-place ReLU and dropout."""
    body = vgg_body(stride)
    pool = nn.Sequential(
        nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(144, 40), nn.ReLU(inplace=True), nn.Dropout()
    )
    return Net(body, pool, nn.Linear(40, 5), "fc", has_cam=False).eval()


NETS = {"gap": gap_net, "tap": lambda stride=2: gap_net("tap", stride), "fc": fc_net}


def pictures(n=3, size=24, seed=1):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def at_input_size(maps, size):
    """What the package does to a raw map: min-max, resize to the input, min-max."""
    return scale_cam_image(scale_cam_image(maps.numpy(), (size, size)))


def by_package(cls, net, images, targets, layer=None, **call):
    made = cls(net, [net.body[-1] if layer is None else layer])
    return made(images, targets=targets, **call)


# ---------------------------------------------------------------- by hand


@pytest.fixture
def hand():
    """Two channels that are copies of the image, GAP, weights +-1."""
    body = nn.Conv2d(1, 2, 1, bias=False)
    head = nn.Linear(2, 2)
    with torch.no_grad():
        body.weight.copy_(torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1))
        head.weight.copy_(torch.tensor([[1.0, -1.0], [1.0, 1.0]]))
        head.bias.fill_(100.0)
    return Net(nn.Sequential(body, nn.ReLU()), GlobalAveragePool(), head)


def test_maps_by_hand(hand):
    image = torch.tensor([[0.0, 1.0], [2.0, 4.0]])[None, None]
    both, y = image.repeat(2, 1, 1, 1), torch.tensor([0, 1])
    flat = image[0, 0]
    maps = wk.score_maps(hand, both, y, "cam")
    assert torch.equal(maps, torch.stack([flat - 2 * flat, 3 * flat])), "no bias, no ReLU, each image's own class"
    nwc = wk.score_maps(hand, both, y, "rethinking_cam")
    assert torch.equal(nwc, torch.stack([flat, 3 * flat]))
    assert torch.equal(wk.score_maps(hand, both, y, "rethinking_cam", nwc=False), maps)
    # mean gradient = weight / 4 positions; negative sums are cut
    grad = wk.score_maps(hand, both, y, "grad_cam")
    assert torch.allclose(grad, torch.stack([0 * flat, 3 * flat / 4]))
    # ablation: without channel c the score falls from z by W[y,c] mean(A[c])
    z = 100 + 3 * 1.75
    expected = (1.75 / z) * flat + (3.5 / z) * 2 * flat
    assert torch.allclose(wk.score_maps(hand, both, y, "ablation_cam")[1], expected, atol=1e-5)


def test_score_cam_by_hand(hand):
    image = torch.tensor([[0.0, 1.0], [2.0, 4.0]])[None, None]
    mask = image / 4  # both channels show the same mask
    seen = (image * mask).mean()
    z = 100 + seen * torch.tensor([1.0, 1.0]) @ torch.tensor([1.0, 2.0])
    assert torch.isclose(hand(image * mask)[0, 1], z)
    maps = wk.score_maps(hand, image, torch.tensor([1]), "score_cam")
    assert torch.allclose(maps[0], 0.5 * image[0, 0] + 0.5 * 2 * image[0, 0], atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_grad_cam_is_relu_of_cam_on_gap(seed):
    net, images, y = gap_net(), pictures(4, seed=seed), torch.tensor([0, 1, 2, 4])
    cam = wk.score_maps(net, images, y, "cam")
    grad = wk.score_maps(net, images, y, "grad_cam")
    positions = cam[0].numel()
    assert (cam > 0).any() and (cam < 0).any()
    assert torch.allclose(grad, cam.clamp(min=0) / positions, atol=1e-7)


def test_grad_cam_is_something_else_on_fc():
    net, images, y = fc_net(2), pictures(), torch.tensor([0, 1, 2])
    with pytest.raises(cams.MethodNotDefined, match="cam is not defined on toy"):
        wk.score_maps(net, images, y, "cam")
    with pytest.raises(ValueError, match="other layers lie between"):
        wk.score_maps(net, images, y, "rethinking_cam")
    assert cams.is_defined("cam", net)[0] is False and cams.is_defined("grad_cam", net) == (True, "")
    assert cams.is_defined("cam", gap_net()) == (True, "")
    assert wk.score_maps(net, images, y, "grad_cam").max() > 0


# ---------------------------------------------------------------- reference vectors


def check_reference(path):
    data = np.load(path, allow_pickle=False)
    head = nn.Linear(32, 5)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(data["weight"]))
        head.bias.copy_(torch.from_numpy(data["bias"]))
    net = Net(nn.Identity(), ThresholdedAveragePool(0.1), head, "tap")
    features = torch.from_numpy(data["features"])
    logits = net(features)
    for label in range(5):
        y = torch.full((6,), label)
        plain = wk.score_maps(net, features, y, "cam").numpy()
        clamped = wk.score_maps(net, features, y, "rethinking_cam").numpy()
        np.testing.assert_allclose(plain, data["score_map"][:, label], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(clamped, data["score_map_nwc"][:, label], rtol=1e-5, atol=1e-5)
    assert torch.equal(net(features), logits), "NWC must not reach the logits"
    np.testing.assert_allclose(logits.detach().numpy(), data["tap_0.1_logits"], rtol=1e-4, atol=1e-4)


def test_rethinking_cam_reference(shared):
    check_reference(shared("conformance/rethinking_cam.npz"))


@pytest.mark.skipif(not VECTORS.exists(), reason="tests/vectors/rethinking_cam.npz is absent")
def test_rethinking_cam_reference_copy():
    check_reference(VECTORS)


# ---------------------------------------------------------------- the grad-cam package on the whole network

BY_CLASS = {
    "grad_cam": package.GradCAM,
    "grad_cam++": package.GradCAMPlusPlus,
    "xgrad_cam": package.XGradCAM,
    "layer_cam": package.LayerCAM,
    "hires_cam": package.HiResCAM,
    "grad_cam_elementwise": package.GradCAMElementWise,
    "seg_eigen_cam": package.SegEigenCAM,
    "fem": package.FEM,
    "score_cam": package.ScoreCAM,
    "ablation_cam": package.AblationCAM,
    "refine_cam": package.RefineCAM,
    "shapley_cam": package.ShapleyCAM,
}


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("method", BY_CLASS)
def test_same_numbers_as_the_package(method, kind):
    net, images, y = NETS[kind](), pictures(), torch.tensor([3, 0, 4])
    net.head.bias.data += 3  # ablation divides by the score: keep away from 0
    ours = at_input_size(wk.score_maps(net, images, y, method), 24)
    theirs = by_package(BY_CLASS[method], net, images.clone(), [ClassifierOutputTarget(int(c)) for c in y])
    assert theirs.max() > 0.9, "the comparison needs a map that is not flat"
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.fixture
def two_threads():
    """With one, torch takes other convolutions, whose rounding score_cam's softmax over large raw logits magnifies."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize(
    "backbone, pooling",  # BAS's rest is the same on all: one is enough
    [(name, p) for name, b in BACKBONES.items() for p in b.poolings if p != "bas" or name == "resnet18"],
)
def test_same_numbers_as_the_package_on_every_backbone(backbone, pooling):
    net = build_model(backbone, 4, pooling=pooling, weights="none", width=0.1).eval()
    with torch.no_grad():
        last = {"acol": "branch_a", "bas": "branch"}.get(pooling)
        last = getattr(net, last)[-1] if last else net.head
        last.weight.normal_(generator=torch.Generator().manual_seed(0))
        for module in net.modules():  # He's fan out lets mobilenet's signal vanish; a trained network is at unit scale
            if isinstance(module, nn.BatchNorm2d):
                module.train().momentum = 1.0
        net.body(pictures(8, 64))
    net.eval()
    images, y = pictures(2, 64, seed=5), torch.tensor([3, 1])
    targets = [ClassifierOutputTarget(int(c)) for c in y]
    masks = ("score_cam",) if pooling == "gap" or backbone == "resnet18" else ()  # up to a minute and a half each
    for method in ("grad_cam", "grad_cam++", "layer_cam", *masks):
        ours = at_input_size(wk.score_maps(net, images, y, method), 64)
        theirs = by_package(BY_CLASS[method], net, images.clone(), targets, layer=list(net.body.children())[-1])
        # raw logits of random weights are large, and score_cam's softmax magnifies how convolutions round
        np.testing.assert_allclose(ours, theirs, atol=1e-3 if method == "score_cam" else 1e-4, err_msg=method)
        assert theirs.max() > 0.9, method
    assert cams.is_defined("cam", net)[0] is (pooling in ("gap", "tap"))
    net.train()
    for method in ("cam", "grad_cam"):
        if cams.is_defined(method, net)[0]:
            wk.score_maps(net, images, y, method, smooth=("eigen", "aug"))
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("method, cls", [("eigen_cam", package.EigenCAM), ("eigen_grad_cam", package.EigenGradCAM)])
def test_principal_components_as_in_the_package_but_for_the_sign(method, cls):
    net, images, y = fc_net(), pictures(), torch.tensor([3, 0, 4])
    ours = wk.score_maps(net, images, y, method)
    features = wk.feature_map(net, images)
    weight = torch.ones_like(features) if method == "eigen_cam" else cams_gradients(net, features, y)
    theirs = get_2d_projection((weight * features).numpy())
    plain = (weight * features).sum(1).numpy()
    for one, other, reference in zip(ours.numpy(), theirs, plain, strict=True):
        sign = np.sign((other * (reference - reference.mean())).sum())
        np.testing.assert_allclose(one, np.maximum(sign * other, 0), atol=1e-4 * np.abs(other).max())


def cams_gradients(net, features, y):
    """An independent gradient, by backward."""
    leaf = features.clone().requires_grad_(True)
    net.rest(leaf.clone()).gather(1, y[:, None]).sum().backward()
    net.zero_grad()
    return leaf.grad


def test_finer_cam_as_in_the_package():
    net, images = fc_net(), pictures(1)
    target = net(images)[0].argsort()[2].item()  # not the predicted class
    order = (net(images)[0] - net(images)[0, target]).abs().argsort().tolist()
    targets = [FinerWeightedTarget(target, order[1:4], 1)]
    theirs = by_package(package.FinerCAM, net, images, targets)
    ours = wk.score_maps(net, images, torch.tensor([target]), "finer_cam")
    np.testing.assert_allclose(at_input_size(ours, 24), theirs, atol=1e-4)


def test_full_grad_and_sess_as_in_the_package():
    net, images, y = fc_net(), pictures(2), torch.tensor([3, 1])
    targets = [ClassifierOutputTarget(int(c)) for c in y]
    full = package.FullGrad(net, [])(images.clone(), targets=targets)
    sess = package.SESS(net, [net.body[-1]], num_scales=2)(images.clone(), targets=targets)
    for ours, theirs in (
        (wk.score_maps(net, images, y, "full_grad"), full),
        (wk.score_maps(net, images, y, "sess", num_scales=2), sess),
    ):
        down = nn.functional.interpolate(torch.from_numpy(theirs)[:, None], size=ours.shape[-2:], mode="area")[:, 0]
        assert torch.allclose(ours, down, atol=1e-4) and ours.std() > 0.01


def test_every_cam_class_of_the_package_is_reachable():
    helpers = {"AblationLayer", "AblationLayerVit", "AblationLayerFasterRCNN", "ActivationsAndGradients"}
    no_class_maps = {"GuidedBackpropReLUModel", "DeepFeatureFactorization"}  # an image gradient; concepts, no class
    classes = {name for name, value in vars(package).items() if isinstance(value, type)}
    net, images, y = fc_net(), pictures(2), torch.tensor([3, 1])
    for name in sorted(classes - helpers - no_class_maps):
        options = {"num_scales": 1} if name == "SESS" else {}
        maps = wk.score_maps(net, images, y, name, **options)
        assert maps.shape == (2, 6, 6) and maps.dtype == torch.float32 and maps.isfinite().all(), name
        assert (maps >= 0).all(), name


def test_a_class_the_package_may_add_later(monkeypatch):
    class TopGradCAM(package.GradCAM):
        def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
            return grads.max(axis=(2, 3))

    monkeypatch.setattr(package, "TopGradCAM", TopGradCAM, raising=False)
    net, images, y = fc_net(), pictures(), torch.tensor([3, 0, 4])
    try:
        ours = wk.score_maps(net, images, y, "top_grad_cam")
    finally:
        cams.METHODS.pop(cams.resolve("top_grad_cam").name)
    theirs = torch.from_numpy(by_package(TopGradCAM, net, images, [ClassifierOutputTarget(int(c)) for c in y]))
    down = nn.functional.interpolate(theirs[:, None], size=ours.shape[-2:], mode="area")[:, 0]
    assert torch.allclose(ours, down, atol=1e-4) and ours.std() > 0.01


def test_names_are_forgiving_and_slugs_fit_files():
    for name in ("grad_cam++", "grad_cam_plusplus", "GradCAM++", "GradCAMPlusPlus", "grad-cam++"):
        assert cams.resolve(name).name == "grad_cam++"
    assert cams.resolve("grad_cam++").slug == "grad_cam_plusplus"
    assert [cams.resolve(n).needs for n in ("cam", "grad_cam", "score_cam")] == ["features", "gradient", "forward"]
    assert set(cams.method_names()) >= {"cam", "rethinking_cam", "grad_cam", "grad_cam++", "score_cam", "layer_cam"}


# ---------------------------------------------------------------- Score-CAM


class Dead(nn.Module):
    """Makes channel 0 zero and channel 1 constant."""

    def forward(self, x):
        x = x.clone()
        x[:, 0], x[:, 1] = 0, 0.7
        return x


def dead_net():
    net = gap_net()
    return Net(nn.Sequential(net.body, Dead()), net.pool, net.head).eval()


def reference_score_cam(net, image, label, speakers=None):
    """Straight from the formula, one channel at a time; with `speakers` each channel has the score of another."""
    features = net.body(image[None])[0]
    scores = []
    for channel in features:
        mask = nn.functional.interpolate(channel[None, None], image.shape[-2:], mode="bilinear", align_corners=True)
        span = mask.max() - mask.min()
        mask = torch.zeros_like(mask) if channel.max() == channel.min() else (mask - mask.min()) / (span + 1e-8)
        scores.append(net(image[None] * mask)[0, label])
    scores = torch.stack(scores) if speakers is None else torch.stack(scores)[speakers]
    weights = torch.softmax(scores, 0)
    return (weights[:, None, None] * features).sum(0).clamp(min=0)


@torch.no_grad()
def test_score_cam_dead_and_constant_channels():
    net, images, y = dead_net(), pictures(), torch.tensor([3, 0, 4])
    maps = wk.score_maps(net, images, y, "score_cam", chunk=5)
    expected = torch.stack([reference_score_cam(net, x, c) for x, c in zip(images, y, strict=True)])
    assert torch.allclose(maps, expected, atol=1e-5)
    all_dead = Net(nn.Sequential(net.body, nn.Threshold(1e9, 0.0)), net.pool, net.head)
    assert torch.equal(wk.score_maps(all_dead, images, y, "score_cam"), torch.zeros_like(maps))


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam"])
@pytest.mark.parametrize("kind", NETS)
def test_chunk_and_batch_do_not_change_the_result(method, kind):
    net, images, y = NETS[kind](), pictures(), torch.tensor([3, 0, 4])
    maps = wk.score_maps(net, images, y, method, chunk=32)
    for chunk in (1, 7, 1000):
        assert torch.allclose(wk.score_maps(net, images, y, method, chunk=chunk), maps, atol=1e-5)
    alone = torch.cat([wk.score_maps(net, images[i : i + 1], y[i : i + 1], method) for i in range(3)])
    assert torch.allclose(alone, maps, atol=1e-5)


@pytest.mark.parametrize("method", ["score_cam", "ablation_cam"])
def test_fewer_channels(method):
    net, images, y = gap_net(), pictures(), torch.tensor([3, 0, 4])
    full = wk.score_maps(net, images, y, method)
    assert torch.allclose(wk.score_maps(net, images, y, method, channels=16), full, atol=1e-6)
    assert torch.equal(wk.score_maps(net, images, y, method, channels=99), full)
    few = wk.score_maps(net, images, y, method, channels=1)
    features = wk.feature_map(net, images)
    best = features.square().sum((2, 3)).argmax(1)
    if method == "score_cam":  # the softmax over one channel is 1
        assert torch.allclose(few, features[torch.arange(3), best], atol=1e-6)
    assert not torch.allclose(few, full, atol=1e-4)
    for bad in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match=f"channels must be a whole number of at least 1 or none, but is {bad}"):
            wk.score_maps(net, images, y, method, channels=bad)


@torch.no_grad()
@pytest.mark.parametrize("clusters", [1, 4, 16, 99])
def test_a_channel_has_the_score_of_its_representative(clusters, monkeypatch):
    net, images, y = dead_net(), pictures(), torch.tensor([3, 0, 4])
    features = net.body(images)
    speakers = representatives(features, clusters)
    for own, maps in zip(speakers, features.flatten(2), strict=True):
        flat = maps.amax(1) == maps.amin(1)
        assert flat.any() and (own[flat] == own[flat][0]).all() and flat[own[flat][0]], "they make the same mask"
        assert (own[own] == own).all() and len(own[~flat].unique()) == min(clusters, int((~flat).sum()))
    looked = []
    monkeypatch.setattr(net.head, "forward", lambda x, run=net.head.forward: (looked.append(len(x)), run(x))[1])
    maps = wk.score_maps(net, images, y, "score_cam", clusters=clusters, features=features)
    passes = sum(len(own.unique()) for own in speakers)  # that of the images without contrast is shared
    assert sum(looked) <= passes + 1 + len(images)
    monkeypatch.undo()
    expected = [reference_score_cam(net, *given) for given in zip(images, y, speakers, strict=True)]
    assert torch.allclose(maps, torch.stack(expected), atol=1e-5)
    alone = wk.score_maps(net, images[1:2], y[1:2], "score_cam", clusters=clusters, features=features[1:2])
    assert torch.allclose(alone[0], maps[1], atol=1e-5), "nothing depends on the batch"


def test_equal_channels_are_one_cluster():
    features = torch.rand(1, 3, 4, 4).repeat(1, 4, 1, 1) * torch.arange(1, 13)[:, None, None]  # a mask knows no scale
    assert len(representatives(features, 3).unique()) == 3 and len(representatives(features, 2).unique()) == 2
    with pytest.raises(ValueError, match="give channels= or clusters= to score_cam, not both"):
        wk.score_maps(gap_net(), pictures(), torch.tensor([3, 0, 4]), "score_cam", channels=2, clusters=2)


# ---------------------------------------------------------------- smoothing


@pytest.mark.parametrize("shape", [(2, 30, 5, 5), (2, 8, 7, 6), (1, 1, 4, 4), (1, 6, 1, 1)])
def test_eigen_projection_is_the_package_s_up_to_sign(shape):
    weighted = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    plain = weighted.sum(1)
    ours = eigen_projection(weighted, plain)
    theirs = torch.from_numpy(get_2d_projection(weighted.numpy()))
    for one, other, reference in zip(ours, theirs, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-4) or torch.allclose(one, -other, atol=1e-4)
        assert ((reference - reference.mean()) * one).sum() >= 0
    assert torch.allclose(eigen_projection(-weighted, -plain), -ours, atol=1e-4)
    assert torch.allclose(eigen_projection(weighted * 1e-20, plain * 1e-20) * 1e20, ours, atol=1e-4)


def test_eigen_projection_of_nothing():
    assert torch.equal(eigen_projection(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4)), torch.zeros(2, 4, 4))
    broken = torch.full((1, 3, 4, 4), torch.nan)
    assert torch.equal(eigen_projection(broken, broken.sum(1)), torch.zeros(1, 4, 4))
    one = torch.zeros(1, 2, 2, 2)
    one[0, 0, 0, 0], one[0, 1, 0, 0] = 1, -1  # the plain sum is flat: the largest value decides
    projection = eigen_projection(one, one.sum(1))[0]
    assert projection.abs().max() == projection[0, 0]


@pytest.mark.parametrize("method", ["cam", "rethinking_cam", "grad_cam", "grad_cam++", "score_cam", "layer_cam"])
def test_eigen_sign_and_place_of_the_relu(method):
    net, images, y = gap_net(), pictures(), torch.tensor([3, 0, 4])
    features = wk.feature_map(net, images)
    smooth = wk.score_maps(net, images, y, method, smooth=("eigen",))
    if method == "cam":
        weighted = net.head.weight.detach()[y][:, :, None, None] * features
        projected = eigen_projection(weighted, weighted.sum(1))
        assert torch.allclose(smooth, projected, atol=1e-6) and (smooth < 0).any()
    elif method != "rethinking_cam":
        assert (smooth >= 0).all()
    plain = wk.score_maps(net, images, y, method)
    centred = plain - plain.mean((1, 2), keepdim=True)
    assert ((smooth * centred).sum((1, 2)) >= 0).all()
    assert not torch.allclose(unit_range(smooth), unit_range(plain), atol=1e-3)


@pytest.mark.parametrize("method", ["cam", "grad_cam++", "score_cam"])
@pytest.mark.parametrize("eigen", [(), ("eigen",)])
def test_aug_smooth_is_the_mean_of_six(method, eigen):
    net, images, y = gap_net("tap"), pictures(), torch.tensor([3, 0, 4])
    expected = torch.zeros(3, 12, 12)
    for factor in (0.9, 1.0, 1.1):
        expected += unit_range(wk.score_maps(net, images * factor, y, method, smooth=eigen))
        expected += unit_range(wk.score_maps(net, images.flip(-1) * factor, y, method, smooth=eigen)).flip(-1)
    for smooth in (("aug", *eigen), [*eigen, "aug"]):
        maps = wk.score_maps(net, images, y, method, smooth=smooth)
        assert torch.allclose(maps, expected / 6, atol=1e-5)


def test_aug_smooth_as_in_the_package_where_no_resize_is_between():
    net, images, y = gap_net("tap", stride=1), pictures(2, 12), torch.tensor([3, 0])
    targets = [ClassifierOutputTarget(int(c)) for c in y]
    for method in ("grad_cam", "layer_cam"):
        theirs = by_package(BY_CLASS[method], net, images.clone(), targets, aug_smooth=True)
        ours = wk.score_maps(net, images, y, method, smooth=("aug",)).numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_unit_range():
    maps = torch.stack([torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.full((2, 2), 7.0), torch.full((2, 2), torch.nan)])
    expected = torch.stack([torch.tensor([[0.0, 0.25], [0.5, 1.0]]), torch.zeros(2, 2), torch.zeros(2, 2)])
    assert torch.equal(unit_range(maps), expected)
