"""The activation stream for Lightning: recorded if necessary, split by image, resumed at the batch.

recording (once) -> ActivationStore -> train / held-out images -> TokenStream -> its parts -> prefetch thread -> batches
"""

import functools
import logging
import math
from collections.abc import Callable
from typing import Any, Protocol

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from datamodules.batches import Batches
from datamodules.parts import Joint, parts_of
from datamodules.settings import StreamOptions
from datamodules.transfer import InFlight, pinned
from saev.shards import ActivationStore, TokenStream
from saev.shards.buffers import pageable
from saev.shards.split import held_out_split
from saev.shards.stream import reader_for

log = logging.getLogger(__name__)

SEQUENTIAL_BATCHES = 4  # per window without shuffling: enough to read ahead


class Recordable(Protocol):
    """Records the dataset if it does not exist yet (saev.vits.Recording)."""

    images: Any
    vit: Any

    def run(self) -> Any: ...


class ActivationDataModule(StreamOptions, L.LightningDataModule):
    """Batches {"acts" [batch, d_model], "example" [batch], "token" [batch], "label" [batch] if there are any, "step", "tokens"}.

    A process gets its part of a training batch; "tokens" is the batch's number of tokens over all processes.

    Args:
        dataset: a recorded directory, or its http(s):// address, or a pipe: command with {file} in it; None to use (and,
            if necessary, record) `recording`; with reader=live its tokens are computed for each window and not stored.
        layer: block index, negative ones counted from the last block recorded.
        options: fields of StreamOptions.
    """

    def __init__(
        self, dataset: str | None, layer: int, batch_size: int, recording: Recordable | None = None, **options: Any
    ):
        L.LightningDataModule.__init__(self)
        if dataset is None and recording is None:
            raise ValueError("dataset=null: give a recorded directory (dataset=...) or images= and vit= to record one.")
        StreamOptions.__init__(self, batch_size, **options)
        if self.reader == "live" and dataset is not None:
            raise ValueError(f"datamodule.reader=live: dataset={dataset} is recorded already; leave one of them out.")
        self.dataset, self.recording, self.layer = dataset, recording, layer
        self.consumed = 0  # batches over all epochs: the complete state of the stream
        self.store: ActivationStore | None = None
        self.streams: dict[tuple[Any, ...], TokenStream] = {}  # selecting tokens may take seconds
        self.in_flight = InFlight()
        self.answer_signals: Callable[[], None] | None = None  # called while a batch is waited for
        self.meet: Callable[[bool], bool] | None = None  # `Batches.meet`, where several processes train
        self.whole_batch = False  # with fewer tokens than a batch has, take all of them as one, instead of refusing

    def prepare_data(self) -> None:
        """Record the dataset if necessary, or resume its recording."""
        if self.dataset is None and self.recording is not None and self.reader != "live":
            self.recording.run()

    def setup(self, stage: str | None = None) -> None:
        """Open the dataset, resolve the layer, split the images, and check that a batch can be filled."""
        if self.store is not None:
            return
        store = self._opened()
        if self.reader == "auto":
            self.reader = reader_for(store)
        self.layer = store.resolve_layer(self.layer)
        self.store = store
        self.train_examples, self.val_examples = held_out_split(
            store, self.layer, self.tokens, self.ignore_labels, **self.held_out()
        )
        if self.whole_batch and (n := self.stream(self.train_examples).n_tokens) < self.batch_size:
            log.info("batch_size=%d: there are %d training tokens, which are one batch", self.batch_size, n)
            self.batch_size = n
            self.streams.clear()  # they have the former batch size
        self.n_steps()
        if self.subset_tokens is not None and self.subset_tokens > self.stream(self.train_examples).n_tokens:
            log.warning("subset_tokens=%d exceeds the available tokens: all are used", self.subset_tokens)

    def _opened(self) -> ActivationStore:
        if self.reader == "live":
            from saev.vits.live import LiveStore  # decoding and the backbone, which recordings do not need

            return LiveStore(self.recording, self.seed)  # type: ignore[arg-type]
        # in every process, as prepare_data runs in one of them; a complete recording returns at once
        root = self.dataset if self.dataset is not None else self.recording.run()  # type: ignore[union-attr]
        return ActivationStore(root)

    def where(self) -> dict[str, Any]:
        """The columns of results tables that say on what was trained."""
        assert self.store is not None, "setup() comes first"
        return {"dataset": self.store.name, "layer": self.layer, "tokens": self.tokens}

    def held_out(self) -> dict[str, Any]:
        """The settings of the split, as `held_out_split` takes them."""
        return {"fraction": self.val_fraction, "most_tokens": self.val_tokens, "by_shard": self.reader == "streamed",
                "group": self.group, "split": self.split}  # fmt: skip

    @property
    def division(self) -> tuple[int, int]:
        """(rank, world size) of the training stream; (0, 1) if the strategy lets all processes read the same batches."""
        divided = self.trainer.distributed_sampler_kwargs if self.trainer is not None else None
        return (divided["rank"], divided["num_replicas"]) if divided else (0, 1)

    def n_steps(self, world: int = 1) -> int:
        """Number of batches for `n_tokens` (None: one epoch) with `world` processes."""
        stream = self.stream(self.train_examples, world=world)
        if self.batch_size > stream.n_tokens:
            raise ValueError(
                f"batch_size={self.batch_size} is larger than the {stream.n_tokens} training tokens of "
                f"{stream.store.location.root}{self._narrowed('subset_tokens')}: lower batch_size or select more."
            )
        self.stream(self.val_examples, shuffle=False, world=world)  # checks that every process has held-out tokens
        if self.n_tokens is None:
            return stream.n_batches
        return max(1, round(self.n_tokens * stream.n_batches / stream.n_tokens))

    def stream(
        self, examples: Int64[np.ndarray, " images"], shuffle: bool = True, world: int | None = None
    ) -> TokenStream:
        """The stream over the images for `world` processes (None: the present number).

        The shuffled stream is that of training, divided into `parts`; the other that of validation, divided by process.
        """
        if shuffle:
            rank, parts = 0, parts_of(self.parts, world or self.division[1], self.batch_size)
            batch_size, limit = self.batch_size // parts, self.subset_tokens
            # independent of `depth` and of the number of processes, because the order depends on the window
            window = (self.pool - 2 * self.batch_size) // (2 * parts)
        else:
            rank, parts = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
            parts = world or parts
            batch_size, limit = max(1, self.batch_size // parts), None
            window = SEQUENTIAL_BATCHES * batch_size
        key = (id(examples), shuffle, rank, parts, self._on_gpu)
        if key not in self.streams:
            try:
                self.streams[key] = self.token_stream(
                    examples, batch_size, window=window, limit=limit, shuffle=shuffle, rank=rank, world=parts
                )
            except ValueError as error:
                which, more = ("training", "subset_tokens") if shuffle else ("held-out", "val_tokens")
                raise ValueError(f"{which} tokens{self._narrowed(more)}: {error}") from error
        return self.streams[key]

    def _narrowed(self, *more: str) -> str:
        """The settings that restrict the tokens, for a message."""
        values = {key: getattr(self, key) for key in ("tokens", "ignore_labels", "val_fraction", *more)}
        return f" ({', '.join(f'{key}={value}' for key, value in values.items() if value)})"

    def token_stream(self, examples: Int64[np.ndarray, " images"], batch_size: int, **kwargs: Any) -> TokenStream:
        """The stream over these images in the form that the options ask for; `kwargs` are further arguments of TokenStream."""
        assert self.store is not None, "setup() comes first"
        settings: dict[str, Any] = {
            key: getattr(self, key) for key in ("stripe", "ignore_labels", "reader", "readers", "retry_s")
        }
        settings |= {"store": self.store, "allocate": pinned if self._on_gpu else pageable} | kwargs
        return TokenStream(
            layer=self.layer, batch_size=batch_size, examples=examples, tokens=self.tokens, seed=self.seed, **settings
        )

    def sample(self, n_tokens: int) -> Float[Tensor, "n d_model"]:
        """At least `n_tokens` shuffled training tokens, or all if there are fewer; the same on every rank."""
        total = self.stream(self.train_examples, world=1).n_tokens
        n_tokens = math.ceil(total / max(1, total // n_tokens))  # an epoch has batches of one size: round up
        stream = self.token_stream(self.train_examples, n_tokens, window=n_tokens, limit=self.subset_tokens)
        return torch.from_numpy(next(stream.batches(0, 1))["acts"]).float()

    def train_dataloader(self) -> Batches:
        """Endless shuffled batches, from the first one not consumed yet."""
        stream, (rank, world) = self.stream(self.train_examples), self.division
        n_parts = stream.plan.world // world
        joint = Joint(stream, range(rank * n_parts, (rank + 1) * n_parts))
        return Batches(functools.partial(joint.batches, self.consumed), self.depth, self._while_waiting, self._meet)

    def val_dataloader(self) -> Batches:
        """The held-out images' batches in order, once."""
        stream = self.stream(self.val_examples, shuffle=False)
        most = self.trainer.limit_val_batches if self.trainer is not None else None
        n = min(stream.n_batches, most) if isinstance(most, int) else stream.n_batches
        make = functools.partial(stream.batches, 0, stream.n_batches)
        return Batches(make, self.depth, self._while_waiting, self._meet, n)

    def _while_waiting(self) -> None:
        if self.answer_signals is not None:
            self.answer_signals()

    def _meet(self, more: bool) -> bool:
        return more if self.meet is None else self.meet(more)

    @property
    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Copy asynchronously; the pinned original is not reused until the copy has ended."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if device.type == "cuda":
            self.in_flight.hold(batch)
        return moved

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Count a training batch as consumed when the step gets it, not when it is prefetched."""
        if self.trainer is not None and self.trainer.training:
            self.consumed = batch["step"] + 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The number of consumed batches, and everything the order depends on."""
        return {"consumed": self.consumed, **self.identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume at the next batch; ValueError if the stream differs from the interrupted one."""
        for key, value in self.identity().items():
            if state.get(key) != value:
                same = f"datamodule.parts={state.get(key)}" if key == "parts" else "the same setting"
                raise ValueError(
                    f"the checkpoint's stream had {key}={state.get(key)}, this run has {key}={value}: resume with {same}, "
                    "or start a new run without ckpt_path."
                )
        self.consumed = state["consumed"]

    def identity(self) -> dict[str, Any]:
        assert self.store is not None
        keys = ("layer", "tokens", "subset_tokens", "reader", "batch_size", "val_fraction", "group", "split", "seed", "pool",
                "stripe")  # fmt: skip
        return {
            "dataset": self.store.manifest.fingerprint,
            "ignore_labels": list(self.ignore_labels),
            "parts": parts_of(self.parts, self.division[1], self.batch_size),
            **{key: getattr(self, key) for key in keys},
        }
