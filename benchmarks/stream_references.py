"""What the stream is measured against: memory itself, webdataset used plainly, and a shuffle of one row at a time."""

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import webdataset as wds
from jaxtyping import Shaped

from saev.shards import RecordingWriter

TOKENS, D_MODEL, BATCH = 256, 1024, 16384
BASE = 1024  # example numbers are written into the rows as two digits, exact in float16


def acts_of(example: int, base: np.ndarray) -> Shaped[np.ndarray, "tokens d_model"]:
    """The activations of an image: noise, with the image's number and the token's in the first three channels."""
    acts = base.copy()
    acts[:, 0], acts[:, 1], acts[:, 2] = example // BASE, example % BASE, np.arange(TOKENS)
    return acts


def identify(acts: Shaped[np.ndarray, "batch d_model"]) -> tuple[np.ndarray, np.ndarray]:
    """(example, token) as the rows themselves say."""
    digits = acts[:, :3].astype(np.int64)
    return digits[:, 0] * BASE + digits[:, 1], digits[:, 2]


def record(root: Path, n_images: int, shard_mb: float = 128, dtype: str = "float16") -> Path:
    """A recorded dataset of `n_images` x 256 tokens x 1024 float16 values; made once."""
    if (root / "manifest.json").is_file():
        return root
    base = np.random.default_rng(0).normal(size=(TOKENS, D_MODEL)).astype(np.float16)
    per_shard = max(1, int(shard_mb * 1e6) // base.nbytes)
    writer = RecordingWriter(
        root, {"images": "synthetic"}, n_images, per_shard, [0], {"patches": TOKENS}, D_MODEL, dtype
    )
    for i in writer.pending():
        with writer.shard(i) as shard:
            for example in writer.examples_of(i):
                shard.add(example, {0: acts_of(example, base)}, {"path": str(example)})
    writer.finish()
    return root


class Gather:
    """Rows of an array in memory in random order into a buffer that is used again: no stream can be faster."""

    def __init__(self, n_tokens: int):
        rng = np.random.default_rng(0)
        self.rows = np.empty((n_tokens, D_MODEL), np.float16)
        self.rows[:] = rng.normal(size=D_MODEL)
        self.order, self.out = rng.permutation(n_tokens), np.empty((BATCH, D_MODEL), np.float16)

    def batches(self) -> Iterator[np.ndarray]:
        for at in range(0, len(self.order) - BATCH + 1, BATCH):
            yield np.take(self.rows, self.order[at : at + BATCH], axis=0, out=self.out, mode="clip")


def array_of(payload: bytes) -> np.ndarray:
    """An .npy file in memory as an array."""
    return np.load(io.BytesIO(payload))


def webdataset_rows(urls: list[str], pool: int) -> Iterator[np.ndarray]:
    """An .npy per image -> rows -> shuffle -> batched, as webdataset's own stages do it."""

    def rows(samples: Iterator[dict]) -> Iterator[dict]:
        for sample in samples:
            for row in array_of(sample["acts.npy"]):
                yield {"acts": row}

    data = wds.WebDataset(urls, shardshuffle=False).compose(rows).shuffle(pool, initial=pool).to_tuple("acts")
    for (acts,) in data.batched(BATCH, partial=False):
        yield acts


def webdataset_sequential(urls: list[str]) -> Iterator[np.ndarray]:
    """The arrays of the shards in order: what reading them through webdataset costs at least."""
    for sample in wds.WebDataset(urls, shardshuffle=False):
        yield array_of(sample["acts.npy"])


class Reservoir:
    """A shuffling buffer that takes and gives one row at a time under a lock, as activation stores commonly do."""

    def __init__(self, capacity: int):
        self.rows = torch.empty(capacity, D_MODEL, dtype=torch.float16)
        self.size, self.lock, self.rng = 0, threading.Lock(), np.random.default_rng(0)

    def put(self, row: torch.Tensor) -> None:
        with self.lock:
            self.rows[self.size] = row
            self.size += 1

    def get(self) -> torch.Tensor:
        with self.lock:
            at = int(self.rng.integers(self.size))
            row = self.rows[at].clone()
            self.size -= 1
            self.rows[at] = self.rows[self.size]
            return row


def reservoir_rows(paths: list[str], capacity: int) -> Iterator[np.ndarray]:
    """Batches out of a reservoir that is kept full from the images in order."""
    reservoir, batch = Reservoir(capacity), []
    for sample in wds.WebDataset(paths, shardshuffle=False):
        for row in torch.from_numpy(array_of(sample["acts.npy"])):
            if reservoir.size == capacity:
                batch.append(reservoir.get())
            reservoir.put(row)
            if len(batch) == BATCH:
                yield torch.stack(batch).numpy()
                batch = []
