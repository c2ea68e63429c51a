"""What passes through chosen modules of a model, read in one forward that stops as soon as all has been seen."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

HOOKS = ("resid_post", "resid_pre", "attn", "mlp", "norm")


@dataclass(frozen=True)
class Point:
    """A place in a model: what goes into a module, or what comes out of it."""

    module: nn.Module
    before: bool = False


class _Enough(Exception):
    """Every activation asked for has been seen: the deeper blocks need not run."""


def tap(points: Mapping[int, Point], run: Callable[[], Any]) -> dict[int, Tensor]:
    """What is at each point while `run` runs; the forward is left once all have been seen, and no hook stays behind."""
    taken: dict[int, Tensor] = {}

    def take(key: int, value: Tensor) -> None:
        taken[key] = value
        if len(taken) == len(points):
            raise _Enough

    handles = [_hook(key, point, take) for key, point in points.items()]
    try:
        with suppress(_Enough):
            run()
    finally:
        for handle in handles:
            handle.remove()
    return taken


@contextmanager
def replacing(point: Point, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block, the forward goes on with `change(value)` instead of what is at the point; hooks are taken away."""

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
