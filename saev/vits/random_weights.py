"""A named backbone with new weights: the null of all that is read out of its activations."""

import re
from collections.abc import Callable
from importlib.metadata import version

import torch
from torch import nn

GATE = re.compile(r"(^|\.)gamma(_\d+)?$")  # LayerScale, and its counterparts in EVA, DINOv3, CaiT and ConvNeXt


def with_random_weights(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """The model that `build` makes, its weights drawn from `seed` as its library initialises them; gates of residual branches are 1.

    Libraries start gates at 1e-5 or 0, which suits training: every block would then return its input. The same on every machine for
    one version of torch and of the library.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            last_norm = name.endswith(".weight") and parameter.ndim == 1 and not parameter.any()
            if GATE.search(name) or last_norm:
                parameter.fill_(1)
    return model


def check_seed(random_weights: bool, seed: int) -> None:
    """ValueError for a seed of weights that are not random."""
    if seed and not random_weights:
        raise ValueError(f"vit.seed={seed}: no effect without vit.random_weights=true: add it, or leave vit.seed out.")


def random_identity(seed: int, library: str) -> str:
    """What determines such weights: the seed, and the versions that drew them (`with_random_weights`).

    >>> random_identity(3, "timm")  # doctest: +ELLIPSIS
    'random:3 torch==... timm==...'
    """
    packages = ("torch", {"open_clip": "open_clip_torch"}.get(library, library))
    return " ".join([f"random:{seed}", *(f"{name}=={version(name).partition('+')[0]}" for name in packages)])


def random_name(name: str, seed: int) -> str:
    """The name of a backbone with such weights, in the names of directories.

    >>> random_name("dinov2_vits14", 3)
    'dinov2_vits14-random3'
    """
    return f"{name}-random{seed}"
