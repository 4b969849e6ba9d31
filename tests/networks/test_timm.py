"""Networks of timm: those of the table in docs/networks.md, with random weights; and what is said without timm or a network."""

from __future__ import annotations

import builtins
import re
from pathlib import Path

import pytest
import torch

import wsolkit as wk
from wsolkit.boxes.extract import extract_box
from wsolkit.common.errors import WsolkitError
from wsolkit.networks.backbones import family
from wsolkit.networks.models import rebuild

timm = pytest.importorskip("timm", reason="timm is not installed: pip install 'wsolkit[timm]'")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "networks.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([^|]+) \| `timm:(\S+)` \| ([^|]+) \| ([^|]+) \|$", PAGE, re.M)
FAST = ("test_resnet", "test_vit")  # the others are left out of `make check`
SIDE = 64


def test_the_page_has_thirty_networks():
    assert len(ROWS) >= 30 and len({family for family, *_ in ROWS}) == len(ROWS)


@pytest.mark.parametrize(
    "name, strides, logits",
    [pytest.param(*row, id=row[0], marks=[] if row[0] in FAST else pytest.mark.slow) for _, *row in ROWS],
)
def test_a_network_of_the_table(name, strides, logits):
    """It builds, gives timm's own logits where the page says so, trains one step, CAM is Grad-CAM, and boxes come out."""
    if strides == "refused":
        with pytest.raises(WsolkitError, match=re.escape(logits)):
            family(f"timm:{name}")
        return
    known = family(f"timm:{name}")
    assert ", ".join(map(str, known.strides)) == strides
    torch.manual_seed(0)
    model = wk.build_model(f"timm:{name}", 5, weights="none", size=SIDE).eval()
    images, labels = torch.randn(2, 3, SIDE, SIDE), torch.tensor([3, 1])
    options = {"img_size": SIDE} if timm.get_pretrained_cfg(name).fixed_input_size else {}
    theirs = timm.create_model(name, num_classes=5, **options).eval()
    left = theirs.load_state_dict(model.body.net.state_dict(), strict=False)
    classifier = theirs.get_classifier()
    assert not left.unexpected_keys and {key.rpartition(".")[0] for key in left.missing_keys} <= {
        part for part, module in theirs.named_modules() if part and module in {*classifier.modules()}
    }
    with torch.no_grad():
        features = model.body(images)
        expected, given = theirs(model.body.input(images)), classifier(features.mean(dim=(2, 3)))
        assert torch.allclose(model(images), model.head(features.mean(dim=(2, 3))), atol=1e-5)
    assert features.shape[2:] == (SIDE // known.strides[0],) * 2
    assert (logits == "equal") == bool(torch.allclose(given, expected, atol=1e-5 * float(expected.abs().max()))), logits

    maps = {method: wk.score_maps(model, images, labels, method) for method in ("cam", "grad_cam")}
    # CAM weighs channels with w, Grad-CAM with w / (h w): the same map up to its scale
    area = features[0, 0].numel()
    assert torch.allclose(maps["cam"].relu(), maps["grad_cam"] * area, atol=1e-4 * float(maps["cam"].abs().max()))
    for score_map in maps["cam"].numpy():
        x0, y0, x1, y1 = extract_box(score_map, 0.2, size=(SIDE, SIDE))[:4]
        assert 0 <= x0 <= x1 < SIDE and 0 <= y0 <= y1 < SIDE

    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimiser = torch.optim.SGD(model.train().parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimiser.step()
    changed = sum(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    # a branch that starts at zero passes no gradient on in the first step
    assert changed > len(before) / 4 and all(p.isfinite().all() for p in model.parameters())


def test_weights_of_a_file_are_read_under_timms_names_and_resampled(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=9, img_size=64)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in theirs.state_dict().items()}}, tmp_path / "w.pth"
    )
    with pytest.warns(UserWarning, match="without their prefix 'module.'"):
        model = wk.build_model("timm:test_vit", 4, weights=str(tmp_path / "w.pth"), size=96).eval()
    assert torch.equal(model.body.net.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)
    assert model.body.net.pos_embed.shape[1] == 6 * 6 + 1 and model.new_parts == ("head",)
    images = torch.randn(1, 3, 96, 96)
    again = rebuild(**model.spec).eval()
    again.load_state_dict(model.state_dict())
    torch.save(model.state_dict(), tmp_path / "own.pth")
    own = wk.build_model("timm:test_vit", 4, weights=str(tmp_path / "own.pth"), size=96).eval()
    with torch.no_grad():
        assert torch.equal(again(images), model(images)) and torch.equal(own(images), model(images))
    with (
        pytest.raises(WsolkitError, match=r"w\.pth' do not fit timm:test_resnet; .*conv1\.weight"),
        pytest.warns(UserWarning),
    ):
        wk.build_model("timm:test_resnet", 4, weights=str(tmp_path / "w.pth"))


def test_a_network_sees_images_with_its_own_mean_and_standard_deviation():
    told = timm.get_pretrained_cfg("test_vit")
    pixels = torch.rand(1, 3, 8, 8)
    one, other = (
        (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        for mean, std in (((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), (told.mean, told.std))
    )
    body = wk.build_model("timm:test_vit", 2, weights="none", size=64).body
    assert told.mean != (0.485, 0.456, 0.406) and torch.allclose(body.input(one), other, atol=1e-6)
    assert not any("input" in key for key in body.state_dict())


def test_published_weights_without_a_network_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(OSError, match=r"published weights of timm:test_resnet cannot be had .*weights='none'"):
        wk.build_model("timm:test_resnet", 2)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"backbone": "timm:resnet81"}, "has no network 'resnet81'; did you mean"),
        ({"backbone": "timm:test_resnet.none"}, r"Invalid pretrained tag \(none\).*test_resnet\.r160_in1k"),
        ({"backbone": "timm:test_resnet", "stride": 4}, "has no stride 4; choose from 32, 16, 8"),
        ({"backbone": "timm:test_resnet", "width": 0.5}, "published channels only"),
        ({"backbone": "timm:test_vit", "size": 20}, r"takes no images of 20 px .*its own side is 160 px"),
    ],
)
def test_impossible_networks_are_refused(given, message):
    with pytest.raises(WsolkitError, match=message):
        wk.build_model(**{"num_classes": 2, "weights": "none", **given})


def test_without_timm_one_error_says_how_to_install_it(monkeypatch):
    plain = builtins.__import__

    def absent(name, *args, **options):
        if name.partition(".")[0] == "timm":
            raise ImportError(name)
        return plain(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(
        WsolkitError, match=r"needs? the library timm, which is not installed: pip install 'wsolkit\[timm\]'"
    ):
        wk.build_model("timm:test_vit2", 2, weights="none")


def test_a_run_takes_a_network_of_timm_at_its_strides_and_lists_what_is_defined(capsys):
    from wsolkit.cli.backbones import backbones
    from wsolkit.methods.registry import resolve
    from wsolkit.runs.parameters import RunConfig

    config = RunConfig.make(backbone="timm:test_vit", size=64)
    assert (config.stride, config.width) == (16, 1.0)
    assert RunConfig.make(backbone="timm:test_resnet").stride == 8, "that of networks from scratch"
    with pytest.raises(WsolkitError, match="published channels only"):
        RunConfig.make(backbone="timm:test_vit", width=0.5)
    assert "adl knows no layers" in resolve("adl").undefined("timm:test_vit")
    backbones(["timm:test_vi?"], standalone_mode=False)
    line = capsys.readouterr().out
    assert (
        line.startswith("timm:test_vit  strides 16; images 160 px; not defined: ")
        and "adl" in line
        and "ts_cam" in line
    )
    backbones(["timm:*"], standalone_mode=False)
    assert "timm:resnet50\n" in capsys.readouterr().out
    with pytest.raises(WsolkitError, match="no backbone fits 'vgg99'"):
        backbones(["vgg99"], standalone_mode=False)
