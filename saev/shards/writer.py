"""Writing a recording: shards are committed atomically, and an interrupted recording resumes within the shard.

shard i = images [i * n, (i + 1) * n) of the recording order, for every layer
layer-08/000000.tar.part -> fsync -> layer-08/000000.tar (+ .idx.npy, .stats.safetensors)
shard-000000.json, written last (after shard-000000.labels.safetensors), marks the shard as recorded
finish(): merges the shards' rows, labels and moments into tables, writes manifest.json with complete = true
"""

import errno
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from saev.files import write_atomically
from saev.shards.codec import Codec, codec_path, keep_codec
from saev.shards.layer_shard import LayerShard
from saev.shards.manifest import Manifest, layer_dir
from saev.shards.merging import EXAMPLES, MERGED, complete, labels_path, merge, sidecar_path
from saev.shards.partial import load_partial, partial_path
from saev.shards.shard_writer import ShardWriter

__all__ = ["EXAMPLES", "RecordingWriter", "ShardWriter"]
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class RecordingWriter:
    """Writes a recording shard by shard; `finish` completes it.

    Args:
        meaning: description of what is recorded (JSON-able); an incomplete recording at `root` is resumed if it agrees.
        roles: tokens per image by role in stored order; -1: the number differs between images.
        labels: how tokens are labelled (JSON-able); None: no labels are stored.
        codecs: int8 codecs by layer; without them `calibrate` is called first.

    Raises ValueError where `root` holds a complete recording or another one.
    """

    def __init__(
        self,
        root: Path,
        meaning: Mapping[str, Any],
        n_examples: int,
        examples_per_shard: int,
        layers: Sequence[int],
        roles: Mapping[str, int],
        d_model: int,
        dtype: str = "float16",
        labels: Mapping[str, Any] | None = None,
        codecs: Mapping[int, Codec] | None = None,
    ):
        self.root = root
        self.manifest = Manifest(
            meaning=dict(meaning),
            layers=tuple(sorted(layers)),
            roles=dict(roles),
            d_model=d_model,
            dtype=dtype,
            n_examples=n_examples,
            examples_per_shard=examples_per_shard,
            labels=None if labels is None else dict(labels),
        )
        root.mkdir(parents=True, exist_ok=True)
        if (root / "manifest.json").is_file():
            self._check_same(Manifest.load(root))
        else:
            with self._room():
                self.manifest.save(root)
        self._keep(codecs or {})

    def _check_same(self, stored: Manifest) -> None:
        if stored.complete:
            raise ValueError(
                f"{self.root} holds a complete dataset: it is never overwritten; delete it to record again."
            )
        if stored != Manifest(
            **json.loads(json.dumps(self.manifest.__dict__)) | {"layers": self.manifest.layers, "shards": ()}
        ):
            raise ValueError(
                f"{self.root} holds the beginning of another recording: delete it or choose another directory."
            )

    @property
    def n_shards(self) -> int:
        """Shards of one layer."""
        return -(-self.manifest.n_examples // self.manifest.examples_per_shard)

    def examples_of(self, shard: int) -> range:
        """The images of a shard, as positions in the recording order."""
        size = self.manifest.examples_per_shard
        return range(shard * size, min((shard + 1) * size, self.manifest.n_examples))

    def pending(self, part: int = 0, n_parts: int = 1) -> list[int]:
        """The shards of this part that are not recorded yet."""
        if (self.root / MERGED).is_file():  # all are recorded, and a process was killed in `complete`
            return []
        return [i for i in range(part, self.n_shards, n_parts) if not sidecar_path(self.root, i).is_file()]

    def stored(self, shard: int) -> int:
        """The images of an unfinished shard that an interrupted process has stored."""
        saved = load_partial(self.root, shard)
        return len(saved.rows) if saved else 0

    @property
    def needs_calibration(self) -> bool:
        """Whether `calibrate` must be called before the first shard."""
        m = self.manifest
        return m.dtype == "int8" and not all(codec_path(self.root, layer).is_file() for layer in m.layers)

    def calibrate(self, acts: Mapping[int, Shaped[np.ndarray, "n d_model"]]) -> None:
        """Fit each layer's int8 codec to these activations; of several processes the first one's codecs are kept."""
        self._keep({layer: Codec.calibrated(acts[layer]) for layer in self.manifest.layers})

    def _keep(self, codecs: Mapping[int, Codec]) -> None:
        with self._room():
            for layer, codec in codecs.items():
                keep_codec(self.root, layer, codec)

    @contextmanager
    def shard(self, i: int) -> Iterator[ShardWriter]:
        """Open shard i for writing: committed at the end of the block; if it raises, only what `save_partial` saved is kept."""
        m, stem = self.manifest, sidecar_path(self.root, i).stem
        with self._room(), ExitStack() as undo:
            saved, partial = load_partial(self.root, i), partial_path(self.root, i)
            for left in self.root.glob(f"{stem}.*"):  # by a process that was killed while it wrote this shard
                if saved is None or left != partial:
                    left.unlink(missing_ok=True)
            files = {}
            for layer in m.layers:
                path = self.root / layer_dir(layer) / f"{i:06d}.tar"
                state = saved.layers[layer] if saved else None
                files[layer] = LayerShard(path, m.roles, Codec.load(self.root, layer, m), state)
                undo.callback(files[layer].discard, keep=partial.is_file)
            shard = ShardWriter(self.examples_of(i), files, m.labels is not None, partial, saved)
            yield shard
            assert [row["index"] for row in shard.rows] == list(shard.examples), "every image once, in order"
            for file in files.values():
                file.end()
            record = {"examples": shard.rows, "shards": [files[layer].commit() for layer in m.layers]}
            if m.labels is not None:
                undo.callback(labels_path(self.root, i).unlink, missing_ok=True)
                shard.save_labels(labels_path(self.root, i))
            write_atomically(sidecar_path(self.root, i), json.dumps(record).encode())
            undo.pop_all()
            partial.unlink(missing_ok=True)

    def finish(self) -> Path | None:
        """Merge the shards' tables and mark the recording complete; returns `root`, or None while shards are missing.

        Two parts may call it at the same time: they write the same bytes. After a killed process the next call resumes.
        """
        if Manifest.load(self.root).complete:
            return self.root
        try:
            if self.pending():
                return None
            with self._room():
                if not (self.root / MERGED).is_file():
                    merge(self.root, self.manifest, self.n_shards)
                complete(self.root)
        except FileNotFoundError:  # another part has merged and deleted the shards' tables meanwhile
            if not Manifest.load(self.root).complete:
                raise
        return self.root

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Add the remedy to the error of a full disk."""
        try:
            yield
        except OSError as err:
            if err.errno not in FULL:
                raise
            raise OSError(
                err.errno,
                f"the disk of {self.root} is full ({err.strerror}), {len(self.pending())} of {self.n_shards} shards are "
                "left: make room and run the same command again to resume.",
            ) from err
