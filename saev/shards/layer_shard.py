"""One layer's part of one shard: a tar file that appears whole, its index and its moments.

add ──copy──▶ block of members ──┬──▶ file
            (two, used in turn)  ├──▶ sha256
                                 └──▶ moments
Each is done by a thread of its own, so that a layer is recorded at the speed of the slowest of them.
"""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from saev.files import write_atomically
from saev.shards import index, tar
from saev.shards.codec import Codec
from saev.shards.moments import ByRole, Moments, by_role, merge_roles, save_moments

BLOCK_BYTES = 2 << 20  # a task of the threads: milliseconds, so that handing it over costs nothing


class Block:
    """Members of the tar, one after another, on their way to the file."""

    def __init__(self):
        self.bytes = np.empty(BLOCK_BYTES, np.uint8)
        self.used = 0
        self.images: list[tuple[np.ndarray, str]] = []  # what the moments are taken of, and what errors call it
        self.tasks: list[Future] = []

    def settle(self) -> None:
        """Wait until nothing reads the block any more, and raise what its tasks raised."""
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.result()
        self.used, self.images = 0, []


class LayerShard:
    """One tar file under a temporary name, its index and its moments."""

    def __init__(self, path: Path, roles: Mapping[str, int], codec: Codec):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.roles, self.codec = path, roles, codec
        self._remove()  # what a process left that was killed in this very shard
        self.file = open(path.with_name(f"{path.name}.part"), "wb", buffering=0)  # noqa: SIM115 commit, discard
        self.sha, self.at = hashlib.sha256(), 0
        self.rows: list[tuple[int, int, int]] = []
        self.moments: ByRole = {role: Moments.zeros(codec.d_model) for role in roles}
        self.block, self.other = Block(), Block()
        self.threads = [ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("write", "sha256", "moments")]

    def add(self, example: int, acts: Shaped[np.ndarray, "tokens d_model"], path: str) -> None:
        """Append an image's activations, which are copied; `path` names it in errors."""
        name, stored = f"{self.path.parent.name} of {path!r}", self.codec.encode(acts)
        same = stored.dtype == acts.dtype
        if not same:  # else the moments tell
            check_finite(acts, stored, name)
        head = tar.npy_header(stored.shape, stored.dtype.name)
        size = len(head) + stored.nbytes
        head, padding = tar.header(index.member_name(example), size) + head, tar.padding(size)
        place = self._reserve(len(head) + stored.nbytes + len(padding))
        self.rows.append((example, self.at - len(padding) - stored.nbytes, len(stored)))
        place[: len(head)] = np.frombuffer(head, np.uint8)
        values = place[len(head) : len(head) + stored.nbytes].view(stored.dtype).reshape(stored.shape)
        values[:] = stored
        place[len(place) - len(padding) :] = 0
        self.block.images.append((values if same else acts.copy(), name))

    def _reserve(self, n: int) -> np.ndarray:
        """Room for n bytes in the block, or in the next one where it is full."""
        if self.block.used + n > len(self.block.bytes):
            self._send()
            if n > len(self.block.bytes):
                self.block.bytes = np.empty(n, np.uint8)
        start = self.block.used
        self.block.used += n
        self.at += n
        return self.block.bytes[start : start + n]

    def _send(self) -> None:
        """Write, hash and sum the block; go on with the other one, once that is done with."""
        block, (writing, hashing, summing) = self.block, self.threads
        data = block.bytes[: block.used].data
        block.tasks = [
            writing.submit(self._write, data),
            hashing.submit(self.sha.update, data),
            summing.submit(self._sum, block.images),
        ]
        self.block, self.other = self.other, block
        self.block.settle()

    def _write(self, data: memoryview) -> None:
        start = self.file.tell()
        while data:
            data = data[self.file.write(data) :]
        if hasattr(os, "posix_fadvise"):  # begin to write to the disk now: fsync then takes 3 ms instead of 60
            os.posix_fadvise(self.file.fileno(), start, 0, os.POSIX_FADV_DONTNEED)

    def _sum(self, images: list[tuple[np.ndarray, str]]) -> None:
        moments = by_role([acts for acts, _ in images], self.roles, self.codec.d_model)
        if not all(np.isfinite(m.norm_sum) for m in moments.values()):
            for acts, name in images:
                check_finite(acts, acts, name)
        self.moments = merge_roles(self.moments, moments)

    def end(self) -> None:
        """Send off what is left; the layers of a shard do so before the first of them is waited for."""
        self._reserve(len(tar.END))[:] = 0
        self._send()

    def commit(self) -> dict[str, Any]:
        """Make the tar, its index and its moments appear, after `end`; their entry of the manifest."""
        self.other.settle()
        os.fsync(self.file.fileno())
        self._close()
        Path(self.file.name).replace(self.path)
        rows = np.array(self.rows, np.int64).reshape(-1, 3)
        write_atomically(index.index_path(self.path), tar.npy(rows))
        save_moments(self.path.with_suffix(".stats.safetensors"), self.moments)
        file = f"{self.path.parent.name}/{self.path.name}"
        tokens = int(rows[:, 2].sum())
        return {"file": file, "examples": len(rows), "tokens": tokens, "bytes": self.at, "sha256": self.sha.hexdigest()}

    def discard(self) -> None:
        """Leave nothing of the shard, not even what is committed."""
        self._close()
        self._remove()

    def _close(self) -> None:
        for thread in self.threads:
            thread.shutdown()
        self.file.close()

    def _remove(self) -> None:
        for left in self.path.parent.glob(f"{self.path.stem}.*"):
            left.unlink(missing_ok=True)


def all_finite(values: Shaped[np.ndarray, "..."]) -> bool:
    """Whether no value is NaN or infinite; float16 by its exponent bits, which is ten times as fast as np.isfinite."""
    if values.dtype == np.float16:
        return bool(((values.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.isfinite(values).all())


def check_finite(acts: Shaped[np.ndarray, "n d_model"], stored: Shaped[np.ndarray, "n width"], name: str) -> None:
    """ValueError where one of the activations called `name` is NaN or infinite, or does not fit the stored dtype."""
    if not all_finite(acts):
        raise ValueError(
            f"{name} has NaN or infinite activations: check the backbone's weights, or record with "
            "record.autocast=false if it ran in half precision."
        )
    if not all_finite(stored):
        raise ValueError(
            f"{name} reaches {np.abs(acts).max():.4g}, beyond the range of {stored.dtype}: "
            "record with record.dtype=float32."
        )
