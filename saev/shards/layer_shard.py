"""One layer's part of one shard: a tar file committed atomically, its index and its moments.

add ──copy──▶ block of entries ──┬──▶ file
            (two, used in turn)  ├──▶ sha256
                                 └──▶ moments
A thread per task: a layer is recorded at the speed of the slowest.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from saev.files import write_atomically
from saev.shards import index, tar
from saev.shards.codec import Codec
from saev.shards.moments import Moments, by_role, merge_roles, save_moments
from saev.shards.partial import LayerState

BLOCK_BYTES = 2 << 20  # a thread's task takes milliseconds, so that the overhead of handing it over is negligible


class Block:
    """Consecutive tar entries that are not written yet."""

    def __init__(self):
        self.bytes = np.empty(BLOCK_BYTES, np.uint8)
        self.used = 0
        self.images: list[tuple[np.ndarray, str]] = []  # activations for the moments, and their name in errors
        self.tasks: list[Future] = []

    def settle(self) -> None:
        """Wait until all tasks on the block have ended; raises their first error."""
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task.result()
        self.used, self.images = 0, []


class LayerShard:
    """One tar file under a temporary name, its index and its moments."""

    def __init__(self, path: Path, roles: Mapping[str, int], codec: Codec, saved: LayerState | None = None):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.roles, self.codec = path, roles, codec
        part = path.with_name(f"{path.name}.part")
        if saved is None:
            self._remove()  # files of a process that was killed while it wrote this shard
            saved = LayerState(0, [], {role: Moments.zeros(codec.d_model) for role in roles})
        self.file = open(part, "r+b" if part.is_file() else "w+b", buffering=0)  # noqa: SIM115 commit, discard
        self.file.truncate(saved.at)
        self.sha, self.at = hashlib.file_digest(self.file, "sha256"), saved.at
        self.rows, self.moments = [*saved.rows], saved.moments
        self.sent = saved.at, len(saved.rows)  # bytes and entries that are handed to the threads
        self.block, self.other = Block(), Block()
        self.threads = [ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("write", "sha256", "moments")]

    def add(self, example: int, acts: Shaped[np.ndarray, "tokens d_model"], path: str) -> None:
        """Append an image's activations, which are copied; `path` names it in errors."""
        name, stored = f"{self.path.parent.name} of {path!r}", self.codec.encode(acts)
        same = stored.dtype == acts.dtype
        if not same:  # else the moments show it
            check_finite(acts, stored, name)
        head = tar.npy_header(stored.shape, stored.dtype.name)
        size = len(head) + stored.nbytes
        head, padding = tar.header(index.entry_name(example), size) + head, tar.padding(size)
        entry = self._reserve(len(head) + stored.nbytes + len(padding))
        self.rows.append((example, self.at - len(padding) - stored.nbytes, len(stored)))
        entry[: len(head)] = np.frombuffer(head, np.uint8)
        values = entry[len(head) : len(head) + stored.nbytes].view(stored.dtype).reshape(stored.shape)
        values[:] = stored
        entry[len(entry) - len(padding) :] = 0
        self.block.images.append((values if same else acts.copy(), name))

    def _reserve(self, n: int) -> np.ndarray:
        """n bytes of the block, or of the next one if it is full."""
        if self.block.used + n > len(self.block.bytes):
            self._send()
            if n > len(self.block.bytes):
                self.block.bytes = np.empty(n, np.uint8)
        start = self.block.used
        self.block.used += n
        self.at += n
        return self.block.bytes[start : start + n]

    def _send(self) -> None:
        """Start writing, hashing and summing the block, and swap in the other block once its tasks have ended."""
        block, (writing, hashing, summing) = self.block, self.threads
        self.sent = self.at, len(self.rows)
        data = block.bytes[: block.used].data
        block.tasks = [
            writing.submit(self._write, data),
            hashing.submit(self._hash, data),
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

    def _hash(self, data: memoryview) -> None:
        self.sha.update(data)

    def _sum(self, images: list[tuple[np.ndarray, str]]) -> None:
        moments = by_role([acts for acts, _ in images], self.roles, self.codec.d_model)
        if not all(np.isfinite(m.norm_sum) for m in moments.values()):
            for acts, name in images:
                check_finite(acts, acts, name)
        self.moments = merge_roles(self.moments, moments)

    def flush(self) -> LayerState:
        """Wait until all blocks sent so far are on disk; what they hold. The entries of the last, unsent block are not among them.

        Blocks are not cut, because their boundaries decide how the moments are rounded.
        """
        self.other.settle()
        os.fsync(self.file.fileno())
        at, n = self.sent
        return LayerState(at, self.rows[:n], dict(self.moments))

    def end(self) -> None:
        """Send the last block; called for all layers of a shard before waiting for the first of them."""
        self._reserve(len(tar.END))[:] = 0
        self._send()

    def commit(self) -> dict[str, Any]:
        """After `end`: rename the tar to its final name, write its index and moments; returns the manifest's line on it."""
        self.other.settle()
        os.fsync(self.file.fileno())
        self._close()
        Path(self.file.name).replace(self.path)
        rows = np.array(self.rows, np.int64).reshape(-1, 3)
        stored = tar.npy(rows)
        write_atomically(index.index_path(self.path), stored)
        save_moments(self.path.with_suffix(".stats.safetensors"), self.moments)
        file = f"{self.path.parent.name}/{self.path.name}"
        tokens = int(rows[:, 2].sum())
        hashes = {"sha256": self.sha.hexdigest(), "index_sha256": hashlib.sha256(stored).hexdigest()}
        return {"file": file, "examples": len(rows), "tokens": tokens, "bytes": self.at, **hashes}

    def discard(self, keep: Callable[[], bool]) -> None:
        """Close the files, and delete them, committed ones too, unless the shard can be continued."""
        self._close()
        if not keep():
            self._remove()

    def _close(self) -> None:
        for thread in self.threads:
            thread.shutdown()
        self.file.close()

    def _remove(self) -> None:
        for left in self.path.parent.glob(f"{self.path.stem}.*"):
            left.unlink(missing_ok=True)


def all_finite(values: Shaped[np.ndarray, "..."]) -> bool:
    """Whether no value is NaN or infinite; float16 by its exponent bits, ten times as fast as np.isfinite."""
    if values.dtype == np.float16:
        return bool(((values.view(np.uint16) & 0x7C00) != 0x7C00).all())
    return bool(np.isfinite(values).all())


def check_finite(acts: Shaped[np.ndarray, "n d_model"], stored: Shaped[np.ndarray, "n width"], name: str) -> None:
    """ValueError where an activation is NaN or infinite or does not fit the stored dtype; `name` names them."""
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
