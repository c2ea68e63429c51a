"""How several processes divide the training of a bank; called by BankModule and the strategy."""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float64
from torch import Tensor

from saev.nn.bank import SAEBank
from saev.ops import collective


class Division:
    """A single process."""

    def owns(self, member: int) -> bool:
        """Whether this process steps the member of this index."""
        return True

    def sharing(self, here: int, tokens: int) -> AbstractContextManager[None]:
        """The context of a step on `here` of the `tokens` of the whole batch."""
        return contextlib.nullcontext()

    def complete(self, table: Float64[Tensor, "names members"]) -> Float64[Tensor, "names members"]:
        """The table with each member's column from the process that steps it."""
        return table

    def rows(self, tokens: int) -> int:
        """The number of tokens of a batch that each process gets."""
        return tokens

    def agreed(self, values: list[Any]) -> list[Any]:
        """The values of the first process; a collective."""
        return values if self is ALONE else _everyones(values)[0]

    def unanimous(self, values: list[bool]) -> list[bool]:
        """Which of the values are true in every process; a collective."""
        return values if self is ALONE else [all(of) for of in zip(*_everyones(values), strict=True)]

    def synchronise(self, bank: SAEBank) -> None:
        """Update the members that other processes step."""

    def gather_state(self, state: dict[str, Any], device: torch.device) -> dict[str, Any]:
        """The optimiser's state dictionary with the state of all members, on the process that writes it."""
        return state

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """The part of such a dictionary for the members that this process steps."""
        return state


ALONE = Division()


class ByBatch(Division):
    """Each process takes its part of every batch; all processes step all members with the same summed gradients."""

    def sharing(self, here: int, tokens: int) -> AbstractContextManager[None]:
        return collective.sharded_batch(here, tokens)

    def rows(self, tokens: int) -> int:
        return max(1, tokens // dist.get_world_size())


class ByMembers(Division):
    """Process r of W steps the members i with i % W == r, on whole batches.

    The other members are as of the last call of `synchronise`, and have neither gradients nor optimiser state.
    """

    def owner(self, member: int) -> int:
        """The process that steps it."""
        return member % dist.get_world_size()

    def owns(self, member: int) -> bool:
        return self.owner(member) == dist.get_rank()

    def complete(self, table: Float64[Tensor, "names members"]) -> Float64[Tensor, "names members"]:
        stepped = torch.tensor([self.owns(i) for i in range(table.shape[1])], device=table.device)
        known = torch.where(stepped, table, 0)  # elsewhere they may be NaN
        dist.all_reduce(known)
        return known

    @torch.no_grad()
    def synchronise(self, bank: SAEBank) -> None:
        for i, member in enumerate(bank):
            for tensor in (*member.parameters(), *member.buffers()):
                dist.broadcast(tensor.data, self.owner(i))
        others = _everyones([member.get_extra_state() for member in bank])
        for i, member in enumerate(bank):
            member.set_extra_state(others[self.owner(i)][i])

    def gather_state(self, state: dict[str, Any], device: torch.device) -> dict[str, Any]:
        everyones = _everyones((_outline(state["state"]), state["param_groups"]))
        whole: dict[int, dict[str, Any]] = {}
        for rank, (outline, _) in enumerate(everyones):
            for index, entry in outline.items():
                sent = {name: _sent(rank, value, state["state"], index, name, device) for name, value in entry.items()}
                if dist.get_rank() == 0:  # the other processes drop the tensors again
                    whole[index] = sent
        groups = [everyones[self.owner(i)][1][i] for i in range(len(state["param_groups"]))]
        return {"state": dict(sorted(whole.items())), "param_groups": groups}

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        kept = {index for i, group in enumerate(state["param_groups"]) if self.owns(i) for index in group["params"]}
        return {**state, "state": {index: entry for index, entry in state["state"].items() if index in kept}}


class _Shape(NamedTuple):
    """Placeholder of a tensor that is broadcast separately."""

    shape: Sequence[int]
    dtype: torch.dtype


def _everyones(mine: Any) -> list[Any]:
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return gathered


def _outline(state: dict[int, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    def of(value: Any) -> Any:
        return _Shape(tuple(value.shape), value.dtype) if isinstance(value, Tensor) else value

    return {index: {name: of(value) for name, value in entry.items()} for index, entry in state.items()}


def _sent(rank: int, value: Any, state: dict[int, dict[str, Any]], index: int, name: str, device: torch.device) -> Any:
    """A value of process `rank`'s state, broadcast to all."""
    if not isinstance(value, _Shape):
        return value
    mine = rank == dist.get_rank()
    tensor = state[index][name].to(device) if mine else torch.empty(value.shape, dtype=value.dtype, device=device)
    dist.broadcast(tensor.contiguous(), rank)
    return state[index][name] if mine else tensor.cpu()
