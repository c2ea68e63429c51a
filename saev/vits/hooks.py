"""Hooks that read or replace activations at chosen modules of a model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

HOOKS = ("resid_post", "resid_pre", "attn", "mlp", "norm")


@dataclass(frozen=True)
class Point:
    """The output of a module, or its input (`before`)."""

    module: nn.Module
    before: bool = False


class _Complete(Exception):
    """All requested activations have been read: the deeper blocks need not run."""


def tap(points: Mapping[int, Point], run: Callable[[], Any]) -> dict[int, Tensor]:
    """The activations at the points during `run()`, which is aborted once all have been read; removes its hooks."""
    values: dict[int, Tensor] = {}

    def take(key: int, value: Tensor) -> None:
        values[key] = value
        if len(values) == len(points):
            raise _Complete

    handles = [_register(point, partial(take, key)) for key, point in points.items()]
    try:
        with suppress(_Complete):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return values


@contextmanager
def replacing(point: Point, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, forward passes continue with `change(value)` instead of the value at the point."""
    handle = _register(point, change)
    try:
        yield
    finally:
        handle.remove()


def _register(point: Point, act: Callable[[Tensor], Tensor | None]) -> Any:
    """A hook that calls `act` with each value at the point, and replaces the value by what `act` returns unless that is None."""

    def before(module: nn.Module, inputs: Any) -> Any:
        value = act(inputs[0])
        return None if value is None else (value, *inputs[1:])

    def after(module: nn.Module, inputs: Any, output: Any) -> Any:
        return act(output)

    module = point.module
    return module.register_forward_pre_hook(before) if point.before else module.register_forward_hook(after)
