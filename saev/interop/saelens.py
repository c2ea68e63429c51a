"""sae_weights.safetensors and cfg.json of SAELens, versions 2 to 6.

x_in = x - [apply_b_dec_to_input] b_dec ;  h = x_in @ W_enc + b_enc ;  x_hat = f @ W_dec + b_dec
standard   f = relu(h)
topk       f = relu of the k largest h; with rescale_acts_by_decoder_norm of h ||w_dec||, divided again by that before decoding
jumprelu   f = relu(h) [h > relu(threshold)]
gated      f = [x_in @ W_enc + b_gate > 0] relu(x_in @ (W_enc exp(r_mag)) + b_mag)
batchtopk, matryoshka_batchtopk   training checkpoints; saved for use as jumprelu of threshold topk_threshold
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from saev.interop.foreign import Equations, ForeignSAE, Options
from saev.interop.rebuilding import Above, Affine, Gate, Largest, Rebuilt, Rectified, Rule, rebuild
from saev.interop.saelens_config import FunctionSettings, function_settings
from saev.interop.weights import checked, load_json, number_of, sha256, unread_files
from saev.nn import Normaliser

LIBRARY = "SAELens"
WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
AFFINE = {"W_enc": "d_model d_sae", "b_enc": "d_sae", "W_dec": "d_sae d_model", "b_dec": "d_model"}
SHAPES = {
    **dict.fromkeys(("standard", "topk"), AFFINE),
    "jumprelu": {**AFFINE, "threshold": "d_sae"},
    "gated": {name: shape for name, shape in AFFINE.items() if name != "b_enc"}
    | dict.fromkeys(("b_gate", "r_mag", "b_mag"), "d_sae"),
    **{key: {**AFFINE, "topk_threshold": ""} for key in ("batchtopk", "matryoshka_batchtopk")},
}
FACTORS = ("scaling_factor", "finetuning_scaling_factor")  # of codes, before decoding (version 3 to 5)


def read(folder: Path, options: Options) -> ForeignSAE:
    """The SAE saved in a folder; ValueError where it is damaged, needs an option, or cannot be expressed exactly."""
    config = load_json(folder / CONFIG)
    settings = function_settings(config, str(folder / CONFIG), options.ignore_unknown)
    data = (folder / WEIGHTS).read_bytes()
    try:
        state = load(data)
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} cannot be read ({error}): restore it.") from error
    if "log_threshold" in state and settings.architecture == "jumprelu":  # training checkpoints before 6.44
        state["threshold"] = state.pop("log_threshold").double().exp()
    shapes = SHAPES[settings.architecture] | dict.fromkeys(FACTORS, "d_sae")
    sizes = {"d_model": settings.d_in, "d_sae": settings.d_sae}
    weights = checked(state, shapes, sizes, str(folder / WEIGHTS), optional=FACTORS)
    factor = factor_of(weights, settings, str(folder))
    gain = gain_of(settings, options, str(folder / CONFIG))
    files = {WEIGHTS: sha256(data), CONFIG: sha256((folder / CONFIG).read_bytes())}
    sae, scale, folded = rebuilt(weights, settings, factor, gain)
    return ForeignSAE(
        LIBRARY, settings.architecture, equations(weights, settings, factor, gain), sae, scale, config, files,
        (*settings.notes, *unread_files(folder, files), *folded),
    )  # fmt: skip


def equations(weights: Mapping[str, Tensor], settings: FunctionSettings, factor: Tensor, gain: float) -> Equations:
    """SAELens' encode and decode on these weights; activations are multiplied by `gain` and divided again."""
    w, norm = weights, weights["W_dec"].norm(dim=-1)

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        x_in = x.double() * gain - w["b_dec"] * settings.apply_b_dec_to_input
        if settings.architecture == "gated":
            active = x_in @ w["W_enc"] + w["b_gate"] > 0
            f = active * (x_in @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu()
            return f, ((f * factor) @ w["W_dec"] + w["b_dec"]) / gain
        h = x_in @ w["W_enc"] + w["b_enc"]
        if settings.rescale:
            h = h * norm
        if settings.architecture == "topk":
            values, indices = h.topk(int(settings.k), dim=-1)
            f = torch.zeros_like(h).scatter(-1, indices, values.relu())
        elif settings.architecture == "standard":
            f = h.relu()
        else:
            threshold = w["threshold"] if "threshold" in w else w["topk_threshold"]
            f = h.relu() * (h > threshold.relu())
        decoded = f / norm if settings.rescale else f
        return f, ((decoded * factor) @ w["W_dec"] + w["b_dec"]) / gain

    return evaluate


def rebuilt(weights: Mapping[str, Tensor], settings: FunctionSettings, factor: Tensor, gain: float) -> Rebuilt:
    """The same function as one of ours; with rescaling by the decoder's norms, these are folded into the encoder first."""
    w, centred = weights, settings.apply_b_dec_to_input
    norm = w["W_dec"].norm(dim=-1) if settings.rescale else torch.ones_like(factor)
    b_enc = w["b_enc"] * norm if "b_enc" in w else torch.zeros_like(factor)
    w_dec = w["W_dec"] * (factor / norm)[:, None]
    affine = Affine(w["W_enc"] * norm, b_enc, w_dec, w["b_dec"], centred)
    normaliser = Normaliser(torch.zeros_like(w["b_dec"]), torch.tensor(1 / gain))
    return rebuild(affine, rule_of(w, settings), normaliser)


def rule_of(weights: Mapping[str, Tensor], settings: FunctionSettings) -> Rule:
    """The map from pre-activations to codes."""
    match settings.architecture:
        case "standard":
            return Rectified()
        case "topk":
            return Largest(int(settings.k))
        case "gated":
            return Gate(weights["r_mag"], weights["b_gate"], weights["b_mag"])
        case _:
            k = int(settings.k) if settings.k and settings.k == int(settings.k) else None  # 12.5 on average: JumpReLU
            threshold = weights["threshold"] if "threshold" in weights else weights["topk_threshold"]
            return Above(threshold.expand(len(weights["b_enc"])), k)


def factor_of(weights: Mapping[str, Tensor], settings: FunctionSettings, where: str) -> Tensor:
    """The factor of codes before decoding; ValueError where the weights have one and the configuration says there is none."""
    factor = next((weights[name] for name in FACTORS if name in weights), None)
    one = torch.ones(weights["W_dec"].shape[0], dtype=torch.float64)
    if factor is None or torch.allclose(factor, one):
        return one
    if not settings.finetuned:
        raise ValueError(
            f"{where}: the weights hold a scaling_factor, {CONFIG} says finetuning_scaling_factor=false: SAELens refuses it too; "
            "correct one of them."
        )
    return factor


def gain_of(settings: FunctionSettings, options: Options, where: str) -> float:
    """The factor of activations before encoding; ValueError where it is needed and not given, or given and not needed."""
    needed = settings.normalize == "expected_average_only_in"
    if needed and options.scale is None:
        raise ValueError(
            f"{where} has normalize_activations=expected_average_only_in, whose factor is not in the file: give --scale "
            "(sqrt(d_in) over the mean norm of the training activations), or let SAELens fold it and save again."
        )
    if options.scale is not None and not needed:
        raise ValueError(f"--scale {options.scale}: {where} has normalize_activations=none; leave the option out.")
    gain = float(number_of(options.scale)) if options.scale else 1.0
    if not 0 < gain < float("inf"):
        raise ValueError(f"--scale {options.scale}: must be above 0.")
    return gain
