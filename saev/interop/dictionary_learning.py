"""ae.pt and config.json of saprmarks/dictionary_learning: a torch state dict, and trainer.dict_class that names its equations.

    AutoEncoder             f = relu((x - bias) @ E' + e) ;  x_hat = f @ D' + bias                  E, e, D: encoder, decoder
    AutoEncoderNew          f = relu(x @ E' + e) ;           x_hat = f @ D' + decoder.bias
    GatedAutoEncoder        h = (x - decoder_bias) @ E' ;    f = [h + gate_bias > 0] relu(exp(r_mag) h + mag_bias)
    AutoEncoderTopK         f = the k largest of relu((x - b_dec) @ E' + e)
    BatchTopKSAE            f = relu(h) [relu(h) > threshold], h = (x - b_dec) @ E' + e; -1: no threshold was learned
    MatryoshkaBatchTopKSAE  the same with W_enc, b_enc, W_dec
    JumpReluAutoEncoder     f = relu(h [h > threshold]), h = x @ W_enc + b_enc

Codes are those before the library's versions multiply them by decoder norms (and divide again before they decode).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saev.interop.foreign import Equations, ForeignSAE, Options
from saev.interop.rebuilding import Above, Affine, Gate, Largest, Rectified, Rule, rebuild
from saev.interop.weights import checked, load_json, load_torch, positive, sha256

LIBRARY = "dictionary_learning"
LINEAR = {"encoder.weight": "d_sae d_model", "encoder.bias": "d_sae", "decoder.weight": "d_model d_sae"}
PARAMETERS = {"W_enc": "d_model d_sae", "b_enc": "d_sae", "W_dec": "d_sae d_model", "b_dec": "d_model"}
TOPK_BUFFERS = {"k": "", "threshold": ""}
SHAPES = {
    "AutoEncoder": {**LINEAR, "bias": "d_model"},
    "AutoEncoderNew": {**LINEAR, "decoder.bias": "d_model"},
    "GatedAutoEncoder": {
        "encoder.weight": LINEAR["encoder.weight"], "decoder.weight": LINEAR["decoder.weight"],
        "decoder_bias": "d_model", "r_mag": "d_sae", "gate_bias": "d_sae", "mag_bias": "d_sae",
    },
    "AutoEncoderTopK": {**LINEAR, "b_dec": "d_model", **TOPK_BUFFERS},
    "BatchTopKSAE": {**LINEAR, "b_dec": "d_model", **TOPK_BUFFERS},
    "MatryoshkaBatchTopKSAE": {**PARAMETERS, **TOPK_BUFFERS, "group_sizes": "groups"},
    "JumpReluAutoEncoder": {**PARAMETERS, "threshold": "d_sae"},
}  # fmt: skip
OPTIONAL = {"AutoEncoderTopK": ("k", "threshold")}  # buffers that its first versions did not have
OFFSET = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
PLAIN = ("AutoEncoderNew", "JumpReluAutoEncoder")  # their encoders do not subtract the decoder's bias


def read(path: Path, options: Options) -> ForeignSAE:
    """The dictionary in a file ae.pt with its config.json beside it or one folder up.

    Like the library's `from_pretrained` it uses the class, k and the weights; the rest of config.json is kept.
    """
    file = next((f for at in path.parents[:2] if (f := at / "config.json").is_file()), None)
    if file is None:
        raise ValueError(f"{path} has no config.json beside it or one folder up, which names its class: restore it.")
    config = load_json(file)
    trainer = config.get("trainer")
    if not isinstance(trainer, Mapping) or "dict_class" not in trainer:
        raise ValueError(f"{file} has no trainer.dict_class: give a dictionary saved by dictionary_learning.")
    name = trainer["dict_class"]
    if name not in SHAPES:
        raise ValueError(f"{file}: trainer.dict_class={name} cannot be converted: {', '.join(SHAPES)} can.")
    data = path.read_bytes()
    sizes = {"d_model": trainer.get("activation_dim"), "d_sae": trainer.get("dict_size")}
    w = checked(load_torch(data, str(path)), SHAPES[name], sizes, str(path), OPTIONAL.get(name, ()))
    k = k_of(name, w, trainer, f"{file}: trainer")
    notes = []
    if name == "AutoEncoderTopK" and (threshold := float(w.get("threshold", -1.0))) > 0:
        notes.append(f"threshold={threshold:g} is left out: the library's encode uses it only when asked to")
    if name == "MatryoshkaBatchTopKSAE":
        notes.append(f"groups of {w['group_sizes'].int().tolist()} latents, all of them active")
    files = {path.name: sha256(data), file.name: sha256(file.read_bytes())}
    sae, scale, folded = rebuild(affine_of(name, w), rule_of(name, w, k))
    return ForeignSAE(LIBRARY, name, equations(name, w, k), sae, scale, config, files, (*notes, *folded))


def equations(name: str, w: Mapping[str, Tensor], k: int) -> Equations:
    """The class's encode and decode on these weights, as in the module's docstring."""

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.double()
        if "W_enc" in w:
            h = (x if name == "JumpReluAutoEncoder" else x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
            threshold = w["threshold"]
            f = (h * (h > threshold)).relu() if name == "JumpReluAutoEncoder" else h.relu() * (h.relu() > threshold)
            return f, f @ w["W_dec"] + w["b_dec"]
        offset = w[OFFSET.get(name, "b_dec")]
        h = (x if name == "AutoEncoderNew" else x - offset) @ w["encoder.weight"].T
        if name == "GatedAutoEncoder":
            f = (h + w["gate_bias"] > 0) * (w["r_mag"].exp() * h + w["mag_bias"]).relu()
        else:
            f = (h + w["encoder.bias"]).relu()
        if name == "AutoEncoderTopK":
            values, indices = f.topk(k, dim=-1)
            f = torch.zeros_like(f).scatter(-1, indices, values)
        elif name == "BatchTopKSAE":
            f = f * (f > w["threshold"])
        return f, f @ w["decoder.weight"].T + offset

    return evaluate


def affine_of(name: str, w: Mapping[str, Tensor]) -> Affine:
    """Encoder and decoder, oriented as ours."""
    centred = name not in PLAIN
    if "W_enc" in w:
        return Affine(w["W_enc"], w["b_enc"], w["W_dec"], w["b_dec"], centred)
    b_enc = w.get("encoder.bias", torch.zeros(len(w["encoder.weight"]), dtype=torch.float64))
    return Affine(w["encoder.weight"].T, b_enc, w["decoder.weight"].T, w[OFFSET.get(name, "b_dec")], centred)


def rule_of(name: str, w: Mapping[str, Tensor], k: int) -> Rule:
    """The map from pre-activations to codes."""
    match name:
        case "AutoEncoder" | "AutoEncoderNew":
            return Rectified()
        case "GatedAutoEncoder":
            return Gate(w["r_mag"], w["gate_bias"], w["mag_bias"])
        case "AutoEncoderTopK":
            return Largest(k)
        case "JumpReluAutoEncoder":
            return Above(w["threshold"])
        case _:
            d_sae = len(w.get("b_enc", w.get("encoder.bias", torch.empty(0))))
            return Above(w["threshold"].expand(d_sae), k)


def k_of(name: str, w: Mapping[str, Tensor], trainer: Mapping[str, Any], where: str) -> int:
    """k of the classes that have one, else 0; ValueError where config.json and the weights differ."""
    if "k" not in SHAPES[name]:
        return 0
    configured = trainer.get("k")
    k = positive(configured if "k" not in w else w["k"].item(), "k", where)
    if configured is not None and k != configured:
        raise ValueError(f"{where}.k={configured}, the weights have k={k}: they do not belong together.")
    return k
