"""cfg.json of SAELens, in any version: the keys that determine what an SAE computes, and those that do not."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from saev.interop.weights import positive, refuse_unknown

ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", "batchtopk", "matryoshka_batchtopk")
RENAMED = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "hook_point_layer": "hook_layer",
           "activation_fn_str": "activation_fn"}  # fmt: skip
FUNCTION_KEYS = (
    "architecture", "d_in", "d_sae", "k", "activation_fn", "activation_fn_kwargs", "apply_b_dec_to_input",
    "normalize_activations", "reshape_activations", "finetuning_scaling_factor", "rescale_acts_by_decoder_norm",
)  # fmt: skip
# The backbone, the data and the training: they do not change what the saved SAE computes.
OTHER_KEYS = (
    "dtype", "device", "metadata", "model_name", "model_class_name", "model_from_pretrained_kwargs", "hook_name",
    "hook_layer", "hook_head_index", "hook_name_out", "hook_head_index_out", "prepend_bos", "exclude_special_tokens",
    "context_size", "seqpos_slice", "dataset_path", "dataset_trust_remote_code", "neuronpedia_id", "sae_lens_version",
    "sae_lens_training_version", "l1_coefficient", "lp_norm", "l1_warm_up_steps", "use_ghost_grads",
    "normalize_sae_decoder", "noise_standard_deviation", "decoder_orthogonal_init", "mse_loss_normalization",
    "decoder_heuristic_init", "decoder_heuristic_init_norm", "init_encoder_as_decoder_transpose", "decoder_init_norm",
    "scale_sparsity_penalty_by_decoder_norm", "b_dec_init_method", "jumprelu_init_threshold", "jumprelu_bandwidth",
    "jumprelu_sparsity_loss_mode", "jumprelu_tanh_scale", "l0_coefficient", "l0_warm_up_steps",
    "pre_act_loss_coefficient", "aux_loss_coefficient", "use_sparse_activations", "topk_threshold_lr",
    "matryoshka_widths", "use_matryoshka_aux_loss",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class FunctionSettings:
    """The settings that determine what an SAE computes."""

    architecture: str
    d_in: int
    d_sae: int
    k: float  # latents per token, on average for batchtopk; 0 where there is none
    apply_b_dec_to_input: bool
    rescale: bool  # pre-activations are multiplied by the norms of W_dec's rows before they are selected
    normalize: str
    finetuned: bool
    notes: tuple[str, ...]


def function_settings(config: Mapping[str, Any], where: str, ignore_unknown: bool) -> FunctionSettings:
    """The settings in a cfg.json, old names and defaults included; ValueError for what cannot be expressed here."""
    cfg = {RENAMED.get(key, key): value for key, value in config.items()}
    notes = refuse_unknown([*cfg], [*FUNCTION_KEYS, *OTHER_KEYS], where, ignore_unknown)
    architecture, function = cfg.get("architecture", "standard"), cfg.get("activation_fn", "relu")
    kwargs = cfg.get("activation_fn_kwargs") or {}
    if architecture == "standard" and function == "topk":  # as versions before 6 wrote it
        architecture, cfg["k"] = "topk", kwargs.get("k")
    elif function not in ("relu", "topk") or (function == "topk" and architecture != "topk") or {*kwargs} - {"k"}:
        raise ValueError(
            f"{where}: activation_fn={function} with {kwargs} and architecture={architecture} has no counterpart here: relu and "
            "topk have."
        )
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{where}: architecture={architecture} cannot be converted: {', '.join(ARCHITECTURES)} can.")
    reshape = cfg.get("reshape_activations") or "none"
    if reshape not in ("none", "hook_z"):
        raise ValueError(f"{where}: reshape_activations={reshape} is not known: none and hook_z are.")
    if reshape == "hook_z":
        notes.append(
            "reshape_activations=hook_z: give activations with the heads side by side, [batch, heads * d_head]"
        )
    return FunctionSettings(
        architecture,
        positive(cfg.get("d_in", 0), "d_in", where),
        positive(cfg.get("d_sae", 0), "d_sae", where),
        k_of(cfg, architecture, where),
        bool(cfg.get("apply_b_dec_to_input", True)),
        bool(cfg.get("rescale_acts_by_decoder_norm", False)) and "topk" in architecture,
        normalisation(cfg.get("normalize_activations"), where),
        bool(cfg.get("finetuning_scaling_factor", False)),
        tuple(notes),
    )


def k_of(cfg: Mapping[str, Any], architecture: str, where: str) -> float:
    """k of topk, a positive integer; of batchtopk any positive number; 0 for the others.

    An SAE saved as jumprelu may have been trained as batchtopk: the metadata keeps its k.
    """
    if architecture == "topk":
        return positive(cfg.get("k"), "k", where)
    if "batchtopk" in architecture:
        k = cfg.get("k")
        if not isinstance(k, int | float) or not k > 0:
            raise ValueError(f"{where}: k={k} is not a positive number: restore the file.")
        return k
    if architecture == "jumprelu":
        about = cfg.get("metadata") or {}
        ours = (about.get("saev_lightning") or {}).get("sparsifier") or {}
        trained, details = about.get("training_architecture"), about.get("training_architecture_details") or {}
        k = ours.get("k") if ours.get("kind") == "batchtopk" else details.get("k") if "batchtopk" in str(trained) else 0
        return k if isinstance(k, int | float) and k > 0 else 0
    return 0


def normalisation(value: Any, where: str) -> str:
    """none or expected_average_only_in; ValueError for normalisation per token."""
    known = {None: "none", False: "none", True: "expected_average_only_in"}  # as early versions wrote it
    mode = known.get(value, value) if value is None or isinstance(value, bool) else value
    if mode not in ("none", "expected_average_only_in"):
        raise ValueError(
            f"{where}: normalize_activations={mode} divides each token by its own norm or deviation; an SAE here has one mean "
            "and one scale for all tokens, so it cannot be converted."
        )
    return mode
