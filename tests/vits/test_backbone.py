"""Hooks against each family's own forward, and against the residual identity."""

import pytest
import torch

from saev.vits import anatomy
from saev.vits.backbone import Backbone, resolve_layers
from saev.vits.hooks import HOOKS
from saev.vits.micro import MicroVit
from saev.vits.transform import ImageTransform

SMALL = {"depth": 3, "embed_dim": 24, "num_heads": 2, "num_classes": 0}
# name -> (timm model, its size, cls tokens, registers); LayerScale is on where the family has it
TIMM = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 32, "patch_size": 8}, 1, 0),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 32, "patch_size": 8}, 2, 0),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": (28, 42), "init_values": 0.3}, 1, 0),
    "dinov2_reg": ("vit_small_patch14_reg4_dinov2", {"img_size": 28, "init_values": 0.3}, 1, 4),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": (32, 48), "init_values": 0.3}, 1, 4),
    "siglip2": ("vit_base_patch16_siglip_224", {"img_size": 32, "patch_size": 8}, 0, 0),
    "clip": ("vit_base_patch16_clip_224", {"img_size": 32, "patch_size": 8}, 1, 0),
    "pe": ("vit_pe_core_base_patch16_224", {"img_size": 32, "ref_feat_shape": (2, 2)}, 1, 0),
    "eva02": ("eva02_tiny_patch14_224", {"img_size": 28, "global_pool": "token"}, 1, 0),
    "beit": ("beit_base_patch16_224", {"img_size": 32, "init_values": 0.3, "global_pool": "token"}, 1, 0),
}


def timm_backbone(family: str) -> Backbone:
    import timm

    arch, size, _, _ = TIMM[family]
    torch.manual_seed(0)
    model = timm.create_model(arch, **SMALL, **size)
    return wrap(model, anatomy.of_timm(model, arch))


def open_clip_backbone(kind: str) -> Backbone:
    from open_clip import CLIPVisionCfg
    from open_clip.model import _build_vision_tower

    torch.manual_seed(0)
    native = {"layers": 3, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
    cfg = {
        "native": CLIPVisionCfg(**native),
        "native_layer_scale": CLIPVisionCfg(**native, ls_init_value=0.3),
        "native_custom": CLIPVisionCfg(**native, block_type="custom", qk_norm=True),
        "timm_trunk": CLIPVisionCfg(
            timm_model_name="vit_tiny_patch16_224", timm_pool="", timm_proj="linear", image_size=224
        ),
    }[kind]
    visual = _build_vision_tower(16, cfg)
    return wrap(visual, anatomy.of_open_clip(visual, kind))


def wrap(model: torch.nn.Module, parts: anatomy.Anatomy) -> Backbone:
    return Backbone("test", model, parts, ImageTransform(parts.shape.image_size, (0.5,) * 3, (0.5,) * 3))


def pictures(backbone: Backbone, n: int = 2) -> torch.Tensor:
    return torch.randn(n, 3, *backbone.image_size, generator=torch.Generator().manual_seed(1))


BACKBONES = {
    **{name: timm_backbone for name in TIMM},
    **dict.fromkeys(["native", "native_layer_scale", "native_custom", "timm_trunk"], open_clip_backbone),
}


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request) -> Backbone:
    return BACKBONES[request.param](request.param)


@torch.no_grad()
def test_resid_post_of_the_last_block_is_what_the_model_itself_goes_on_with(backbone):
    images, last = pictures(backbone), backbone.depth - 1
    ours = backbone(images, [-1])[last]
    if hasattr(backbone.trunk, "forward_features"):
        own = backbone.trunk.forward_features(images)
    elif hasattr(backbone.trunk, "trunk"):
        own = backbone.trunk.trunk.forward_features(images)
    else:
        own = backbone.trunk.ln_post(backbone.trunk.transformer(backbone.trunk._embeds(images)))
    torch.testing.assert_close(backbone.anatomy.final_norm()(ours), own)
    torch.testing.assert_close(backbone(images, [last], "norm")[last], own)


@torch.no_grad()
def test_each_block_adds_its_attention_and_its_mlp_to_the_stream(backbone):
    images, layers = pictures(backbone), range(backbone.depth)
    pre, post, attn, mlp = (backbone(images, layers, hook) for hook in ("resid_pre", "resid_post", "attn", "mlp"))
    for layer in layers:
        assert attn[layer].abs().max() > 0 and mlp[layer].abs().max() > 0
        torch.testing.assert_close(pre[layer] + attn[layer] + mlp[layer], post[layer])
    for layer in layers[1:]:
        assert torch.equal(pre[layer], post[layer - 1])


@torch.no_grad()
def test_tokens_are_cls_registers_patches(backbone, request):
    family = request.node.callspec.params["backbone"]
    n_cls, n_registers = TIMM[family][2:] if family in TIMM else (1, 0)
    assert (backbone.n_cls, backbone.n_registers) == (n_cls, n_registers)
    assert backbone.n_patches == backbone.grid[0] * backbone.grid[1]
    # an image that differs in its first patch only changes that token most, right at the first block's input
    images = pictures(backbone, 1)
    other = images.clone()
    other[:, :, : backbone.image_size[0] // backbone.grid[0], : backbone.image_size[1] // backbone.grid[1]] += 3
    change = (backbone(images, [0], "resid_pre")[0] - backbone(other, [0], "resid_pre")[0]).abs().sum(-1)[0]
    assert change.nonzero().flatten().tolist() == [n_cls + n_registers]


@torch.no_grad()
def test_layers_come_ascending_and_negative_ones_resolved(backbone):
    images = pictures(backbone)
    found = backbone(images, [-1, 0])
    assert list(found) == [0, backbone.depth - 1]
    assert torch.equal(found[0], backbone(images, [0])[0])


@pytest.mark.parametrize("hook", HOOKS)
@torch.no_grad()
def test_blocks_deeper_than_needed_do_not_run(hook):
    backbone = MicroVit().load()
    ran = []
    for at, block in enumerate(backbone.anatomy.blocks):
        block.register_forward_pre_hook(lambda *_, at=at: ran.append(at))
    backbone(pictures(backbone), [1], hook)
    assert ran == [0, 1]
    assert not any(block._forward_hooks for block in backbone.anatomy.blocks), "no hook is left behind"


@torch.no_grad()
def test_an_error_in_the_model_is_not_taken_for_the_end():
    backbone = MicroVit().load()
    with pytest.raises((AssertionError, RuntimeError), match=r"height|size"):
        backbone(torch.zeros(1, 3, 40, 40), [1])
    assert not any(block._forward_hooks for block in backbone.anatomy.blocks)


@pytest.mark.parametrize("layer", [4, -5, 99])
def test_layer_out_of_range_names_the_range(layer):
    with pytest.raises(ValueError, match=rf"layer={layer} is out of range: vit has 4 layers, choose 0 to 3"):
        resolve_layers([layer], 4)


def test_no_layer_is_an_error():
    with pytest.raises(ValueError, match="layer is not set"):
        resolve_layers([], 4)


def test_unknown_hook_names_the_hooks():
    backbone = MicroVit().load()
    with pytest.raises(ValueError, match=r"record\.hook=middle.*resid_post"):
        backbone(pictures(backbone), [0], "middle")


def test_hooks_that_an_architecture_lacks_are_refused():
    import timm

    parallel = timm.create_model("vit_tiny_patch16_224", **SMALL, img_size=32)
    for block in parallel.blocks:
        del block.drop_path1
        block.drop_path1 = None
    pooled = timm.create_model("vit_tiny_patch16_224", **SMALL, img_size=32, global_pool="avg", fc_norm=True)
    with pytest.raises(ValueError, match=r"record\.hook=attn.*resid_post"):
        backbone = wrap(parallel, anatomy.of_timm(parallel, "x"))
        backbone(pictures(backbone), [0], "attn")
    with pytest.raises(ValueError, match=r"record\.hook=norm.*resid_post"):
        backbone = wrap(pooled, anatomy.of_timm(pooled, "x"))
        backbone(pictures(backbone), [0], "norm")


@pytest.mark.parametrize("arch", ["swin_tiny_patch4_window7_224", "resnet18"])
def test_other_architectures_are_refused_by_name(arch):
    import timm

    with torch.device("meta"):
        model = timm.create_model(arch)
    with pytest.raises(ValueError, match=rf"vit\.arch={arch}.*not a plain vision transformer"):
        anatomy.of_timm(model, arch)
