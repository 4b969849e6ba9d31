"""BagCAMs against its formula written out with autograd on the whole network, at two layers of two networks."""

from __future__ import annotations

import pytest
import torch

import wsolkit as wk
from wsolkit.common.errors import WsolkitError

LABELS = torch.tensor([0, 3, 1])
LAYERS = {"resnet18": ("body.layer4", "body.layer2"), "vgg16_fc": ("body.features.29", "body.features.16")}
ROWS = {"logit": "bagcams", "log_softmax": "bagcams[score=log_softmax]"}


def network(backbone):
    torch.manual_seed(0)
    options = {"weights": "none", "width": 0.125, "stride": 16 if backbone == "vgg16_fc" else 8}
    return wk.build_model(backbone, 4, "fc" if backbone == "vgg16_fc" else "gap", **options).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def formula(net, layer, images, score):
    """Position by position and channel by channel, from the output of a layer in one pass of the whole network."""
    outputs = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    logits = net(images)
    handle.remove()
    scores = logits if score == "logit" else logits - logits.logsumexp(dim=1, keepdim=True)
    (gradient,) = torch.autograd.grad(sum(row[label] for row, label in zip(scores, LABELS, strict=True)), outputs[0])
    maps = torch.zeros(len(images), *gradient.shape[2:])
    for own, gradients, features in zip(maps, gradient, outputs[0].detach(), strict=True):
        for g, a in zip(gradients, features, strict=True):
            own += torch.relu((g * a + 1).mean() * g * a)
    return maps


@pytest.mark.parametrize("score", ROWS)
@pytest.mark.parametrize("backbone,layer", [(name, layer) for name, layers in LAYERS.items() for layer in layers])
def test_is_its_formula_at_any_layer(images, backbone, layer, score):
    net = network(backbone)
    made = wk.score_maps(net, images, LABELS, ROWS[score], layer=layer)
    expected = formula(net, layer, images, score)
    assert expected.flatten(1).amax(1).min() > 0
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("score", ROWS)
def test_a_constant_added_to_all_logits_changes_nothing(images, score):
    """A logarithm of the logit, as in the authors' code, would divide each weight by it: of a negative one the sign
    turns, and what speaks against the class would be shown."""
    net = network("resnet18")
    before = wk.score_maps(net, images, LABELS, ROWS[score])
    with torch.no_grad():
        net.head.bias -= 100
        assert (net(images) < 0).all()
    torch.testing.assert_close(wk.score_maps(net, images, LABELS, ROWS[score]), before)


def test_by_hand():
    """Two channels whose gradients are 3 and -1 everywhere. What the second takes away is left out, unless it takes away
    more than 1 on average: then its a is negative, and the formula adds it."""
    first, some = torch.tensor([[0.0, 1.0], [2.0, 1.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    net = wk.build_model("resnet18", 2, weights="none", width=0.125, stride=8).eval()
    net.head = torch.nn.Linear(2, 2)
    with torch.no_grad():
        net.head.weight.copy_(4 * torch.tensor([[3.0, -1.0], [0.0, 0.0]]))  # behind GAP the gradient is a fourth of it
    features = torch.stack([torch.stack([first, some]), torch.stack([first, 4 * some])])
    made = wk.score_maps(net, None, [0, 0], "bagcams", features=features)
    a, negative = 1 + 3.0, 1 - 2.0
    assert torch.allclose(made, torch.stack([a * 3 * first, a * 3 * first + negative * -1 * 4 * some]))


def test_rows_and_mistakes():
    row = wk.methods.resolve("BagCAMs[score=log_softmax+layer=layer3]")
    assert (row.name, row.label) == (
        "bagcams[layer=layer3+score=log_softmax]",
        "BagCAMs, layer=layer3 + score=log_softmax",
    )
    with pytest.raises(WsolkitError, match="score must be logit or log_softmax, but is 'log'"):
        wk.score_maps(network("resnet18"), torch.rand(1, 3, 64, 64), [0], "bagcams[score=log]")
