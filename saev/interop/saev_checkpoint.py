"""sae.pt of OSU-NLP-Group/saev: a line of JSON, then a torch state dict (W_enc, b_enc, W_dec, b_dec).

| header | configuration | activation | encoder |
|---|---|---|---|
| no "schema" | the header itself: d_vit, exp_factor, ... | ReLU | x - b_dec |
| schema 1, "cls" an activation | "cfg" with top_k | "cls" | x - b_dec until 2025-07-31, then x: the file does not say |
| schema 1, else | "cfg" | "cfg.activation": {cls, params} | the same |
| schema 2 | "cfg" | "cfg.activation" | x |
| schema 3, 4, 5 | "cfg" with d_model, d_sae | "cfg.activation"; BatchTopK has activation.threshold | x |

Runs with scale_mean, scale_norm saw (clamp(x) - mean)/scale; the file holds neither number.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saev.interop.foreign import Equations, ForeignSAE, Options
from saev.interop.rebuilding import Above, Affine, Largest, Rectified, Rule, rebuild
from saev.interop.weights import checked, load_json, load_torch, number_of, positive, refuse_unknown, sha256, tensor_of
from saev.nn import Normaliser

LIBRARY = "saev"
SHAPES = {"W_enc": "d_model d_sae", "b_enc": "d_sae", "W_dec": "d_sae d_model", "b_dec": "d_model"}
THRESHOLD = "activation.threshold"
HEADER = ("schema", "cfg", "cls", "commit", "lib")
CONFIG = (
    "d_vit", "d_model", "exp_factor", "d_sae", "activation", "top_k", "seed", "n_reinit_samples", "reinit_blend",
    "reinit_enc_dec_tranpose", "remove_parallel_grads", "normalize_w_dec", "sparsity_coeff", "l1_coeff", "ghost_grads",
    "use_ghost_grads",
)  # fmt: skip
PARAMS = ("key", "kind", "top_k", "sparsity", "aux", "momentum")
SPLIT = "2025-07-31"  # from this date on the encoder does not subtract b_dec


def read(path: Path, options: Options) -> ForeignSAE:
    """The SAE in a file sae.pt; ValueError where it is damaged, needs an option, or cannot be expressed exactly."""
    data = path.read_bytes()
    header, weights = split(data, str(path))
    cfg = header["cfg"] if "schema" in header else header
    notes = refuse_unknown([*header], HEADER if "schema" in header else CONFIG, str(path), options.ignore_unknown)
    if "schema" in header:
        notes += refuse_unknown([*cfg], CONFIG, f"{path}: cfg", options.ignore_unknown)
    d_model = cfg.get("d_model", cfg.get("d_vit"))
    d_sae = cfg.get("d_sae") or (d_model * cfg["exp_factor"] if d_model and "exp_factor" in cfg else None)
    state = checked(
        load_torch(weights, str(path)), {**SHAPES, THRESHOLD: ""}, {"d_model": d_model, "d_sae": d_sae},
        str(path), optional=[THRESHOLD],
    )  # fmt: skip
    kind, params = activation_of(header, cfg, str(path))
    notes += refuse_unknown([*params], PARAMS, f"{path}: activation {kind}", options.ignore_unknown)
    rule = rule_of(kind, params, header.get("schema"), state, str(path))
    centred = is_centred(header.get("schema"), options.centred, str(path))
    config, clamp = sidecar(path, options)
    mean, scale = scaling(options, state["b_dec"])
    affine = Affine(state["W_enc"], state["b_enc"], state["W_dec"], state["b_dec"], centred)
    if isinstance(rule, Largest):
        notes.append("saev keeps k values though fewer are positive, ours keeps only positive ones")
    if options.mean or options.scale:
        notes.append(f"activations are normalised by the mean and scale given; clamping to +-{clamp:g} is left out")
    elif not config:
        notes.append("no config.json beside it: assumed to be trained on unscaled activations (else: --mean, --scale)")
    files = {path.name: sha256(data)} | ({"config.json": sha256(config)} if config else {})
    sae, code_scale, folded = rebuild(affine, rule, Normaliser(mean, scale))
    return ForeignSAE(
        LIBRARY, f"{kind} (schema {header.get('schema', 'none')})", equations(state, rule, centred, mean, scale, clamp),
        sae, code_scale, header, files, (*notes, *folded),
    )  # fmt: skip


def equations(
    state: Mapping[str, Tensor], rule: Rule, centred: bool, mean: Tensor, scale: Tensor, clamp: float
) -> Equations:
    """saev's forward on these weights. Its TopK keeps the k largest values, also negative ones."""

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        x = (x.double().clamp(-clamp, clamp) - mean.double()) / scale.double()
        h = (x - state["b_dec"] if centred else x) @ state["W_enc"] + state["b_enc"]
        if isinstance(rule, Largest):
            kept = h.topk(rule.k, dim=-1)
            f = torch.zeros_like(h).scatter(-1, kept.indices, kept.values)
        elif isinstance(rule, Above):
            f = torch.where(h > max(float(state[THRESHOLD]), 0.0), h, 0.0)
        else:
            f = h.clamp_min(0)
        return f, (f @ state["W_dec"] + state["b_dec"]) * scale.double() + mean.double()

    return evaluate


def split(data: bytes, where: str) -> tuple[dict[str, Any], bytes]:
    """(header, the state dict's bytes); ValueError where the file does not begin with a line of JSON."""
    line, _, weights = data.partition(b"\n")
    try:
        header = json.loads(line)
        if not isinstance(header, dict) or ("schema" in header and not isinstance(header.get("cfg"), dict)):
            raise ValueError("no configuration in it")
    except ValueError as error:
        raise ValueError(
            f"{where} does not begin with a line of JSON, as saev's sae.pt does ({error}): give another file, or restore it."
        ) from error
    if "schema" in header and header["schema"] not in (1, 2, 3, 4, 5):
        raise ValueError(f"{where} has schema {header['schema']}, known are none and 1 to 5: update saev-lightning.")
    return header, weights


def sidecar(path: Path, options: Options) -> tuple[bytes | None, float]:
    """(config.json of the run where there is one, its clamp); ValueError where it names a scaling whose option is missing."""
    file = path.with_name("config.json")
    if not file.is_file():
        return None, 1e5
    config = load_json(file)
    data = config.get("data") or config.get("train_data") or {}
    for key, option, given in (("scale_mean", "--mean", options.mean), ("scale_norm", "--scale", options.scale)):
        if data.get(key) and not given:
            raise ValueError(
                f"{file} says {key}={data[key]}: the SAE was trained on scaled activations, and the checkpoint does not hold "
                f"the number; give {option} (the training set's mean; or the mean of ||x - mean|| over sqrt(d_model))."
            )
    return file.read_bytes(), float(data.get("clamp", 1e5))


def scaling(options: Options, b_dec: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [d_model], scale []) in float32; 0 and 1 where none are given. ValueError for other shapes or values."""
    mean = torch.zeros_like(b_dec) if options.mean is None else tensor_of(options.mean)
    scale = torch.ones(()) if options.scale is None else number_of(options.scale)
    if mean.shape != b_dec.shape or not torch.isfinite(mean).all():
        raise ValueError(f"--mean {options.mean}: shape {tuple(mean.shape)}, must be {len(b_dec)} finite numbers.")
    if not (math.isfinite(scale.item()) and scale.item() > 0):
        raise ValueError(f"--scale {options.scale}: must be above 0.")
    return mean.float(), scale.float()


def activation_of(header: Mapping[str, Any], cfg: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    """(class name, parameters) of the activation."""
    if "schema" not in header:
        return "Relu", {}
    if header["schema"] == 1 and header.get("cls") in ("Relu", "TopK", "BatchTopK", "JumpRelu"):
        return header["cls"], {"top_k": cfg.get("top_k", 32)} if "TopK" in header["cls"] else {}
    activation = cfg.get("activation", {"cls": "Relu", "params": {}} if header["schema"] == 1 else None)
    if not isinstance(activation, Mapping) or "cls" not in activation:
        raise ValueError(f"{where}: cfg.activation={activation} has no class: restore the file.")
    return activation["cls"], activation.get("params", {})


def rule_of(kind: str, params: Mapping[str, Any], schema: int | None, state: Mapping[str, Tensor], where: str) -> Rule:
    """The map from pre-activations to codes; ValueError where it depends on the batch or is not known."""
    if THRESHOLD in state and kind != "BatchTopK":
        raise ValueError(f"{where}: {kind} has no {THRESHOLD}: the header and the weights do not belong together.")
    if kind == "Relu":
        return Rectified()
    d_sae = len(state["b_enc"])
    if kind not in ("TopK", "BatchTopK"):
        raise ValueError(
            f"{where}: activation {kind} cannot be converted: Relu, TopK and BatchTopK have a counterpart here."
        )
    k = min(positive(params.get("top_k", 32), "top_k", where), d_sae)
    if kind == "TopK" or (schema == 2 and THRESHOLD not in state):
        return Largest(k)  # BatchTopK of schema 2 chose per token
    if THRESHOLD not in state:
        raise ValueError(
            f"{where}: BatchTopK of schema {schema} without {THRESHOLD} chooses over the whole batch, so a token's codes depend "
            "on the others: it cannot be converted; retrain it, or save it with a saev that keeps a threshold (schema 4, 5)."
        )
    return Above(state[THRESHOLD].expand(d_sae), k)


def is_centred(schema: int | None, option: bool | None, where: str) -> bool:
    """Whether the encoder subtracts b_dec; ValueError where neither the file nor the option says."""
    known = {None: True, 1: None}.get(schema, False)
    if known is None and option is None:
        raise ValueError(
            f"{where} has schema 1, which does not say whether the encoder subtracts b_dec: give --centred-encoder yes where it "
            f"was trained before {SPLIT}, else no (with --check RECORDING the right one has the lower NMSE by far)."
        )
    if known is not None and option is not None and option != known:
        raise ValueError(
            f"--centred-encoder {'yes' if option else 'no'}: {where} has {'no schema' if schema is None else f'schema {schema}'}, "
            f"whose encoder {'subtracts' if known else 'does not subtract'} b_dec: leave the option out."
        )
    return bool(option if known is None else known)
