"""What was written for speed gives the numbers of the straightforward way: gradients, eigen projection, chunks."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import pytorch_grad_cam as package
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import wsolkit as wk
from wsolkit import methods as cams
from wsolkit.methods import maps as smoothing
from wsolkit.methods.context import Context, in_chunks
from wsolkit.networks.models import GlobalAveragePool, build_model

BY_CLASS = {
    "grad_cam": package.GradCAM,
    "grad_cam++": package.GradCAMPlusPlus,
    "xgrad_cam": package.XGradCAM,
    "layer_cam": package.LayerCAM,
    "hires_cam": package.HiResCAM,
    "seg_eigen_cam": package.SegEigenCAM,
    "refine_cam": package.RefineCAM,
    "shapley_cam": package.ShapleyCAM,
    "score_cam": package.ScoreCAM,
}
OWN_MATHEMATICS = ["grad_cam", "grad_cam++", "xgrad_cam", "layer_cam", "hires_cam", "grad_cam_elementwise"]
OWN_MATHEMATICS += ["eigen_cam", "eigen_grad_cam", "seg_eigen_cam", "refine_cam", "finer_cam", "shapley_cam", "fem"]


def network(backbone):
    net = build_model(backbone, 5, weights="none", width=0.1).eval()
    with torch.no_grad():
        net.head.weight.normal_(generator=torch.Generator().manual_seed(0))
    return net


def pictures(count, side=97):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(2))


def at_input_size(maps, side):
    return scale_cam_image(scale_cam_image(maps.numpy(), (side, side)))


# ---------------------------------------------------------------- against the package, batch 1, odd sizes


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("backbone", ["resnet18", "vgg16_fc"])
@pytest.mark.parametrize("method", BY_CLASS)
def test_same_maps_as_the_package_at_97_pixels(method, backbone, count):
    net, images, labels = network(backbone), pictures(count), torch.tensor([3, 0, 4])[:count]
    ours = at_input_size(wk.score_maps(net, images, labels, method), 97)
    targets = [ClassifierOutputTarget(int(label)) for label in labels]
    theirs = BY_CLASS[method](net, [list(net.body.children())[-1]])(images.clone(), targets=targets)
    assert theirs.max() > 0.9, "the comparison needs a map that is not flat"
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def context_of(features, rest):
    """Labels 0 on given features; the model is only its rest."""
    net = nn.Module()
    net.body, net.rest = nn.Identity(), rest
    return Context(net, None, torch.zeros(len(features), dtype=torch.int64), features, 32)


class Weigh(nn.Module):
    """Features -> logits whose gradient is the given tensor."""

    def __init__(self, gradient):
        super().__init__()
        self.gradient = gradient

    def forward(self, x):
        return (x * self.gradient).flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("method, cls", [("grad_cam++", package.GradCAMPlusPlus), ("xgrad_cam", package.XGradCAM)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_weights_of_gradients_of_any_sign_and_size(method, cls, layout):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 40, 7, 5, generator=generator)
    features[:, 0] = 0  # a dead channel
    features[:, 1] = 0.3  # a constant one
    sizes = 10.0 ** torch.randint(-6, 3, (2, 40, 1, 1), generator=generator)
    gradients = torch.randn(2, 40, 7, 5, generator=generator) * sizes
    gradients[:, :, 0, 0] = 0
    context = context_of(features.contiguous(memory_format=layout), Weigh(gradients))
    ours = cams.METHODS[method].function(context)
    assert torch.equal(context.gradients, gradients)
    made = cls(nn.Sequential(nn.Conv2d(3, 3, 1)), [])
    theirs = made.get_cam_weights(None, None, None, features.numpy().astype(float), gradients.numpy().astype(float))
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=1e-6)


def test_grad_cam_plusplus_where_the_package_divides_by_zero():
    features = torch.ones(1, 1, 1, 2)
    gradients = torch.tensor([[[[-1.0, 1.0]]]])  # 2 G^2 + sum(A) G^3 is 0 at G = -1
    weight = cams.METHODS["grad_cam++"].function(context_of(features, Weigh(gradients)))
    assert torch.allclose(weight, torch.tensor([[1 / 4]]))


# ---------------------------------------------------------------- how the numbers are made


class Counter(TorchDispatchMode):
    operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("smooth", [(), ("eigen",)])
@pytest.mark.parametrize("method", OWN_MATHEMATICS)
def test_no_loop_over_images_and_no_copy_to_the_host(method, smooth, monkeypatch):
    net = network("resnet18")

    def operations(count):
        features = torch.rand(count, net.head.in_features, 4, 4, generator=torch.Generator().manual_seed(0))
        with Counter() as counter:
            wk.score_maps(net, None, torch.zeros(count, dtype=torch.int64), method, smooth, features=features)
        return counter.operations

    def refuse(*_, **__):
        raise AssertionError("a copy to the host")

    monkeypatch.setattr(torch.Tensor, "numpy", refuse)
    monkeypatch.setattr(torch.Tensor, "__array__", refuse)
    monkeypatch.setattr(torch.Tensor, "cpu", refuse)
    assert operations(2) == operations(16)


@pytest.mark.parametrize("shape", [(5, 300, 7, 7), (5, 20, 9, 8), (1, 64, 8, 8), (2, 3, 1, 1)])
@pytest.mark.parametrize("at_once", [1, 2**24])
def test_first_component_against_a_full_svd(shape, at_once, monkeypatch):
    monkeypatch.setattr(smoothing, "_LARGEST", at_once)
    maps = torch.randn(shape, generator=torch.Generator().manual_seed(1)).relu()
    maps[-1, 1:] = 0  # one live channel
    if shape[0] > 2:
        maps[1] = 0  # a dead map among others
        maps[2] = 5.0  # constant channels
        maps[3] *= 1e-18
    given = maps.clone()
    ours = smoothing.first_component(maps)
    assert torch.equal(maps, given) and ours.dtype == torch.float32
    for one, x in zip(ours.double().flatten(1), maps.double().flatten(2), strict=True):
        x = x - x.mean(1, keepdim=True)
        _, values, right = torch.linalg.svd(x, full_matrices=False)
        expected = values[0] * right[0]
        expected = expected if (expected * one).sum() >= 0 else -expected
        assert torch.allclose(one, expected, rtol=0, atol=1e-5 * float(values[0])), "up to the sign"
    double = maps.double()
    smoothing.first_component(double)
    assert torch.equal(double, given.double()), "worked on a copy"


# ---------------------------------------------------------------- score_cam and its chunks


class Dead(nn.Module):
    """Makes channel 0 zero and channel 1 constant."""

    def forward(self, x):
        return torch.cat([0 * x[:, :1], 0 * x[:, 1:2] + 0.7, x[:, 2:]], dim=1)


class Narrow(nn.Module):
    """Runs out of CUDA memory where more than `fits` images come at once; notes the sizes it was given."""

    def __init__(self, fits):
        super().__init__()
        self.fits, self.seen = fits, []

    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return x


class Toy(nn.Module):
    pooling, backbone, has_cam, num_classes = "gap", "toy", True, 5
    spec = None  # as a model of the kit, whose parts need no check

    def __init__(self, *last):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2), nn.ReLU(inplace=True), *last)
        self.pool, self.head = GlobalAveragePool(), nn.Linear(12, 5)

    @property
    def rest(self):
        return nn.Sequential(self.pool, self.head)

    def forward(self, x):
        return self.head(self.pool(self.body(x)))


@torch.no_grad()
def test_constant_channels_cost_one_look_together():
    sizes = Narrow(99)
    net, images, labels = Toy(Dead(), sizes), pictures(2, 15), torch.tensor([3, 1])
    maps = wk.score_maps(net, images, labels, "score_cam", chunk=7)
    assert sum(sizes.seen) == 2 + 1 + 2 * 10, "the feature map, the zero image, ten live channels of two images"
    assert max(sizes.seen) == 7
    targets = [ClassifierOutputTarget(int(label)) for label in labels]
    theirs = package.ScoreCAM(net, [net.body[-1]])(images.clone(), targets=targets)
    np.testing.assert_allclose(at_input_size(maps, 15), theirs, atol=1e-4)


@pytest.mark.parametrize("fits", [1, 3])
def test_score_cam_with_less_memory_than_the_chunk_needs(fits):
    images, labels = pictures(1, 15), torch.tensor([3])
    expected = wk.score_maps(Toy(), images, labels, "score_cam")
    narrow = Narrow(fits)
    with pytest.warns(RuntimeWarning, match="chunk=6 ran out of device memory and became") as caught:
        maps = wk.score_maps(Toy(narrow), images, labels, "score_cam", chunk=6)
    assert len(caught) == 1
    assert torch.allclose(maps, expected, atol=1e-6)
    halved = {3: [6, 3, 3, 3, 3], 1: [6, 3, *[1] * 12]}[fits]
    assert narrow.seen == [1, *halved], "the feature map, the attempts, then the chunk that fits"


def test_ablation_cam_with_less_memory_than_the_chunk_needs():
    images, labels = pictures(2, 15), torch.tensor([3, 1])
    expected = wk.score_maps(Toy(), images, labels, "ablation_cam")
    net = Toy()
    net.pool = nn.Sequential(Narrow(2), net.pool)
    with pytest.warns(RuntimeWarning, match="chunk=32 ran out of device memory and became 1") as caught:
        maps = wk.score_maps(net, images, labels, "ablation_cam")
    # 24 pairs, 12, 6, 3, then 1 as half of 3
    assert len(caught) == 1 and net.pool[0].seen == [2, 24, 12, 6, 3, *[1] * 24]
    assert torch.allclose(maps, expected, atol=1e-6)


def test_one_image_that_does_not_fit():
    net = Toy()
    net.pool = nn.Sequential(Narrow(1), net.pool)
    features = wk.feature_map(net, pictures(1, 15))
    net.pool[0].fits = 0
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"even one image at a time \(chunk=1\).*Tried to allocate 2"):
        in_chunks(net.rest, 4, features)
    assert net.pool[0].seen == [1]


def test_in_chunks():
    rows, names = torch.arange(10.0), torch.arange(10, 20)
    sizes = []

    def look(row, name):
        sizes.append(len(row))
        return row * name

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(in_chunks(look, 4, rows, names), rows * names) and sizes == [4, 4, 2]
        assert in_chunks(look, 4, rows[:0], names[:0]).shape == (0,) and len(sizes) == 3
        with pytest.raises(RuntimeError, match="not of memory"):
            in_chunks(lambda row: (_ for _ in ()).throw(RuntimeError("not of memory")), 4, rows)


def test_bf16_score_cam_keeps_the_order_of_positions():
    net, images, labels = network("resnet18"), pictures(2), torch.tensor([3, 0])
    maps = [wk.score_maps(net, images, labels, "score_cam", precision=p) for p in ("float32", "bf16")]
    ranks = [one.flatten(1).argsort(dim=1).argsort(dim=1).double() for one in maps]
    for one, other in zip(*ranks, strict=True):
        assert torch.corrcoef(torch.stack([one, other]))[0, 1] >= 0.99
    assert not torch.equal(*maps), "bf16 was used"


# ------------------------------------------------------------ batches that do not fit, shared gradients, wrong parts


class Crowded(nn.Module):
    """A pooling that runs out of CUDA memory where more than `fits` images come at once and a gradient is wanted."""

    def __init__(self, fits):
        super().__init__()
        self.fits = fits

    def forward(self, x):
        if torch.is_grad_enabled() and len(x) > self.fits:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return x.mean(dim=(2, 3))


def test_gradients_with_less_memory_than_the_batch_needs():
    images, labels = pictures(5, 15), torch.tensor([3, 1, 0, 4, 2])
    methods = ["grad_cam", "cam", "layer_cam"]
    expected = wk.score_maps(Toy(), images, labels, methods)
    net = Toy()
    net.pool = Crowded(1)
    with pytest.warns(RuntimeWarning, match="a batch of 5 images ran out of device memory and became 1") as caught:
        maps = wk.score_maps(net, images, labels, methods)
    assert len(caught) == 1
    assert all(torch.allclose(maps[name], expected[name], atol=1e-6) for name in methods)


def test_gradients_are_computed_once_and_counted_for_every_method():
    ticks = iter(range(1000))
    looks = []
    net, images = Toy(), pictures(2, 15)
    net.pool.register_forward_hook(lambda *_: looks.append(torch.is_grad_enabled()))
    methods, seconds = ["cam", "grad_cam", "layer_cam"], {}
    wk.score_maps(net, images, torch.tensor([3, 1]), methods, seconds=seconds, clock=lambda: next(ticks))
    # a map takes one tick, and one more for gradients, which themselves take one between their two looks at the clock
    assert seconds == {"cam": 1, "grad_cam": 3, "layer_cam": 1 + 1}
    assert looks.count(True) == 1


class Otherwise(nn.Module):
    def __init__(self):
        super().__init__()
        toy = Toy()
        self.body, self.pool, self.head = toy.body, toy.pool, toy.head

    def forward(self, x):
        return self.head((self.pool(self.body(x.flip(2))) + 1).sqrt())  # at 0 its gradient would be infinite


def test_parts_that_are_not_what_the_model_computes():
    images, labels = pictures(2, 15), torch.tensor([3, 1])
    net = Otherwise()
    for _ in range(2):  # said every time
        with pytest.raises(ValueError, match=r"Otherwise has a `body`.*give layer="):
            wk.score_maps(net, images, labels, "cam")
    assert wk.score_maps(net, images, labels, "grad_cam", layer="body.1").shape == (2, 7, 7)


def test_feature_map_of_a_layer():
    images, net = pictures(2, 64), network("resnet18")
    with torch.no_grad():
        expected = nn.Sequential(*list(net.body.children())[:-1])(images)
    assert torch.allclose(wk.feature_map(net, images, layer="body.layer3"), expected, atol=1e-5)
    with pytest.raises(ValueError, match="precision='half': choose from float32, bf16"):
        wk.feature_map(net, images, "half")
