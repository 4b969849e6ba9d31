"""Backbones: shapes and strides, parts, initialisation, weights from files."""

from __future__ import annotations

import argparse
import urllib.request
import warnings

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

import wsolkit as wk
from wsolkit.networks.backbones import BACKBONES

CHANNELS = {"vgg16": 1024, "resnet50": 2048, "resnet18": 512, "mobilenet_v2": 1280, "vgg16_fc": 512}
CHANNELS |= {"convnext_tiny": 768, "inception_v3": 1024}


@pytest.mark.parametrize("backbone,stride", [(name, s) for name, family in BACKBONES.items() for s in family.strides])
def test_feature_map_has_the_stride_asked_for(backbone, stride):
    width = 0.125 if backbone == "vgg16_fc" else 1.0
    model = wk.build_model(backbone, 5, weights="none", stride=stride, width=width).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = model.body(images)
        logits = model(images)
    assert features.shape == (1, int(CHANNELS[backbone] * width), 64 // stride, 64 // stride)
    if backbone == "convnext_tiny":
        assert features.min() < 0 and torch.allclose(features.mean(dim=1), torch.zeros(()), atol=1e-4), "a LayerNorm"
    else:
        assert (features >= 0).all(), "the feature map is what the last ReLU leaves"
    assert logits.shape == (1, 5)
    with torch.no_grad():
        assert torch.allclose(logits, model.head(model.pool(features)), atol=1e-5)
        assert torch.equal(model.rest(features), model.head(model.pool(features)))


def test_published_sizes_at_224():
    model = wk.build_model("vgg16", 3, weights="none", width=0.125).eval()
    with torch.no_grad():
        assert model.body(torch.zeros(1, 3, 224, 224)).shape[-2:] == (14, 14)
    convolutions = [m for m in model.body.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 14, "thirteen of VGG16 and one added"


def test_head_and_added_convolution_are_initialised_as_published():
    model = wk.build_model("vgg16", 200, weights="none")
    assert 0.008 < float(model.head.weight.detach().std()) < 0.012 and not model.head.bias.any()
    added = model.body.added[0].weight
    assert abs(float(added.detach().std()) - (2 / (1024 * 9)) ** 0.5) < 2e-4, "He initialisation, fan out"


def test_same_seed_same_network_and_the_global_generator_is_untouched():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    a, b = (wk.build_model("resnet18", 4, weights="none", width=0.25, seed=3) for _ in range(2))
    c = wk.build_model("resnet18", 4, weights="none", width=0.25, seed=4)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(a.head.weight, b.head.weight) and not torch.equal(a.head.weight, c.head.weight)


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"backbone": "vgg19"}, "unknown backbone 'vgg19'; choose from vgg16"),
        ({"backbone": "vgg16", "stride": 32}, "vgg16 has no stride 32; choose from 16, 8"),
        ({"backbone": "vgg16_fc", "pooling": "tap"}, "vgg16_fc has no pooling 'tap'"),
        ({"backbone": "resnet18", "width": 0.0}, "width"),
        ({"backbone": "resnet18", "batch_norm": False}, "always has batch normalisation"),
        ({"backbone": "convnext_tiny", "batch_norm": True}, "convnext_tiny never has batch normalisation"),
        ({"backbone": "vgg16_fc", "pooling": "acol"}, "vgg16_fc has no pooling 'acol'; choose from fc"),
        ({"backbone": "resnet18", "pooling": "acol", "delta": 0.0}, "delta is a share"),
        ({"backbone": "resnet18", "num_classes": 1}, "num_classes"),
    ],
)
def test_impossible_networks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        wk.build_model(**{"num_classes": 3, "weights": "none", **arguments})


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
@pytest.mark.parametrize(
    "backbone,factory", [("resnet18", torchvision.models.resnet18), ("mobilenet_v2", torchvision.models.mobilenet_v2)]
)
def test_torchvision_files_load(tmp_path, kind, backbone, factory):
    torch.manual_seed(0)
    theirs = factory(weights=None).eval()
    path = tmp_path / f"weights.{kind}"
    state = theirs.state_dict()
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    native = max(BACKBONES[backbone].strides)
    model = wk.build_model(backbone, 7, weights=str(path), stride=native).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        ours = model.body(images)
        if backbone == "resnet18":
            expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(
                theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))))))  # fmt: skip
        else:
            expected = theirs.features(images)
    assert torch.allclose(ours, expected, atol=1e-5), "the body is torchvision's own network"


def test_inception_is_torchvisions_up_to_mixed_6e_with_other_paddings_and_its_own_normalisation(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.inception_v3(weights=None, init_weights=False, transform_input=True).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    model = wk.build_model("inception_v3", 3, weights=str(tmp_path / "w.pth")).eval()
    assert model.new_parts == ("body.added", "head")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs._transform_input(images)
        assert torch.allclose(model.body.input(images), expected, atol=1e-6)
        for name in ("Conv2d_1a_3x3", "maxpool1", "maxpool2"):  # the paddings of wsolevaluation
            layer = getattr(theirs, name)
            getattr(layer, "conv", layer).padding, layer.ceil_mode = (1, 1), True
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2",
                     "Mixed_5b", "Mixed_5c", "Mixed_5d"):  # fmt: skip
            expected = getattr(theirs, name)(expected)
        block = theirs.Mixed_6a
        for convolution in (block.branch3x3.conv, block.branch3x3dbl_3.conv):
            convolution.padding = (1, 1)
        deep = block.branch3x3dbl_3(block.branch3x3dbl_2(block.branch3x3dbl_1(expected)))
        pooled = torch.nn.functional.max_pool2d(expected, 3, 2, padding=1)
        expected = torch.cat([block.branch3x3(expected), deep, pooled], 1)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            expected = getattr(theirs, name)(expected)
        assert torch.allclose(model.body.added(expected.clone()), model.body(images), atol=1e-5)


@pytest.fixture(scope="module")
def convnext(tmp_path_factory):
    """torchvision's network and a file of its weights, with every LayerNorm and layer scale away from its start."""
    torch.manual_seed(0)
    theirs = torchvision.models.convnext_tiny(weights=None, num_classes=7).eval()
    for name, parameter in theirs.named_parameters():
        if parameter.ndim != 4:
            torch.nn.init.normal_(parameter, 0.5 if "layer_scale" in name else 0.0, 0.2)
    path = tmp_path_factory.mktemp("convnext") / "convnext.pth"
    torch.save(theirs.state_dict(), path)
    return theirs, str(path)


@pytest.mark.slow
def test_convnext_is_torchvisions_with_its_last_norm_before_the_pooling(convnext):
    theirs, path = convnext
    model = wk.build_model("convnext_tiny", 3, weights=path, stride=32).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = theirs.features(images)
        assert torch.equal(model.body.features(images), features)
        normed = theirs.classifier[0](features)
        assert torch.equal(model.body(images), normed)
        assert torch.allclose(model(images), model.head(normed.mean(dim=(2, 3))), atol=1e-5)
        maps = wk.score_maps(model, images, torch.tensor([0, 2]), "cam")
        logits = model(images)
    own = maps.mean(dim=(1, 2)) + model.head.bias[[0, 2]]
    assert torch.allclose(own, logits[[0, 1], [0, 2]], atol=1e-4), "CAM is the classifier, taken apart by position"


@pytest.mark.slow
def test_convnext_at_stride_16_takes_the_mean_of_the_four_windows_of_each_position(convnext):
    theirs, path = convnext
    model = wk.build_model("convnext_tiny", 3, weights=path, stride=16).eval()
    with torch.no_grad():
        x = torch.randn(1, 384, 5, 4)
        kernel, bias = theirs.features[6][1].weight, theirs.features[6][1].bias
        padded = torch.nn.functional.pad(theirs.features[6][0](x), (1, 1, 1, 1))
        one = torch.zeros(1, 768, 5, 4)
        for i in range(5):
            for j in range(4):
                for a in (0, 1):
                    for b in (0, 1):
                        window = padded[0, :, i + a : i + a + 2, j + b : j + b + 2]
                        one[0, :, i, j] += (torch.einsum("ocij,cij->o", kernel, window) + bias) / 4
        assert torch.allclose(model.body.features[6](x), one, atol=1e-4)
        assert model.body(torch.randn(1, 3, 96, 96)).shape == (1, 768, 6, 6)


def test_tap_of_a_signed_feature_map_is_that_of_its_positive_part():
    features = torch.randn(3, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    features[0, 0] = -1.0
    pooled = wk.thresholded_average_pool(features, 0.1)
    assert torch.equal(pooled, wk.thresholded_average_pool(features.relu(), 0.1)) and pooled[0, 0] == 0
    model = wk.build_model("convnext_tiny", 3, pooling="tap", weights="none", width=0.125)
    assert torch.isfinite(model(torch.randn(2, 3, 32, 32))).all()


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [None, True])
def test_vgg_files_load_with_and_without_batch_normalisation(tmp_path, batch_norm):
    theirs = (torchvision.models.vgg16_bn if batch_norm else torchvision.models.vgg16)(weights=None).eval()
    path = tmp_path / "vgg.pth"
    torch.save(theirs.state_dict(), path)
    model = wk.build_model("vgg16", 3, weights=str(path), batch_norm=batch_norm).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.features[:-1](images)  # everything before pool5
        assert torch.allclose(model.body.features(images), expected, atol=1e-4)


@pytest.mark.slow
def test_vgg16_fc_is_torchvisions_network_with_a_new_last_layer(tmp_path):
    theirs = torchvision.models.vgg16(weights=None).eval()
    path = tmp_path / "vgg.pth"
    torch.save(theirs.state_dict(), path)
    model = wk.build_model("vgg16_fc", 3, weights=str(path)).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        hidden = theirs.classifier[:-1](torch.flatten(theirs.avgpool(theirs.features(images)), 1))
        assert torch.allclose(model.pool(model.body(images)), hidden, atol=1e-4)
    assert not model.has_cam and model.pooling == "fc"


def test_own_checkpoints_are_weights_too(tmp_path):
    model = wk.build_model("resnet18", 3, weights="none", width=0.25, seed=5)
    torch.save(model.state_dict(), tmp_path / "own.pth")
    again = wk.build_model("resnet18", 3, pooling="tap", weights=str(tmp_path / "own.pth"), width=0.25)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"mis-shaped: head\.weight is \(3, 128\), expected \(4, 128\)"):
        wk.build_model("resnet18", 4, weights=str(tmp_path / "own.pth"), width=0.25)


def test_wrong_keys_are_named(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    del state["conv1.weight"]
    state["stranger.weight"] = torch.zeros(1)
    state["layer1.0.conv1.weight"] = torch.zeros(1, 2, 3, 3)
    path = tmp_path / "broken.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError) as caught:
        wk.build_model("resnet18", 3, weights=str(path))
    text = str(caught.value)
    assert "1 missing: conv1.weight" in text
    assert "1 unexpected: stranger.weight" in text
    assert "1 mis-shaped: layer1.0.conv1.weight is (1, 2, 3, 3), expected (64, 64, 3, 3)" in text


class _Evil:
    def __reduce__(self):
        return (print, ("code from a pickle was run",))


def test_files_that_are_no_weights(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        wk.build_model("resnet18", 3, weights=str(tmp_path / "absent.pth"))
    evil = tmp_path / "evil.pth"
    torch.save({"x": _Evil()}, evil)
    with pytest.raises(ValueError, match=r"evil\.pth"):
        wk.build_model("resnet18", 3, weights=str(evil))
    assert "code from a pickle" not in capsys.readouterr().out
    garbage = tmp_path / "garbage.safetensors"
    garbage.write_bytes(b"not at all")
    with pytest.raises(ValueError, match=r"garbage\.safetensors"):
        wk.build_model("resnet18", 3, weights=str(garbage))
    numbers = tmp_path / "numbers.pth"
    torch.save({"a": 1}, numbers)
    with pytest.raises(ValueError, match="no state_dict"):
        wk.build_model("resnet18", 3, weights=str(numbers))


def test_imagenet_without_a_network_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there: the download fails at once
    monkeypatch.setattr(urllib.request, "_opener", None)  # it is kept, with the proxies of when it was made
    with pytest.raises(OSError, match=r"download\.pytorch\.org.*weights='none'"):
        wk.build_model("resnet18", 3, weights="imagenet")


def test_real_imagenet_weights_recognise_photographs(shared):
    """The shared weights are a real classifier: with their own head left out the features still tell birds apart."""
    model = wk.build_model(
        "mobilenet_v2", 6, weights=str(shared("weights/mobilenet_v2_imagenet.safetensors")), stride=32
    )
    dataset = wk.load_dataset("cub", "test", root=shared("data/CUB_200_2011"), size=224)
    chosen = dataset.spread(24)
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(model.eval().pool(model.body(dataset.images(chosen))), dim=1)
    labels = torch.tensor(dataset.labels[chosen])
    nearest = (vectors @ vectors.T - 2 * torch.eye(len(chosen))).argmax(1)
    assert float((labels[nearest] == labels).float().mean()) > 0.4, "chance is about one in six"


@pytest.mark.parametrize("wrapper", ["", "state_dict", "model_state_dict", "net", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "backbone.", "module.model."])
def test_checkpoints_of_other_people_load(tmp_path, wrapper, prefix):
    """As training scripts save them: in a wrapper, with a prefix, beside arguments and numpy's numbers; nothing is run."""
    theirs = torchvision.models.mobilenet_v2(num_classes=5)
    state = {prefix + key: value for key, value in theirs.state_dict().items()}
    beside = {"args": argparse.Namespace(lr=0.1), "epoch": 3, "best": np.float64(71.5), "optimizer": {"state": {}}}
    torch.save({wrapper: state, **beside} if wrapper else state, tmp_path / "w.pth")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours = wk.build_model("mobilenet_v2", 3, weights=str(tmp_path / "w.pth"))
    told = " ".join(str(warning.message) for warning in said)
    assert all(f"'{part}.'" in told for part in prefix.split(".") if part) and bool(told) is bool(prefix)
    assert torch.equal(next(ours.body.parameters()), theirs.features[0][0].weight)


@pytest.mark.parametrize("first, second", [("model", "ema"), ("state_dict", "state_dict_ema"), ("teacher", "student")])
def test_of_several_networks_in_a_file_the_one_that_is_read_is_named(tmp_path, first, second):
    states = [torchvision.models.resnet18().state_dict() for _ in range(2)]
    others = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 3}
    torch.save({second: states[1], first: states[0], **others}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=f"several networks; '{first}' is read, and not {second}$"):
        ours = wk.build_model("resnet18", 3, weights=str(tmp_path / "w.pth"))
    assert torch.equal(next(ours.body.parameters()), states[0]["conv1.weight"])


def test_safetensors_are_known_by_their_content(tmp_path):
    state = torchvision.models.resnet18().state_dict()
    save_file(state, tmp_path / "w.pth")
    ours = wk.build_model("resnet18", 3, weights=str(tmp_path / "w.pth"))
    assert torch.equal(next(ours.body.parameters()), state["conv1.weight"])


def test_pickled_code_beside_weights_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "evil").touch, ()

    torch.save({"state_dict": torchvision.models.resnet18().state_dict(), "args": Evil()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth' cannot be read"):
        wk.build_model("resnet18", 3, weights=str(tmp_path / "w.pth"))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "encoder_q.", "_module."])
@pytest.mark.parametrize("wrapper", ["state_dict", "state_dict_ema", "model_state", "params"])
def test_what_lies_beside_a_whole_network_is_left_out_and_named(tmp_path, prefix, wrapper):
    """Losses, counters, heads and projections, as training frameworks save them in one dictionary."""
    theirs = torchvision.models.resnet18(num_classes=5)
    state = {prefix + key: value for key, value in theirs.state_dict().items()}
    state |= {"criterion.weight": torch.ones(2), "n_averaged": torch.tensor(3), "head.fc.weight": torch.ones(2, 3)}
    torch.save({wrapper: state}, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=r"3 keys are of no part .* n_averaged"):
        ours = wk.build_model("resnet18", 3, weights=str(tmp_path / "w.pth"))
    assert torch.equal(next(ours.body.parameters()), theirs.conv1.weight)


def test_a_part_that_this_network_lacks_is_not_left_out(tmp_path):
    state = torchvision.models.resnet18().state_dict() | {"layer1.0.se.weight": torch.ones(2)}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"1 unexpected: layer1\.0\.se\.weight"):
        wk.build_model("resnet18", 3, weights=str(tmp_path / "w.pth"))
