"""Conversion of a DINOv2 ViT, exported to ONNX from transformers, to timm's names and layout."""

import re

import numpy as np
import torch
from torch import Tensor

# transformers' name inside block l -> timm's, for parameters whose names the export kept
KEPT = {
    **{n: n for n in ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "mlp.fc1.bias", "mlp.fc2.bias")},
    "attention.output.dense.bias": "attn.proj.bias",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
# the MatMul node that uses an unnamed matrix -> timm's name
MATMULS = {"output/dense": "attn.proj.weight", "mlp/fc1": "mlp.fc1.weight", "mlp/fc2": "mlp.fc2.weight"}
QKV = ("query", "key", "value")


def to_timm(data: bytes) -> dict[str, Tensor]:
    """State dict (float32) for timm's `vit_*_dinov2` from the bytes of an ONNX file.

    Constant folding left linear weights unnamed and transposed; they are identified by the MatMul that uses them. The
    cls token and the position grid are in the folded Concat and Reshape constants.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(data).graph
    named = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    matmuls = {n.name: named[n.input[1]].T for n in graph.node if n.op_type == "MatMul" and n.input[1] in named}
    depth = 1 + max(int(m[1]) for name in named if (m := re.search(r"encoder\.layer\.(\d+)\.", name)))

    prefix = "backbone."
    embed = f"{prefix}embeddings.patch_embeddings.projection"
    d_model = named[f"{prefix}embeddings.cls_token"].shape[-1]
    state = {
        "cls_token": named[f"{prefix}embeddings.cls_token"],
        "pos_embed": np.concatenate(
            [_constant(named, "Concat", 1, d_model), _constant(named, "Reshape", None, d_model)], 1
        ),
        "patch_embed.proj.weight": named[f"{embed}.weight"],
        "patch_embed.proj.bias": named[f"{embed}.bias"],
        "norm.weight": named[f"{prefix}layernorm.weight"],
        "norm.bias": named[f"{prefix}layernorm.bias"],
    }
    for layer in range(depth):
        block = f"{prefix}encoder.layer.{layer}."
        state |= {f"blocks.{layer}.{timm}": named[block + name] for name, timm in KEPT.items()}
        state |= {f"blocks.{layer}.{timm}": _of_node(matmuls, layer, node) for node, timm in MATMULS.items()}
        state[f"blocks.{layer}.attn.qkv.weight"] = np.concatenate(
            [_of_node(matmuls, layer, f"attention/{x}") for x in QKV]
        )
        biases = [named[f"{block}attention.attention.{x}.bias"] for x in QKV]
        state[f"blocks.{layer}.attn.qkv.bias"] = np.concatenate(biases)
    return {name: torch.from_numpy(np.array(value, np.float32, order="C")) for name, value in state.items()}


def _constant(named: dict[str, np.ndarray], op: str, length: int | None, d_model: int) -> np.ndarray:
    """The only folded constant [1, length, d_model] that is an input of an operation of this type."""
    (constant,) = (
        value
        for name, value in named.items()
        if name.startswith(f"onnx::{op}") and value.ndim == 3 and value.shape[2] == d_model
        if (value.shape[1] == length if length else value.shape[1] > 1)
    )
    return constant


def _of_node(matmuls: dict[str, np.ndarray], layer: int, part: str) -> np.ndarray:
    """The weight of the only MatMul of a block whose name ends in `part`."""
    (weight,) = (value for name, value in matmuls.items() if f"layer.{layer}/" in name and f"/{part}/MatMul" in name)
    return weight
