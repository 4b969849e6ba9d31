"""Attention rollout against a computation of its own, TS-CAM by hand and in training, reshapes as in the package."""

from __future__ import annotations

import pytest
import torch
from pytorch_grad_cam.utils.reshape_transforms import vit_reshape_transform
from small_networks import CLASSES, NETWORKS, SIZE, pictures, vit
from torch import nn
from torchvision.models import VisionTransformer

import wsolkit as wk
from wsolkit.methods.attention_rollout import attention_maps
from wsolkit.methods.maps import score_maps
from wsolkit.methods.registry import is_defined
from wsolkit.networks.models import rebuild, ts_cam
from wsolkit.networks.split import as_reshape, nhwc, put, tokens


def attention_by_hand(net, images):
    """Every block's softmax(q k^T / sqrt(d)), mean over heads, from its input and its weights."""
    inputs, found = [], []
    for block in net.encoder.layers:
        block.ln_1.register_forward_hook(lambda _m, _i, output: inputs.append(output.detach()))
    net(images)
    for block, x in zip(net.encoder.layers, inputs, strict=True):
        layer = block.self_attention
        q, k, _ = (x @ layer.in_proj_weight.T + layer.in_proj_bias).detach().chunk(3, dim=-1)
        q, k = (t.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for t in (q, k))
        found.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1).mean(1))
    return found


def test_attention_maps():
    images = pictures(3)
    found = attention_maps(vit(), images)
    for ours, expected in zip(found, attention_by_hand(vit(), images), strict=True):
        assert ours.shape == (3, 17, 17) and torch.allclose(ours, expected, atol=1e-5)
        assert torch.allclose(ours.sum(-1), torch.ones(3, 17), atol=1e-5)


def test_attention_rollout():
    images, net = pictures(3), vit()
    rolled = torch.eye(17).expand(3, 17, 17)
    for attention in attention_by_hand(vit(), images):
        rolled = (0.5 * attention + 0.5 * torch.eye(17)) @ rolled
    maps = score_maps(net, images, [0, 1, 2], "attention_rollout")
    assert torch.allclose(maps.flatten(1), rolled[:, 0, 1:], atol=1e-6) and maps.shape == (3, 4, 4)
    assert maps.std() > 1e-3
    assert torch.equal(maps, score_maps(net, images, [4, 5, 6], "AttentionRollout")), "the class plays no part"
    both = score_maps(net, images, [0, 1, 2], ["grad_cam", "attention_rollout"])
    assert torch.equal(both["attention_rollout"], maps)
    smooth = score_maps(net, images, [0, 1, 2], "attention_rollout", smooth="aug")
    assert smooth.shape == maps.shape and smooth.std() > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_attention_needs_attention_and_images():
    defined, reason = is_defined("attention_rollout", NETWORKS["resnet18"]())
    assert not defined and "torchvision's vision transformers only" in reason
    with pytest.raises(wk.MethodNotDefined, match="vision transformers"):
        score_maps(NETWORKS["resnet18"](), pictures(), [0, 1], "attention_rollout")
    assert is_defined("attention_rollout", vit()) == (True, "") and not is_defined("ts_cam", vit())[0]
    model = ts_cam(vit(), 4)
    features = wk.feature_map(model, pictures())
    for method in ("attention_rollout", "ts_cam"):
        with pytest.raises(ValueError, match="needs images, not only features"):
            score_maps(model, None, [0, 1], method, features=features)


def test_ts_cam_by_hand():
    net, images, labels = vit(), pictures(3), torch.tensor([3, 0, 1])
    model = ts_cam(net, 4).eval()
    after = net.encoder(torch.cat([net.class_token.expand(3, -1, -1), net._process_input(images)], dim=1))
    patches = after[:, 1:].transpose(1, 2).reshape(3, 16, 4, 4)
    assert torch.allclose(model.body(images), patches, atol=1e-6)
    semantic = model.head(patches)
    assert torch.allclose(model(images), semantic.mean((2, 3)), atol=1e-5) and model(images).shape == (3, 4)
    attention = sum(a[:, 0, 1:] for a in attention_by_hand(vit(), images)).reshape(3, 4, 4)
    expected = (semantic[torch.arange(3), labels] * attention).detach()
    maps = score_maps(model, images, labels, "ts_cam")
    assert torch.allclose(maps, expected, atol=1e-5 * expected.abs().max()) and expected.std() > 0
    assert not torch.allclose(maps, score_maps(model, images, labels.flip(0), "ts_cam"))
    for method in ("grad_cam", "layer_cam", "eigen_cam", "ablation_cam", "attention_rollout"):
        assert score_maps(model, images, labels, method).shape == (3, 4, 4)
    with pytest.raises(wk.MethodNotDefined):
        score_maps(model, images, labels, "cam")


def test_ts_cam_is_trained_by_fit(tmp_path):
    train = wk.load_dataset("synthetic", "train", size=SIZE, classes=3, per_class=6)
    net = VisionTransformer(SIZE, 16, 2, 2, 16, 32, num_classes=CLASSES)
    model = ts_cam(net, len(train.classes))
    start = model.head.weight.detach().clone()
    encoder = net.encoder.layers[0].mlp[0].weight
    before = encoder.detach().clone()
    history = wk.fit(model, train, epochs=1, batch_size=8, out=tmp_path)
    assert len(history) == 1 and history[0]["train_loss"] > 0
    assert not torch.equal(model.head.weight, start)
    assert not torch.equal(encoder, before), "the given ViT's own layers are trained"
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    again = rebuild(**content["spec"])
    again.load_state_dict(content["model"])
    images = pictures()
    assert torch.equal(again.eval()(images), model(images))


def test_ts_cam_refusals():
    with pytest.raises(ValueError, match=r"takes a VisionTransformer of torchvision.*not ResNet"):
        ts_cam(NETWORKS["resnet18"](), 4)
    with pytest.raises(ValueError, match="at least 2, but is 1"):
        ts_cam(vit(), 1)
    with pytest.raises(ValueError, match="64x64 px, not 48x64"):
        ts_cam(vit(), 4)(torch.zeros(1, 3, 48, 64))
    net, state = vit(), torch.random.get_rng_state()
    first, second = ts_cam(net, 4, seed=1), ts_cam(net, 4, seed=1)
    assert torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(torch.random.get_rng_state(), state), "the global random state stays"


def test_reshapes():
    output = torch.randn(2, 1 + 14 * 14, 5)
    assert torch.equal(tokens(output), vit_reshape_transform(output))
    assert tokens(output)[1, 2, 3, 4] == output[1, 1 + 3 * 14 + 4, 2]
    swin_output = torch.randn(2, 3, 4, 5)
    assert nhwc(swin_output)[1, 4, 2, 3] == swin_output[1, 2, 3, 4]
    assert torch.equal(put(nhwc(swin_output), 0 * swin_output, nhwc), swin_output)
    for wrong in (torch.zeros(2, 17), torch.zeros(2, 18, 5), torch.zeros(2, 1, 5), torch.zeros(2, 5, 4, 4)):
        with pytest.raises(ValueError, match='"tokens" takes'):
            tokens(wrong)


@pytest.mark.parametrize(
    "name, shape", [("tokens", (3, 17, 5)), ("nhwc", (3, 4, 2, 5)), (vit_reshape_transform, (3, 197, 5))]
)
def test_features_are_put_where_they_came_from(name, shape):
    move = as_reshape(name)
    output = torch.randn(shape, dtype=torch.float64)
    features = torch.randn_like(move(output)).requires_grad_(True)
    made = put(features, output, move)
    assert torch.equal(move(made), features)
    if len(shape) == 3:
        assert torch.equal(made[:, 0], output[:, 0]), "the class token stays"
    weight = torch.randn(shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((made * weight).sum(), features)
    assert torch.equal(gradient, move(weight)), "as the package, which reshapes the gradient"


def test_a_wrapped_vit_is_found_too():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = vit()

        def forward(self, x):
            return self.net((x - 0.5) / 2)

    layer, images = "net.encoder.layers.encoder_layer_2.ln_1", pictures()
    maps = score_maps(Normalised(), images, [0, 1], ["attention_rollout", "grad_cam"], layer=layer, reshape="tokens")
    assert torch.allclose(maps["attention_rollout"], score_maps(vit(), (images - 0.5) / 2, [0, 1], "attention_rollout"))
