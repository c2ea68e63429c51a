"""Bounds of numbers and choices of names in a configuration of `saev train` or `saev fit`; types are schema.py's."""

from omegaconf import DictConfig, OmegaConf

from saev.nn.normalise import MODES
from saev.nn.settings import Centre, Init
from saev.ops.paths import CHOICES as PRODUCTS
from saev.settings import choices
from saev.shards.reader import ROLES

# key -> (lowest, highest) of the values allowed; None: no bound. A value of null means that the key is not used.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "batch_size": (1, None),
    "n_tokens": (1, None),
    "subset_tokens": (1, None),
    "log_every": (1, None),
    "val_every": (1, None),
    "warmup": (0, None),
    "decay": (0, 1),
    "clip": (1e-12, None),
    "sparsity_warmup": (0, 1),
    "lr": (1e-12, None),
    "l0_target": (1e-6, None),
    "d_sae": (1, None),
    "expansion": (1e-6, None),
    "dead_tokens": (1, None),
    "n_latents": (1, None),
    "passes": (1, None),
    "save_every_s": (0, None),
    "probe.images": (2, None),
    "probe.tokens": (2, None),
}
CHOICES = {
    "normalise": MODES,
    "init": choices(Init),
    "b_dec": choices(Centre),
    "tokens": tuple(ROLES),
    "products": PRODUCTS,
    "matmul_precision": ("highest", "high", "medium"),
}


def check_values(cfg: DictConfig) -> None:
    """Numbers within their bounds, choices among those there are."""
    for key, (low, high) in BOUNDS.items():
        value = OmegaConf.select(cfg, key)  # each verb has some of them
        if value is not None and not ((low is None or value >= low) and (high is None or value <= high)):
            bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
            raise ValueError(
                f"{key}={value}: give a number that is {bounds}{' (clip=1e9: none)' if key == 'clip' else ''}."
            )
    for key, allowed in CHOICES.items():
        if key in cfg and cfg[key] not in allowed:
            raise ValueError(f"{key}={cfg[key]}: choose one of {', '.join(allowed)}.")
