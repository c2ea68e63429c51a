"""The statistics of all (latent, class) pairs, accumulated in one pass over codes and labels.

    codes, labels --pack--> pairs --sort, count--> entries --merge--> all entries ... --> LabelTable

Pairs (8 bytes) are buffered until there are twice as many as entries (32 bytes); then they are sorted, counted and merged: time
is linear in the pairs, memory in the distinct ones.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torchmetrics import Metric

from saev.codes.pairs import from_dense
from saev.ops.sparse import SparseCodes
from saev.probing.counts import segments
from saev.probing.counts.entries import Entries, Labels, Packing, class_codes, labelled_tokens
from saev.probing.counts.table import LabelTable, checked

log = logging.getLogger(__name__)

FEWEST = 1 << 22  # pairs that are sorted at a time, at least
BYTES = 224  # peak memory per entry, while the table is built: 175 measured, the rest is a margin


class _Box:
    def __init__(self, table: LabelTable):
        self.table = table


class LatentLabelStats(Metric):
    """The `LabelTable` of one dictionary's codes, independent of how the tokens are divided into batches and processes.

    `mantissa_bits` is the width of the value bins (`saev.probing.counts.table`): 10 are exact for float16 codes, 23 for all codes.
    Where the table would exceed `budget_gib` GiB, bins are widened by a bit, with a warning.

    >>> stats = LatentLabelStats(n_latents=2, n_classes=2)
    >>> stats.update(torch.tensor([[1.0, 0.0], [1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1, -1]))  # the last is void
    >>> table = stats.compute()
    >>> table.n_tokens, table.positives.tolist(), table.p0.tolist(), table.count.tolist()
    (2, [1, 1], [[1, 1], [0, 1]], [2, 1])
    """

    full_state_update = False
    n_tokens: Int64[Tensor, ""]
    positives: Int64[Tensor, " classes"]
    bits: Int64[Tensor, ""]
    pairs: list[Tensor] | Tensor  # lists of vectors to be concatenated; tensors after they were gathered
    keys: list[Tensor] | Tensor
    counts: list[Tensor] | Tensor
    totals: list[Tensor] | Tensor
    squares: list[Tensor] | Tensor

    def __init__(self, n_latents: int, n_classes: int, mantissa_bits: int = 10, budget_gib: float = 8.0):
        super().__init__(compute_with_cache=False)  # a table may be gigabytes
        self.packing = Packing(n_latents, n_classes)
        self.max_entries = int(budget_gib * 2**30 / BYTES)
        bits = torch.tensor(checked(mantissa_bits))
        self.add_state("n_tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum", persistent=True)
        self.add_state("positives", torch.zeros(n_classes, dtype=torch.int64), dist_reduce_fx="sum", persistent=True)
        self.add_state("bits", bits, dist_reduce_fx="min", persistent=True)
        for name in ("pairs", *Entries._fields):
            self.add_state(name, [], dist_reduce_fx="cat", persistent=True)
        self._clear()

    def update(
        self,
        codes: SparseCodes | Float[Tensor, "rows latents"],
        labels: Labels,
        counted: Bool[Tensor, " tokens"] | None = None,
    ) -> None:
        """Add a batch: sparse or dense codes, and each token's class (< 0: void) or, as booleans, its classes.

        `counted` is False for void tokens whose classes are booleans. ValueError for labels beyond n_classes, latents beyond
        n_latents, another number of tokens, and codes that are not finite.
        """
        rows, latents, values = self._pairs_of(codes, len(labels))
        labels = labels.to(values.device)
        known = labelled_tokens(labels, counted)
        token, slots = class_codes(labels, known, self.packing.n_classes)
        self.n_tokens = self.n_tokens + known.sum()
        self.positives = self.positives + torch.bincount(slots >> 1, minlength=self.packing.n_classes + 1)[:-1]
        per_token = torch.bincount(token, minlength=len(labels))
        if len(token) == len(labels) and bool((per_token == 1).all()) and bool((values != 0).all()):
            slots = slots[rows]  # the usual case: one class per token, no padding
        else:
            firing = segments.nonzero((values != 0) & (per_token[rows] > 0))
            rows, latents, values = rows[firing], latents[firing], values[firing]
            first, times = (per_token.cumsum(0) - per_token)[rows], per_token[rows]
            slots = slots[segments.ranges(first, times)]
            latents, values = latents.repeat_interleave(times), values.repeat_interleave(times)
        assert isinstance(self.pairs, list)
        self.pairs.append(self.packing.pack(latents, values, slots))
        self._buffered += len(slots)
        if self._buffered >= max(FEWEST, 2 * sum(map(len, self.keys))):
            self._count()

    def compute(self) -> LabelTable:
        """The table of all tokens so far, of all processes under DDP. ValueError if none has a label."""
        if not int(self.n_tokens):
            raise ValueError(
                "no token has a label: all are void, or the activations hold none; record them with labels."
            )
        self._count()
        entries = Entries(*(vectors[0] for vectors in self._lists()))
        return self.packing.table(entries, int(self.bits), int(self.n_tokens), self.positives)

    def reset(self) -> None:
        """Remove all tokens and restore the width of the bins."""
        super().reset()
        self._clear()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As inherited, after counting the buffered pairs."""
        self._count()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """As inherited; the state is moved to this device and marked as updated, so that `compute` does not warn."""
        super()._load_from_state_dict(*args, **kwargs)
        self.to(self.device)
        self._update_count = max(1, self._update_count)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """As inherited, after counting the buffered pairs: processes exchange entries."""
        self._count()
        super().sync(*args, **kwargs)

    def _wrap_compute(self, compute: Callable[[], LabelTable]) -> Callable[[], LabelTable]:
        """As inherited, with the table in a box: torchmetrics would squeeze its vectors of one element."""
        boxed = super()._wrap_compute(functools.wraps(compute)(lambda: _Box(compute())))
        return functools.wraps(compute)(lambda: boxed().table)

    def _clear(self) -> None:
        """Empty vectors of the right dtypes: those of several processes must agree."""
        empty = torch.empty(0, dtype=torch.int64, device=self.n_tokens.device)
        self.pairs, self.keys, self.counts = [empty], [empty], [empty]
        self.totals, self.squares = [empty.double()], [empty.double()]
        self._buffered = 0

    def _count(self) -> None:
        """Merge the buffered pairs and the lists of other metrics and processes into one list of entries."""
        pairs = [self.pairs] if isinstance(self.pairs, Tensor) else self.pairs
        parts = [Entries(*columns) for columns in zip(*self._lists(), strict=True)]
        if isinstance(self.keys, list) and len(parts) == 1 and not any(map(len, pairs)):
            return
        pairs = self.packing.sorted(pairs, int(self.bits))
        self._clear()  # before the new list is built: it may be gigabytes
        entries = self.packing.merged(pairs, parts, int(self.bits))
        del pairs, parts
        while len(entries.keys) > self.max_entries and int(self.bits) > 0:
            log.warning(
                "%d entries of (latent, value bin, class) exceed the budget (%d): bins are widened from "
                "%d to %d bits of mantissa. Raise the budget for finer ones.",
                len(entries.keys), self.max_entries, int(self.bits), int(self.bits) - 1,
            )  # fmt: skip
            self.bits = self.bits - 1
            entries = self.packing.merged(entries.keys[:0], [entries], int(self.bits))
        for name, column in zip(Entries._fields, entries, strict=True):
            setattr(self, name, [column])

    def _lists(self) -> list[Sequence[Tensor]]:
        """The vectors of each column, sorted by key: one, or those of several metrics or processes."""
        columns = [getattr(self, name) for name in Entries._fields]
        if not isinstance(self.keys, Tensor):
            return columns
        ends = (
            segments.nonzero(self.keys[1:] <= self.keys[:-1]) + 1
        )  # the vectors of several processes were concatenated
        return [column.tensor_split(ends.tolist()) for column in columns]

    def _pairs_of(self, codes: SparseCodes | Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Row, latent and value of each code of a batch; ValueError where it does not fit."""
        if isinstance(codes, Tensor) and codes.shape[1] != self.packing.n_latents:
            raise ValueError(
                f"codes have {codes.shape[1]} latents, these statistics n_latents={self.packing.n_latents}."
            )
        offsets, latents, values = from_dense(codes) if isinstance(codes, Tensor) else codes
        if len(offsets) - 1 != n:
            raise ValueError(f"codes of {len(offsets) - 1} tokens came with labels of {n}: give one label per token.")
        if len(latents) and not 0 <= int(latents.min()) <= int(latents.max()) < self.packing.n_latents:
            raise ValueError(
                f"codes have latents {int(latents.min())} to {int(latents.max())}, these statistics "
                f"n_latents={self.packing.n_latents}: make them for the dictionary's d_sae."
            )
        if not bool(torch.isfinite(values).all()):
            raise ValueError("codes hold values that are not finite: the dictionary or its activations are broken.")
        return torch.repeat_interleave(offsets.diff(), output_size=len(latents)), latents, values
