"""The activation stream for Lightning: recorded if need be, split by image, resumed at the batch.

recording (once) -> ActivationStore -> train / held-out images -> TokenStream -> prefetch thread -> batches
"""

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.prefetch import prefetch
from saev.shards import ActivationStore, TokenStream


class Recordable(Protocol):
    """What makes the dataset where it is not there yet (saev.vits.recorder.Recording)."""

    images: Any
    vit: Any

    def run(self) -> Any: ...


class Batches:
    """An iterable over a stream's batches as tensors; without a length, as Lightning reads ahead of sized loaders."""

    def __init__(self, make: functools.partial, depth: int, pin: bool):
        self.make, self.depth, self.pin = make, depth, pin

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return prefetch(self._made(), self.depth)

    def _made(self) -> Iterator[dict[str, Any]]:
        with contextlib.closing(self.make()) as batches:  # so that closing the iterator closes the files
            for batch in batches:
                yield self._tensors(batch)

    def _tensors(self, batch: dict[str, Any]) -> dict[str, Any]:
        tensors = {key: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for key, v in batch.items()}
        return {key: v.pin_memory() if self.pin and torch.is_tensor(v) else v for key, v in tensors.items()}


class ActivationDataModule(L.LightningDataModule):
    """Batches {"acts" [batch, d_model], "example" [batch], "token" [batch], "step"} of one layer.

    Args:
        dataset: a recorded directory; None to record what `recording` describes (or to find it recorded).
        layer: block index, negative ones counted from the last block recorded.
        tokens: patch, cls, special (cls and registers) or all.
        batch_size: tokens per batch and process.
        n_tokens: tokens of the training run over all processes, in as many epochs as that takes; None: one epoch.
        val_share: share of the images held out for validation, at least one image.
        val_tokens: at most so many held-out tokens per validation (whole images; None: all).
        window, stripe, depth: the stream's mixing window and stripe in tokens, batches made ahead.
    """

    def __init__(
        self,
        dataset: str | None,
        layer: int,
        batch_size: int,
        recording: Recordable | None = None,
        tokens: str = "patch",
        n_tokens: int | None = None,
        val_share: float = 0.1,
        val_tokens: int | None = None,
        seed: int = 0,
        window: int = 1 << 19,
        stripe: int = 32,
        depth: int = 2,
    ):
        super().__init__()
        if dataset is None and recording is None:
            raise ValueError("dataset=null: give a recorded directory (dataset=...) or images= and vit= to record one.")
        if not 0 < val_share < 1:
            raise ValueError(
                f"datamodule.val_share={val_share}: the held-out share of the images lies between 0 and 1."
            )
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: give a positive number of tokens.")
        self.dataset, self.recording, self.layer, self.tokens = dataset, recording, layer, tokens
        self.batch_size, self.n_tokens, self.val_share, self.val_tokens = batch_size, n_tokens, val_share, val_tokens
        self.seed, self.depth = seed, depth
        self.sizes = {"window": window, "stripe": stripe}
        self.consumed = 0  # batches of this process, over all epochs: the whole state of the stream
        self.store: ActivationStore | None = None

    def prepare_data(self) -> None:
        """Record the dataset where it is not there (resuming what was interrupted)."""
        if self.dataset is None and self.recording is not None:
            self.recording.run()

    def setup(self, stage: str | None = None) -> None:
        """Open the dataset, resolve the layer, split the images, and see that a batch can be filled."""
        if self.store is not None:
            return
        # every process asks, so that none needs what prepare_data found out; run() returns at once now
        root = self.dataset if self.dataset is not None else self.recording.run()  # type: ignore[union-attr]
        store = ActivationStore(root)
        self.layer = store.resolve_layer(self.layer)
        self.store = store
        self.train_examples, self.val_examples = self.split()
        self.n_steps()

    def split(self) -> tuple[Int64[np.ndarray, " train"], Int64[np.ndarray, " val"]]:
        """Disjoint training and held-out image numbers; the same for every seed of the run (drawn with a seed of 0)."""
        assert self.store is not None
        readable = np.flatnonzero(self.store.offsets(self.layer)[:, 2])
        order = np.random.default_rng(0).permutation(readable)
        n_val = max(1, round(self.val_share * len(readable)))
        if n_val >= len(readable):
            raise ValueError(
                f"{self.store.root} has {len(readable)} readable images, too few to hold some out: record more."
            )
        val = order[:n_val]
        if self.val_tokens is not None:
            tokens = np.cumsum(self.store.offsets(self.layer)[val, 2])
            val = val[: max(1, int(np.searchsorted(tokens, self.val_tokens, "right")))]
        return np.sort(order[n_val:]), np.sort(val)

    @property
    def world(self) -> int:
        """Processes that share the stream."""
        return self.trainer.world_size if self.trainer is not None else 1

    @property
    def rank(self) -> int:
        """This process among them."""
        return self.trainer.global_rank if self.trainer is not None else 0

    def n_steps(self, world: int = 1) -> int:
        """Batches per process that make up `n_tokens` (one epoch where it is None) with `world` processes."""
        stream = self.stream(self.train_examples, world=world)
        if self.batch_size * world > stream.n_tokens:
            raise ValueError(
                f"batch_size={self.batch_size} (times {world} processes) is larger than the {stream.n_tokens} training tokens "
                f"of {stream.store.root}: lower batch_size or record more images."
            )
        if self.n_tokens is None:
            return stream.n_batches
        return max(1, round(self.n_tokens * stream.n_batches / stream.n_tokens))

    def stream(
        self, examples: Int64[np.ndarray, " images"], shuffle: bool = True, world: int | None = None
    ) -> TokenStream:
        """The stream over the given images as this process sees it (or would, were there `world` of them)."""
        assert self.store is not None, "setup() comes first"
        return TokenStream(
            self.store, self.layer, self.batch_size, examples, self.tokens, self.seed, shuffle,
            rank=self.rank, world=world or self.world, **self.sizes,
        )  # fmt: skip

    def sample(self, n_tokens: int) -> Float[Tensor, "n d_model"]:
        """About `n_tokens` shuffled training tokens (at most an epoch), to initialise from; the same for every rank."""
        assert self.store is not None, "setup() comes first"
        stream = TokenStream(
            self.store, self.layer, n_tokens, self.train_examples, self.tokens, self.seed, window=n_tokens
        )
        return torch.from_numpy(next(stream.batches(0, 1))["acts"]).float()

    def train_dataloader(self) -> Batches:
        """Shuffled batches from the first one not consumed yet, without end."""
        return self._batches(functools.partial(self.stream(self.train_examples).batches, self.consumed))

    def val_dataloader(self) -> Batches:
        """The held-out images' batches in order, once."""
        stream = self.stream(self.val_examples, shuffle=False)
        return self._batches(functools.partial(stream.batches, 0, stream.n_batches))

    def _batches(self, make: functools.partial) -> Batches:
        return Batches(
            make, self.depth, pin=self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        )

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Count a training batch as consumed when it is handed to the step, not when it is read ahead."""
        if self.trainer is not None and self.trainer.training:
            self.consumed = batch["step"] + 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, and what its order depends on."""
        return {"consumed": self.consumed, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the next batch; ValueError where the stream is not the one that was interrupted."""
        for key, value in self._identity().items():
            if state[key] != value:
                raise ValueError(
                    f"the checkpoint's stream had {key}={state[key]}, this run has {key}={value}: resume with the same setting, "
                    "or start a new run without ckpt_path."
                )
        self.consumed = state["consumed"]

    def _identity(self) -> dict[str, Any]:
        assert self.store is not None
        return {
            "dataset": self.store.manifest.fingerprint,
            "layer": self.layer,
            "tokens": self.tokens,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "processes": self.world,
            **self.sizes,
        }
