"""Weights out of local files, through each library's own key mapping; geometry without weights; refusals."""

import re

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from saev.vits import MicroVit, TimmVit

ARCH = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny timm model at its trained size, as safetensors and in a training checkpoint."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    model = timm.create_model(ARCH)  # with its classifier, which must go unused
    save_file(model.state_dict(), folder / "a.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}, "epoch": 3}, folder / "a.pth")
    return folder, model.eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_a_local_file_gives_the_model_back(weights, name):
    folder, model = weights
    source = TimmVit(name="tiny", arch=ARCH, checkpoint=str(folder / name))
    source.check()
    backbone = source.load()
    images = torch.randn(1, 3, 224, 224)
    torch.testing.assert_close(backbone(images, [-1], "norm")[11], model.forward_features(images))
    assert not backbone.training and not any(p.requires_grad for p in backbone.parameters())


@torch.no_grad()
def test_position_grids_are_resampled_to_the_requested_size(weights):
    folder, model = weights
    source = TimmVit(name="tiny", arch=ARCH, checkpoint=str(folder / "a.safetensors"), img_size=(96, 160))
    backbone = source.load()
    assert backbone.grid == source.shape().grid == (6, 10) and backbone.image_size == (96, 160)
    whole, ours = model.pos_embed[:, 1:].reshape(14, 14, -1), backbone.trunk.pos_embed[:, 1:].reshape(6, 10, -1)
    from timm.layers import resample_abs_pos_embed

    expected = resample_abs_pos_embed(model.pos_embed, [6, 10], num_prefix_tokens=1)[:, 1:].reshape(6, 10, -1)
    torch.testing.assert_close(ours, expected)
    assert whole.shape[:2] != ours.shape[:2]
    assert backbone(backbone.transform(Image.new("RGB", (50, 50)))[None], [0])[0].shape == (1, 61, 192)


def test_original_dinov2_keys_are_mapped(tmp_path):
    """The authors' file has a mask token and layer scales named ls1.gamma; timm's filter knows them."""
    model = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=518)
    state = model.state_dict()
    n = model.patch_embed.num_patches
    state["pos_embed"] = torch.randn(1, n + 1, 384)
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 384)
    torch.save(state, tmp_path / "dinov2.pth")
    source = TimmVit(
        name="reg", arch="vit_small_patch14_reg4_dinov2", checkpoint=str(tmp_path / "dinov2.pth"), img_size=28
    )
    backbone = source.load()
    assert (backbone.n_cls, backbone.n_registers, backbone.grid) == (1, 4, (2, 2))
    assert torch.equal(backbone.trunk.reg_token, state["register_tokens"])


@pytest.mark.slow
def test_original_dinov3_biases_are_not_dropped_silently(tmp_path, capfd):
    """The authors' file has a joint bias whose key part is masked; timm's plain variant has none at all."""
    model = timm.create_model("vit_small_patch16_dinov3", num_classes=0)
    state = {k.replace("reg_token", "storage_tokens"): v for k, v in model.state_dict().items()}
    state = {re.sub(r"gamma_(\d)", r"ls\1.gamma", k): v for k, v in state.items()}
    masked = torch.cat([torch.zeros(384), torch.full((384,), float("nan")), torch.zeros(384)])
    state |= {f"blocks.{i}.attn.qkv.bias": masked for i in range(12)}
    torch.save(state, tmp_path / "v3.pth")
    source = TimmVit(name="v3", arch="vit_small_patch16_dinov3", checkpoint=str(tmp_path / "v3.pth"))
    backbone = source.load()
    assert capfd.readouterr().out == ""
    assert (backbone.n_registers, backbone.grid) == (4, (16, 16))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in backbone.trunk.state_dict().items())
    state["blocks.1.attn.qkv.bias"] = torch.full((3 * 384,), 0.1)
    torch.save(state, tmp_path / "v3.pth")
    with pytest.raises(ValueError, match="_qkvb"):
        source.load()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "says"), [("vit_base_patch16_224", "does not fit"), ("vit_small_patch14_reg4_dinov2", "does not fit")]
)
def test_weights_of_another_model_are_refused(weights, arch, says):
    with pytest.raises(ValueError, match=rf"vit\.checkpoint=.*{says} this vit\.arch"):
        TimmVit(name="x", arch=arch, checkpoint=str(weights[0] / "a.safetensors")).load()


def test_weights_of_a_deeper_or_incomplete_model_are_refused(tmp_path):
    from saev.vits import checkpoint

    small = {"img_size": 32, "embed_dim": 24, "num_heads": 2, "num_classes": 0}
    model = timm.create_model(ARCH, depth=2, **small)
    deeper = timm.create_model(ARCH, depth=3, **small).state_dict()
    with pytest.raises(ValueError, match=r"blocks\.2"):
        checkpoint.fit(model, deeper, "it")
    partial = {k: v for k, v in model.state_dict().items() if k != "blocks.1.mlp.fc1.weight"}
    with pytest.raises(ValueError, match=r"1 weights missing \(blocks\.1\.mlp\.fc1\.weight"):
        checkpoint.fit(model, partial, "it")


class Payload:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_bad_files_are_refused_and_pickles_never_run(tmp_path):
    torch.save({"state_dict": Payload(str(tmp_path / "ran"))}, tmp_path / "evil.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "weights.h5").write_bytes(b"")
    for name, says in {
        "evil.pth": "cannot be read",
        "cut.safetensors": "cannot be read",
        "empty.pt": "cannot be read",
        "weights.h5": "none of",
        "missing.pth": "does not exist",
    }.items():
        with pytest.raises(ValueError, match=rf"vit\.checkpoint=.*{name}.*{says}"):
            TimmVit(name="x", arch=ARCH, checkpoint=str(tmp_path / name)).load()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"arch": None}, r"vit\.arch is not set"),
        ({"arch": "vit_tinny_patch16_224"}, r"did you mean .*vit_tiny_patch16_224"),
        ({"arch": f"{ARCH}.no_such_tag"}, r"vit\.arch=.*no_such_tag"),
        ({"arch": ARCH, "img_size": 230}, r"vit\.img_size=230.*224 or 240"),
        (
            {"arch": "vit_tiny_patch16_224", "checkpoint": "/nowhere.pth"},
            r"vit\.checkpoint=/nowhere\.pth does not exist",
        ),
        ({"arch": "test_vit4"}, r"vit=x: the weights are not available"),
    ],
)
def test_check_names_key_value_and_remedy(fields, says):
    with pytest.raises(ValueError, match=says):
        TimmVit(name="x", **fields).check()


def test_identity_tells_weights_and_geometry_but_no_path(weights):
    folder, _ = weights
    one = TimmVit(name="x", arch=ARCH, checkpoint=str(folder / "a.safetensors"))
    moved = folder / "moved.safetensors"
    moved.write_bytes((folder / "a.safetensors").read_bytes())
    assert one.identity() == TimmVit(name="y", arch=ARCH, checkpoint=str(moved)).identity()
    assert str(folder) not in str(one.identity())
    others = [
        TimmVit(name="x", arch=ARCH, checkpoint=str(folder / "a.pth")),
        TimmVit(name="x", arch=ARCH, checkpoint=str(moved), img_size=96),
        TimmVit(name="x", arch=ARCH, checkpoint=str(moved), resize="squash"),
        TimmVit(name="x", arch=ARCH),
        MicroVit(),
        MicroVit(seed=1),
        MicroVit(registers=2),
    ]
    identities = [str(source.identity()) for source in [one, *others]]
    assert len(set(identities)) == len(identities)
