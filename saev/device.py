"""The device of a computation: `auto`, or one of torch's names."""

import re


def check_device(device: str, key: str = "device") -> None:
    """ValueError for an unknown device, or for CUDA on a machine without it; `key` is the setting, for the message."""
    import torch

    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device) is None:
        raise ValueError(f"{key}={device}: choose auto, cpu, cuda or cuda:1.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"{key}={device}: this machine has no CUDA GPU; use {key}=cpu.")


def resolve_device(device: str) -> str:
    """`device`, or for `auto` cuda if there is a GPU, else cpu."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
