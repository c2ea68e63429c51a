import pytest
import torch

from saev.vits import OpenClipVit


@pytest.fixture(scope="module")
def small_clip():
    """A small open_clip model under a name of its own."""
    import open_clip
    from open_clip.factory import _MODEL_CONFIGS

    _MODEL_CONFIGS["ViT-test"] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    yield open_clip.create_model("ViT-test", pretrained=None, load_weights=False)
    del _MODEL_CONFIGS["ViT-test"]


@torch.no_grad()
def test_open_clip_towers_come_out_of_whole_checkpoints(small_clip, tmp_path):
    model = small_clip
    torch.save({"state_dict": model.state_dict()}, tmp_path / "clip.pt")
    source = OpenClipVit(name="clip", arch="ViT-test", checkpoint=str(tmp_path / "clip.pt"))
    source.check()
    backbone, visual = source.load(), model.visual.eval()
    images = torch.randn(2, 3, 32, 32)
    expected = visual.ln_post(visual.transformer(visual._embeds(images)))
    torch.testing.assert_close(backbone(images, [-1], "norm")[2], expected)
    assert source.shape() == backbone.anatomy.shape and not hasattr(backbone.trunk, "token_embedding")
    larger = OpenClipVit(name="clip", arch="ViT-test", checkpoint=str(tmp_path / "clip.pt"), img_size=48)
    assert larger.load()(torch.zeros(1, 3, 48, 48), [0])[0].shape == (1, 37, 64)
    torch.save({"wrong": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other\.pt does not fit vit\.arch=ViT-test"):
        OpenClipVit(name="clip", arch="ViT-test", checkpoint=str(tmp_path / "other.pt")).load()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"arch": None}, r"vit\.arch is not set"),
        ({"arch": "ViT-B16"}, r"did you mean .*ViT-B-16"),
        ({"arch": "RN50", "pretrained": "openai"}, r"vit\.arch=RN50.*no transformer"),
        ({"arch": "ViT-B-16", "pretrained": "nonsense"}, r"vit\.pretrained=nonsense.*laion400m.*vit\.checkpoint"),
        ({"arch": "ViT-B-16", "checkpoint": "/nowhere.pt"}, r"vit\.checkpoint=/nowhere\.pt does not exist"),
    ],
)
def test_open_clip_check_names_key_value_and_remedy(fields, says):
    with pytest.raises(ValueError, match=says):
        OpenClipVit(name="x", **fields).check()


def test_open_clip_pictures_are_those_of_its_training():
    siglip = OpenClipVit(name="s", arch="ViT-B-16-SigLIP", pretrained="webli").identity()
    clip = OpenClipVit(name="c", arch="ViT-B-16-quickgelu", pretrained="openai").identity()
    assert (siglip["resize"], siglip["mean"]) == ("squash", [0.5] * 3)
    assert (clip["resize"], clip["mean"][0]) == ("crop", 0.48145466)
