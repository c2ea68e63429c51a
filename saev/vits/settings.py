"""How activations are recorded; no torch here, so that the command line's --help stays fast."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

from saev.settings import bounded, check


@dataclasses.dataclass(frozen=True)
class RecordSettings:
    """Settings of `saev.record`.

    Args:
        hook: point of the block that is recorded (see saev.vits.backbone).
        tokens: any of cls, registers, patches.
        dtype: float16, float32 where values exceed 65504, or int8 (standardised per channel, a scale per token).
        order: images in a seeded random order, so that sequential reading mixes classes, or sorted.
        batch_size: images per forward pass.
        n_workers: decoding threads or processes; None: one per core, at most 16.
        decoding: threads, or processes, which pay from about 3,000 images/s on.
        shard_mb: size of a tar file.
        on_error: skip and list unreadable images, or stop.
        part: i/n records the i-th of n parts, so that n jobs divide the work.
        device: auto (cuda where there is one), cpu, cuda, cuda:1.
        autocast: precision on CUDA; False: float32.
        compile: compile the backbone's blocks (torch.compile), once per number of images in a pass.
    """

    hook: Literal["resid_post", "resid_pre", "attn", "mlp", "norm"] = "resid_post"
    tokens: Sequence[str] | str = ("patches",)
    dtype: Literal["float16", "float32", "int8"] = "float16"
    order: Literal["shuffled", "sorted"] = "shuffled"
    seed: int = 0
    batch_size: int = bounded(32, at_least=1)
    n_workers: int | None = bounded(None, at_least=1)
    decoding: Literal["threads", "processes"] = "threads"
    shard_mb: float = bounded(128, above=0)
    on_error: Literal["skip", "stop"] = "skip"
    part: str = "0/1"
    device: str = "auto"
    autocast: Literal["bfloat16", "float16", False] = "bfloat16"
    compile: bool = False

    def __post_init__(self):
        check(self, "record.")
