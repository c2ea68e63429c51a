"""A backbone that computes nothing at a set speed, as a GPU would, and photos in memory: what a recording does beside it."""

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from goals import Row
from jaxtyping import Float
from PIL import Image
from recording_times import print_steps, record, times
from torch import Tensor

from saev.images.opening import open_rgb
from saev.images.source import ImageSource
from saev.vits import MicroVit, Recording
from saev.vits.backbone import Backbone

DISTINCT = 64  # images
STUBS = {64: 400, 128: 400, 256: 300, 512: 200}  # images/s by KB of activations an image


@dataclass(kw_only=True)
class StubImages(ImageSource):
    """`n` JPEGs of `size` x `size` pixels, decoded out of memory."""

    n: int
    size: int
    name: str = "stub"

    @property
    def kind(self) -> str:
        return "stub"

    def check(self) -> None:
        pass

    def paths(self) -> list[str]:
        return self._paths

    @cached_property
    def _paths(self) -> list[str]:
        return [f"{i:07d}.jpg" for i in range(self.n)]

    @cached_property
    def _files(self) -> list[bytes]:
        rng, files = np.random.default_rng(0), []
        for _ in range(DISTINCT):
            small = Image.fromarray(rng.integers(0, 256, (self.size // 8, self.size // 8, 3), dtype=np.uint8))
            small.resize((self.size, self.size), Image.Resampling.BICUBIC).save(
                file := io.BytesIO(), "jpeg", quality=90
            )
            files.append(file.getvalue())
        return files

    def digest(self) -> str:
        return "0" * 64

    def open(self, index: int) -> Image.Image:
        return open_rgb(self._files[index % DISTINCT], "stub")

    def labels(self, index: int) -> dict[str, str | int]:
        return {}


class StubBackbone(Backbone):
    """Activations of a set size at `rate` images/s: a call returns at once unless the previous one is still computed."""

    def __init__(self, real: Backbone, rate: float):
        super().__init__(real.name, real.trunk, real.anatomy, real.transform)
        self.rate, self.ready, self.n_images = rate, 0.0, 0
        self.values: Tensor | None = None

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], layers: Sequence[int], hook: str = "resid_post"
    ) -> dict[int, Float[Tensor, "batch tokens d_model"]]:
        if self.values is None or len(self.values) < len(images):
            shape = (len(images), self.n_cls + self.n_registers + self.n_patches, self.d_model)
            self.values = torch.randn(shape).half()
        time.sleep(max(0.0, self.ready - time.perf_counter()))
        self.ready = max(self.ready, time.perf_counter()) + len(images) / self.rate
        self.n_images += len(images)
        return dict.fromkeys(layers, self.values[: len(images)])

    def finish(self) -> None:
        """Wait for the last call."""
        time.sleep(max(0.0, self.ready - time.perf_counter()))


@dataclass(kw_only=True)
class StubVit(MicroVit):
    """`MicroVit`, computed by a StubBackbone."""

    rate: float

    def load(self, device: str = "cpu") -> StubBackbone:
        return StubBackbone(super().load(device), self.rate)

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"rate": self.rate}


def stub_vit(kilobytes: int, rate: float) -> StubVit:
    """One with so many KB of float16 activations an image (64, 128, 256 or 512), at 16 pixels a patch."""
    tokens, d_model = {64: (64, 512), 128: (64, 1024), 256: (256, 512), 512: (256, 1024)}[kilobytes]
    return StubVit(img_size=16 * int(tokens**0.5), patch_size=16, depth=1, d_model=d_model, cls_token=False, rate=rate)


def record_stub(root: str, kilobytes: int, rate: float, n: int) -> float:
    """Seconds of recording n images."""
    vit = stub_vit(kilobytes, rate)
    recording = Recording(StubImages(n=n, size=vit.img_size), vit, 0, root, device="cpu")
    recording_pass = recording.recording_pass()
    assert isinstance(recording_pass.backbone, StubBackbone)
    recording_pass.loader(0)  # makes the files
    return record(recording, recording_pass, recording_pass.backbone.finish)


def stub_rows(root: str, seconds: float) -> list[Row]:
    """Rates of recording beside those of the stub."""
    rows = []
    for kilobytes, rate in STUBS.items():
        record_stub(root, kilobytes, rate, 64)  # warms up
        with times() as steps:
            spent = record_stub(root, kilobytes, rate, n := int(seconds * rate))
        print_steps(steps, spent)
        ratio = n / rate / spent
        rows.append((f"{kilobytes} KB an image, stub of {rate} images/s", f"{ratio:.3f}", "0.95", ratio >= 0.95))
    return rows
