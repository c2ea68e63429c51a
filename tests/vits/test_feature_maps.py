"""Feature maps as tokens: what timm's own feature extractor gives, in any family of hierarchical models."""

from pathlib import Path

import polars as pl
import pytest
import timm
import torch
from conftest import mostly_slow
from safetensors.torch import save_file
from vits.micro_recordings import SMALL, N, recording

from saev.images import FolderImages
from saev.shards import ActivationStore
from saev.vits import TimmCnn

TINY_VIT = Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "mobile_sam_tinyvit5m.fp16.safetensors"


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    torch.manual_seed(0)
    model = timm.create_model("resnet18")
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
    save_file(model.state_dict(), path)
    return path, model.eval()


@pytest.mark.parametrize(
    "arch", mostly_slow(["resnet18", "convnext_atto", "swin_tiny_patch4_window7_224", "efficientnet_b0"])
)
@torch.no_grad()
def test_tokens_are_the_maps_of_timms_feature_extractor(arch):
    torch.manual_seed(0)
    model = timm.create_model(arch, num_classes=0).eval()
    extractor = timm.create_model(arch, features_only=True, out_indices=tuple(range(len(model.feature_info)))).eval()
    extractor.load_state_dict({k: v for k, v in renamed(model, extractor).items()})
    source = TimmCnn(name="x", arch=arch)
    from saev.vits.backbone import Backbone

    backbone = Backbone("x", model, *source._parts(model))
    images = torch.randn(2, 3, 224, 224)
    for layer, expected in enumerate(extractor(images)):
        shape = source.shape().at([layer])
        expected = expected if expected.shape[1] == shape.d_model else expected.permute(0, 3, 1, 2)
        assert expected.shape == (2, shape.d_model, *shape.grid)
        torch.testing.assert_close(backbone(images, [layer])[layer], expected.flatten(2).transpose(1, 2))


def renamed(model: torch.nn.Module, extractor: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The extractor flattens the names of the modules it keeps: stages.0.x becomes stages_0.x."""
    flat = {name.replace(".", "_"): value for name, value in model.state_dict().items()}
    return {name: flat[name.replace(".", "_")] for name in extractor.state_dict()}


@pytest.mark.slow
def test_stages_are_recorded_with_a_width_and_grid_of_their_own(photos, tmp_path, resnet):
    vit = TimmCnn(name="resnet", arch="resnet18", checkpoint=str(resnet[0]), img_size=64)
    sizes = {"shard_mb": 0.2, "dtype": "float32"}
    store = ActivationStore(recording(photos, tmp_path, vit=vit, layers=-2, **sizes).run(False))
    assert (store.layers, store.d_model, store.manifest.roles) == ((3,), 256, {"patches": 16})
    assert store.manifest.meaning["grid"] == [4, 4] and store.examples["grid_h"].unique().to_list() == [4]
    images, model = FolderImages(root=str(photos)), resnet[1]
    place = store.examples.filter(pl.col("key") == images.paths()[5])["index"][0]
    with torch.no_grad():
        x = vit.load().transform(images.open(5))[None]
        expected = model.layer3(model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(x)))))))
    torch.testing.assert_close(torch.from_numpy(store.read(3, place).copy()), expected[0].flatten(1).T)
    coarser = recording(photos, tmp_path, vit=vit, layers=4, **sizes)
    assert coarser.plan.shape.d_model == 512 and coarser.directory() != store.root and not coarser.recorded()
    assert store.manifest.n_tokens == N * 16


@pytest.mark.parametrize(
    ("vit", "knobs", "says"),
    [
        ({"arch": "resnet18"}, {"layers": [2, 3]}, r"layer=\[2, 3\].*2: 128 x 784; 3: 256 x 196.*layer=2"),
        ({"arch": "resnet18"}, {"layers": 5}, r"layer=5 is out of range: vit=cnn has 5 layers"),
        (
            {"arch": "resnet18", "img_size": 100},
            {"layers": 4},
            r"4 x 4 cells of 32 pixels do not cover 100 x 100.*vit\.img_size=224",
        ),
        ({"arch": "resnet18"}, {"layers": 3, "tokens": ["cls"]}, r"record\.tokens=\[cls\]: vit=cnn has patches"),
        ({"arch": "vit_tiny_patch16_224"}, {"layers": 3}, r"vit=timm vit\.arch=vit_tiny_patch16_224"),
        ({"arch": "resnet19"}, {"layers": 3}, r"did you mean .*resnet18"),
        ({"arch": None}, {"layers": 3}, r"vit\.arch is not set"),
        ({"arch": "mlp_mixer"}, {"layers": 3}, r"vit\.arch=mlp_mixer"),
    ],
)
def test_what_cannot_be_recorded_is_refused_with_the_remedy(photos, tmp_path, resnet, vit, knobs, says):
    source = TimmCnn(name="cnn", checkpoint=str(resnet[0]), **vit)
    with pytest.raises(ValueError, match=says):
        recording(photos, tmp_path, vit=source, **SMALL | knobs).run(False)


def test_hooks_inside_blocks_are_refused(resnet):
    backbone = TimmCnn(name="cnn", arch="resnet18", checkpoint=str(resnet[0]), img_size=32).load()
    with pytest.raises(ValueError, match=r"record\.hook=attn: of resnet18 only the outputs of stages.*resid_post"):
        backbone(torch.zeros(1, 3, 32, 32), [3], "attn")


def test_weights_of_another_model_are_refused(resnet):
    with pytest.raises(ValueError, match=r"does not fit this vit\.arch"):
        TimmCnn(name="cnn", arch="resnet34", checkpoint=str(resnet[0])).load()
    deeper = TimmCnn(name="cnn", arch="resnet10t", checkpoint=str(resnet[0]))
    with pytest.raises(ValueError, match=r"does not fit this vit\.arch"):
        deeper.load()


@pytest.mark.slow
@pytest.mark.skipif(not TINY_VIT.is_file(), reason="needs TinyViT's weights beside the repository")
def test_a_trained_hierarchical_transformer(photos, tmp_path):
    vit = TimmCnn(name="tinyvit", arch="tiny_vit_5m_224", checkpoint=str(TINY_VIT))
    store = ActivationStore(recording(photos, tmp_path, vit=vit, layers=-1, shard_mb=1).run(False))
    assert (store.d_model, store.manifest.roles, store.manifest.n_tokens) == (320, {"patches": 49}, 49 * N)
