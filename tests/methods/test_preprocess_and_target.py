"""Score maps of images as people have them, and of any score that a network's output gives."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from small_networks import NETWORKS, pictures
from torch import nn
from torchvision import models
from torchvision.transforms.functional import pil_to_tensor

import wsolkit as wk
from wsolkit.common.errors import WsolkitError
from wsolkit.methods.registry import METHODS, is_defined
from wsolkit.networks import split as cut

LABELS = [3, 3]


def third(logits):
    return logits[:, 3]


KINDS = {
    "own": ("resnet18", None),
    "own at a layer": ("resnet18", "body.layer3"),
    "split": ("mobilenet_v2", None),
    "hooked": ("mobilenet_v2", "features.16.conv.3"),
    "vit": ("vit", None),
}


def network(kind):
    name, layer = KINDS[kind]
    own = kind.startswith("own")
    return wk.build_model(name, 7, weights="none", width=0.125).eval() if own else NETWORKS[name](), layer


@pytest.mark.parametrize("kind", KINDS)
def test_the_score_of_a_class_gives_the_map_of_the_class(kind):
    net, layer = network(kind)
    images, made = pictures(), wk.network_for(net, layer)
    names = [name for name in METHODS if not METHODS[name].uses_classes and is_defined(name, made)[0]]
    assert {"grad_cam", "score_cam", "ablation_cam", "layer_cam", "eigen_cam", "full_grad"} < set(names)
    names = sorted(set(names) - {"random_cam", "sess"})
    expected = wk.score_maps(net, images, LABELS, names, layer=layer, channels=4)
    for given, where in ((net, layer), (made, None)):
        maps = wk.score_maps(given, images, None, names, layer=where, channels=4, target=third)
        for name in names:
            scale = max(1e-6, float(expected[name].abs().max()))
            torch.testing.assert_close(maps[name], expected[name], rtol=1e-3, atol=1e-4 * scale, msg=name)
    smooth = wk.score_maps(net, images, LABELS, "grad_cam", smooth="aug", layer=layer)
    torch.testing.assert_close(
        wk.score_maps(net, images, method="grad_cam", smooth="aug", layer=layer, target=third),
        smooth,
        rtol=1e-3,
        atol=1e-4,
    )


def by_autograd(net, layer, images, score):
    net, kept = net.eval(), []
    handle = net.get_submodule(layer).register_forward_hook(lambda _m, _i, out: (kept.append(out), out.clone())[1])
    scores = score(net(images))
    handle.remove()
    (gradient,) = torch.autograd.grad(scores.sum(), kept[0])
    return (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).clamp(min=0).detach()


class Segments(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU())
        self.classes = nn.Conv2d(6, 5, 3, padding=1)

    def forward(self, x):
        return {"out": F.interpolate(self.classes(self.encoder(x)).sigmoid(), x.shape[2:])}


class Embeds(Segments):
    def forward(self, x):
        return self.classes(self.encoder(x)).mean((2, 3)), None


WANTED = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.0])


@pytest.mark.parametrize(
    "make, score",
    [
        (Segments, lambda output: output["out"][:, 2].amax((1, 2))),
        (Embeds, lambda output: F.cosine_similarity(output[0], WANTED[None])),
        (Embeds, lambda output: output[0].softmax(1)[:, 1].log()),
    ],
    ids=["segmentation", "embedding", "probability"],
)
def test_scores_of_other_outputs(make, score):
    net, images = make().train().requires_grad_(False), pictures()[..., :50]
    maps = wk.score_maps(net, images, None, ["grad_cam", "score_cam", "ablation_cam"], layer="encoder", target=score)
    assert net.training and not any(parameter.requires_grad for parameter in net.parameters())
    torch.testing.assert_close(maps["grad_cam"], by_autograd(make(), "encoder", images, score))
    with torch.no_grad():
        features = net.encoder(images)
        masks = F.interpolate(features, images.shape[2:], mode="bilinear", align_corners=True)
        low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
        masks = (masks - low) / (high - low + 1e-8)
        weights = torch.stack([score(net(images * masks[:, [channel]])) for channel in range(6)], 1).softmax(1)
    torch.testing.assert_close(maps["score_cam"], torch.einsum("bc,bchw->bhw", weights, features).clamp(min=0))


@pytest.mark.slow
def test_a_detector_and_a_segmentation_network_of_torchvision():
    torch.manual_seed(0)
    detector = models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    detector.transform.fixed_size = (96, 96)
    images = torch.rand(2, 3, 80, 60)

    def best(found):
        return torch.stack([image["scores"][:5].sum() for image in found])

    layer = "backbone.features.0"
    maps = wk.score_maps(detector, images, None, "grad_cam", layer=layer, target=best)
    torch.testing.assert_close(maps, by_autograd(detector, layer, images, best), rtol=1e-3, atol=1e-6)
    segments = models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()

    def area(output):
        return output["out"][:, 1].mean((1, 2))

    maps = wk.score_maps(segments, images, None, "grad_cam", layer="backbone.16", target=area)
    torch.testing.assert_close(maps, by_autograd(segments, "backbone.16", images, area), rtol=1e-3, atol=1e-6)


def test_an_output_with_attributes_is_taken_by_a_hook():
    """Tracing would hand the target a plain dict in its place."""

    class Output(dict):
        logits = property(lambda self: self["logits"])

    class Named(Segments):
        def forward(self, x):
            return Output(logits=self.classes(self.encoder(x)).mean((2, 3)))

    def score(output):
        return output.logits[:, 1]

    maps = wk.score_maps(Named(), pictures(), None, "grad_cam", layer="encoder", target=score)
    torch.testing.assert_close(maps, by_autograd(Named(), "encoder", pictures(), score))
    made = wk.network_for(Named(), "encoder", None, pictures(), score)
    assert made.num_classes == 1 and "fails on its own" in made.reason


def test_a_module_as_target_stays_in_its_mode_and_nothing_is_kept():
    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.modes = nn.Linear(7, 1), []

        def forward(self, logits):
            self.modes.append(self.training)
            return self.fc(logits)[:, 0]

    net, probe, images = NETWORKS["mobilenet_v2"](), Probe().train(), pictures()
    for _ in range(3):
        wk.score_maps(net, images, method="full_grad", target=probe)
    assert probe.training and all(probe.modes)
    gc.collect()
    assert not any(isinstance(kept, cut.Scored) for kept in cut._kept)


def test_the_cut_is_kept_for_the_same_target_while_network_and_modules_are_the_same():
    net, images = NETWORKS["mobilenet_v2"](), pictures()
    made = wk.network_for(net, None, None, images, third)
    assert wk.network_for(net, None, None, images, third) is made, "traced once for many calls"
    other = wk.network_for(net, None, None, images, lambda logits: -logits[:, 3])
    torch.testing.assert_close(other(images), -made(images))
    net.classifier[1] = nn.Linear(1280, 7)
    again = wk.network_for(net, None, None, images, third)
    assert again is not made and torch.equal(again(images)[:, 0], net(images)[:, 3])
    kept = weakref.ref(net)
    del net, made, other, again
    gc.collect()
    assert kept() is None, "it lives no longer than its network"


@pytest.mark.parametrize("method", ["cam", "rethinking_cam", "acol", "ts_cam", "finer_cam", "has"])
@pytest.mark.parametrize("kind", ["own", "split", "hooked"])
def test_methods_of_classes_refuse_a_target(method, kind):
    net, layer = network(kind)
    with pytest.raises(
        wk.MethodNotDefined, match=r"made from the weights, maps or scores of classes, which a target= is not: choose"
    ):
        wk.score_maps(net, pictures(), None, ["grad_cam", method], layer=layer, target=third)


@pytest.mark.parametrize(
    "target, message",
    [
        (lambda logits: logits, r"one score per image, a float tensor \(N,\), but gave a tensor \(1, 7\)"),
        (lambda logits: logits.sum(), r"but gave a tensor \(\)"),
        (lambda logits: logits.argmax(1), r"but gave a tensor \(1,\) of torch.int64"),
        (lambda logits: logits[:, 0].tolist(), "but gave list"),
        (lambda logits: logits[0], "target must return one score per image, but gave 7 for one image"),
    ],
)
@pytest.mark.parametrize("kind", ["own", "split", "hooked"])
def test_targets_that_are_no_scores(target, message, kind):
    net, layer = network(kind)
    with pytest.raises(WsolkitError, match=message):
        wk.score_maps(net, pictures(), None, "grad_cam", layer=layer, target=target)


def test_labels_or_a_target():
    net = NETWORKS["mobilenet_v2"]()
    with pytest.raises(WsolkitError, match="labels name classes, and target= is a score of its own"):
        wk.score_maps(net, pictures(), LABELS, "grad_cam", target=third)
    with pytest.raises(WsolkitError, match="labels are required"):
        wk.score_maps(net, pictures(), method="grad_cam")
    with pytest.raises(WsolkitError, match="labels name classes"):
        wk.predict(net, np.zeros((64, 64, 3), np.uint8), "grad_cam", geometry=wk.Geometry(64), target=third)


# ---------------------------------------------------------------- preprocess


def test_preprocess_is_what_the_model_would_be_given():
    net, photos = NETWORKS["mobilenet_v2"](), torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
    ready = models.ResNet18_Weights.DEFAULT.transforms(crop_size=64, resize_size=64)
    kept = photos.clone()
    expected = wk.score_maps(net, ready(photos), LABELS, ["grad_cam", "score_cam"], channels=3)
    maps = wk.score_maps(net, photos, LABELS, ["grad_cam", "score_cam"], channels=3, preprocess=ready)
    assert all(torch.equal(maps[name], expected[name]) for name in expected) and torch.equal(photos, kept)
    smooth = wk.score_maps(net, photos, LABELS, "grad_cam", smooth="aug", preprocess=ready)
    assert torch.equal(smooth, wk.score_maps(net, ready(photos), LABELS, "grad_cam", smooth="aug"))
    files = [Image.fromarray(photo.permute(1, 2, 0).numpy()) for photo in photos]

    def stacked(images):
        return ready(torch.stack([pil_to_tensor(image) for image in images]))

    assert torch.equal(wk.score_maps(net, files, LABELS, "grad_cam", preprocess=stacked), expected["grad_cam"])


def test_preprocess_may_work_in_place():
    net, images = NETWORKS["mobilenet_v2"](), pictures()
    kept = images.clone()
    maps = wk.score_maps(net, images, LABELS, "grad_cam", preprocess=lambda x: x.mul_(2))
    assert torch.equal(images, kept) and torch.equal(maps, wk.score_maps(net, images * 2, LABELS, "grad_cam"))


@pytest.mark.parametrize(
    "preprocess, message",
    [
        (lambda x: x[0], r"preprocess must return \(B, c, H, W\) for the 2 images, but gave a tensor \(3, 64, 64\)"),
        (lambda x: x[:1], r"for the 2 images, but gave a tensor \(1, 3, 64, 64\)"),
        (lambda x: x.numpy(), "but gave ndarray"),
        (lambda x: None, "but gave NoneType"),
        (lambda x: x.to(torch.uint8), "float tensor.*uint8"),
        (lambda x: x[:, :1], "an image of 1 channels, and its first convolution takes 3"),
    ],
)
def test_what_preprocess_may_not_return(preprocess, message):
    net = NETWORKS["mobilenet_v2"]()
    with pytest.raises(WsolkitError, match=message):
        wk.score_maps(net, pictures(), LABELS, "grad_cam", preprocess=preprocess)


def test_features_are_of_images_that_are_ready():
    net = NETWORKS["mobilenet_v2"]()
    features = wk.feature_map(net, pictures())
    with pytest.raises(WsolkitError, match="features belong to images that are preprocessed already"):
        wk.score_maps(net, pictures(), LABELS, "grad_cam", features=features, preprocess=lambda x: x)


def test_predict_with_preprocess():
    class Darkness(nn.Module):
        """Of one channel; the map of class 0 is how dark the picture is."""

        def __init__(self):
            super().__init__()
            self.features, self.fc = nn.Conv2d(1, 2, 1), nn.Linear(2, 2)
            self.features.weight.data = torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)
            self.features.bias.data = torch.tensor([1.0, 0.0])
            self.fc.weight.data, self.fc.bias.data = torch.eye(2), torch.tensor([9.0, 0.0])

        def forward(self, x):
            return self.fc(self.features(x).mean((2, 3)))

    def grey(images):
        assert images.shape == (1, 3, 100, 100) and images.min() == 0 and images.max() == 1
        return F.interpolate(images.mean(1, keepdim=True), (50, 50), mode="area")

    photo = np.full((60, 120, 3), 255, np.uint8)
    photo[12:36, 24:48] = 0
    (found,) = wk.predict(Darkness(), photo, "cam", geometry=wk.Geometry(100), layer="features", preprocess=grey)
    assert np.abs(found.box - (24, 12, 47, 35)).max() <= 3 and found.score_map.shape == (50, 50) and found.label == 0
    half = wk.predict(Darkness().half(), photo, "cam", geometry=wk.Geometry(100), layer="features", preprocess=grey)[0]
    assert np.array_equal(half.box, found.box)
    with pytest.raises(
        WsolkitError, match=r"preprocess must return \(B, c, H, W\) for the 1 images, but gave a tensor \(3, 8, 8\)"
    ):
        wk.predict(Darkness(), photo, "cam", geometry=wk.Geometry(8), layer="features", preprocess=lambda x: x[0])
