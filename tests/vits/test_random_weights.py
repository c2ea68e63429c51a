"""Named backbones with new weights: seeded, without the hub, and known as others than the trained ones."""

import pytest
import torch
from conftest import mostly_slow
from vits.micro_recordings import contents, recording

from saev.demo import ImgFocus
from saev.demo import img_focus as demo
from saev.vits import OpenClipVit, TimmCnn, TimmVit, hub, random_weights
from saev.vits.activation_site import differences

SMALL = {"random_weights": True, "img_size": 32}
SOURCES = {
    "timm": lambda **more: TimmVit(name="a", arch="vit_tiny_patch16_224.augreg_in21k", **SMALL | more),
    "dinov2": lambda **more: TimmVit(
        name="a", arch="vit_small_patch14_dinov2.lvd142m", **SMALL | {"img_size": 28} | more
    ),
    "dinov3": lambda **more: TimmVit(name="a", arch="vit_small_patch16_dinov3.lvd1689m", **SMALL | more),
    "cnn": lambda **more: TimmCnn(name="a", arch="resnet18.a1_in1k", **SMALL | {"img_size": 64} | more),
    "open_clip": lambda **more: OpenClipVit(name="a", arch="ViT-B-32", pretrained="openai", **SMALL | more),
    "demo": lambda **more: ImgFocus(name="a", **SMALL | {"img_size": 28} | more),
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    def refuse(*_):
        raise AssertionError("weights are looked up")

    for module, name in ((hub, "check_hub"), (hub, "check_url"), (demo, "weights")):
        monkeypatch.setattr(module, name, refuse)


def weights(source):
    return source.load().trunk.state_dict()


@pytest.mark.parametrize("which", mostly_slow(SOURCES))
@torch.no_grad()
def test_the_seed_determines_the_weights_and_each_block_does_something(which):
    make = SOURCES[which]
    make().check()
    state, (one, same, other) = torch.get_rng_state(), map(weights, (make(), make(), make(seed=1)))
    assert torch.equal(torch.get_rng_state(), state), "the caller's random numbers change"
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert sum(not torch.equal(one[name], other[name]) for name in one) > len(one) / 8
    backbone = make().load()
    images = torch.randn(2, 3, *backbone.image_size)
    if which != "cnn":
        layers = backbone(images, range(backbone.depth))
        for layer in range(1, backbone.depth):
            moved = (layers[layer] - layers[layer - 1]).norm() / layers[layer - 1].norm()
            assert 0.01 < moved < 100, layer
    gates = [value for name, value in one.items() if name.rsplit(".", 1)[-1].startswith("gamma")]
    assert all((gate == 1).all() for gate in gates) and bool(gates) == which.startswith(("dino", "demo"))


@pytest.mark.parametrize("which", SOURCES)
def test_it_is_another_backbone_than_the_trained_one(which):
    trained, null, other = (SOURCES[which](**more) for more in ({"random_weights": False}, {}, {"seed": 1}))
    assert (trained.name, null.name, other.name) == ("a", "a-random0", "a-random1")
    for one, two in ((trained, null), (null, other)):
        assert differences(one.identity(), two.identity()) == ["weights"]
    assert trained.shape() == null.shape()


@pytest.mark.parametrize("which", ["timm", "open_clip", "demo"])
def test_weights_of_other_versions_are_another_backbone(which, monkeypatch):
    one = SOURCES[which]().identity()
    monkeypatch.setattr(random_weights, "version", lambda name: "9.0+cpu")
    two = SOURCES[which]().identity()
    assert differences(one, two) == ["weights"]
    assert two["weights"].startswith("random:0 torch==9.0 ") and two["weights"].endswith("==9.0")


@pytest.mark.parametrize("which", ["timm", "open_clip", "demo"])
def test_a_seed_of_trained_weights_is_refused(which):
    source = SOURCES[which](random_weights=False, seed=3)
    with pytest.raises(ValueError, match=r"vit.seed=3: no effect without vit.random_weights=true"):
        source.check()


def test_zero_norms_of_a_cnn_are_ones():
    norms = {name: value for name, value in weights(SOURCES["cnn"]()).items() if name.endswith("bn2.weight")}
    assert norms and all((value == 1).all() for value in norms.values())


def test_a_file_of_weights_beside_it_is_refused(tmp_path):
    source = SOURCES["timm"](checkpoint=str(tmp_path / "a.pth"))
    for use in (source.check, source.identity, source.load):
        with pytest.raises(ValueError, match=r"vit.random_weights=true beside vit.checkpoint=.*drop one"):
            use()


def test_two_recordings_have_the_same_bytes_and_another_seed_others(photos, tmp_path):
    seeds = {"one": 0, "two": 0, "other": 3}
    folders = {
        name: recording(photos, tmp_path / name, vit=SOURCES["timm"](seed=seed), layers=[0]).run(False)
        for name, seed in seeds.items()
    }
    files = {name: contents(folder) for name, folder in folders.items()}
    assert files["one"] == files["two"] and folders["one"].name == folders["two"].name
    tars = [name for name in files["one"] if name.endswith(".tar")]
    assert tars and all(files["one"][tar] != files["other"][tar] for tar in tars)
    assert "a-random3" in folders["other"].name
