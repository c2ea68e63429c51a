"""Hooks that read or replace activations at chosen modules of a model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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

    handles = [_hook(key, point, take) for key, point in points.items()]
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

    def before(module: nn.Module, inputs: Any) -> Any:
        return change(inputs[0]), *inputs[1:]

    def after(module: nn.Module, inputs: Any, output: Any) -> Any:
        return change(output)

    module = point.module
    handle = module.register_forward_pre_hook(before) if point.before else module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def _hook(key: int, point: Point, take: Callable[[int, Tensor], None]) -> Any:
    def before(module: nn.Module, inputs: Any) -> None:
        take(key, inputs[0])

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        take(key, output)

    if point.before:
        return point.module.register_forward_pre_hook(before)
    return point.module.register_forward_hook(after)
