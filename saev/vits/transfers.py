"""Copies between the CPU and the device of a backbone, which forward passes on a GPU do not wait for.

    pixels -> pinned memory --upload stream--> forward, narrow --download stream--> pinned memory -> NumPy
On a CPU there is nothing to copy, and values are narrowed where they are computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

ByLayer = dict[int, Float[np.ndarray, "batch tokens d_model"]]


@dataclass(frozen=True)
class HostCopy:
    """Activations on their way to the CPU; `device_values` are kept in case that some do not fit the narrow dtype."""

    device_values: Mapping[int, Tensor]
    narrowed: Mapping[int, Tensor]
    """In the narrow dtype, in the CPU's memory."""
    fits: Bool[Tensor, " layers"] | None
    copied: Any
    """A torch.cuda.Event; None where nothing had to be copied."""

    def arrays(self) -> ByLayer:
        """Wait for the copy; the values in the narrow dtype, or in float32 where some do not fit it."""
        if self.copied is None or self.fits is None:
            return {layer: value.numpy() for layer, value in self.narrowed.items()}
        self.copied.synchronize()
        fits = dict(zip(self.narrowed, self.fits.tolist(), strict=True))
        return {
            layer: (value if fits[layer] else self.device_values[layer].float().cpu()).numpy()
            for layer, value in self.narrowed.items()
        }


@dataclass(frozen=True)
class Upload:
    """A batch of images on the device, once the event `copied` is reached; None where nothing had to be copied."""

    batch: Float[Tensor, "batch 3 height width"]
    copied: Any

    def wait(self) -> Float[Tensor, "batch 3 height width"]:
        """The batch, for which the kernels of the current stream wait."""
        if self.copied is not None:
            computing = torch.cuda.current_stream(self.batch.device)
            computing.wait_event(self.copied)
            self.batch.record_stream(computing)  # its memory is not reused before the forward pass has read it
        return self.batch


class Transfers:
    """Copies to and from `device`, on a GPU in streams of their own."""

    def __init__(self, device: torch.device):
        self.device, self.on_gpu = device, device.type == "cuda"
        if self.on_gpu:
            self.uploading, self.downloading = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def upload(self, pixels: Sequence[Float[Tensor, "3 height width"]]) -> Upload:
        """Images of one size as a batch on the device, perhaps still being copied; may run in a thread."""
        host = torch.empty((len(pixels), *pixels[0].shape), pin_memory=self.on_gpu)
        np.stack([image.numpy() for image in pixels], out=host.numpy())  # torch would use its threads, which compute
        if not self.on_gpu:
            return Upload(host, None)
        with torch.cuda.stream(self.uploading):
            batch, copied = host.to(self.device, non_blocking=True), torch.cuda.Event()
            copied.record()
        return Upload(batch, copied)

    def download(self, acts: Mapping[int, Tensor], dtype: torch.dtype) -> HostCopy:
        """Start copying activations, in `dtype` if they fit it; on a GPU without waiting for the kernels that compute them."""
        if not self.on_gpu:
            return HostCopy({}, {layer: narrow(value, dtype) for layer, value in acts.items()}, None, None)
        narrowed = {layer: value.to(dtype) for layer, value in acts.items()}
        fits = torch.stack([within(value, dtype) for value in acts.values()])
        self.downloading.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.downloading):
            host = {layer: pinned_copy(value) for layer, value in narrowed.items()}
            host_fits = pinned_copy(fits)
            copied = torch.cuda.Event()
            copied.record()
        for value in (*narrowed.values(), fits):
            value.record_stream(self.downloading)
        return HostCopy(dict(acts), host, host_fits, copied)


def pinned_copy(value: Tensor) -> Tensor:
    """A copy of `value` in pinned memory, started in the current stream."""
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)


def within(value: Float[Tensor, "*any"], dtype: torch.dtype) -> Bool[Tensor, ""]:
    """Whether no value is NaN or beyond the range of dtype; always where it has that dtype already."""
    if value.dtype == dtype:
        return torch.ones((), dtype=torch.bool, device=value.device)
    return value.abs().amax().float() <= torch.finfo(dtype).max  # False for NaN; in bfloat16 65504 would be 65536


def narrow(value: Float[Tensor, "*any"], dtype: torch.dtype) -> Float[Tensor, "*any"]:
    """`value` in dtype if it fits (half the bytes to move), else in float32, so that the writer reports the overflow."""
    if value.dtype == dtype:
        return value
    value = value.float()
    return value.to(dtype) if within(value, dtype) else value
