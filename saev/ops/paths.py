"""Sparse or dense products: the path that a map between codes and activations takes."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

from saev.settings import listed

Path = Literal["auto", "sparse", "dense"]
CHOICES = (
    "auto",
    "measured",
    "sparse",
    "dense",
    "fused",
)  # of a run: auto and measured become another before its first step
_path: ContextVar[Path] = ContextVar("path", default="auto")


def checked(products: str) -> str:
    """ValueError unless it is one of CHOICES."""
    if products not in CHOICES:
        raise ValueError(f"products={products}: choose {listed(CHOICES)}.")
    return products


def current_path() -> Path:
    """The path that path="auto" stands for in this context."""
    return _path.get()


@contextlib.contextmanager
def using(path: Path) -> Iterator[None]:
    """Context in which path="auto" stands for `path`."""
    token = _path.set(path)
    try:
        yield
    finally:
        _path.reset(token)


def prefer_sparse(device: str, n_pairs: int, rows: int, d_sae: int) -> bool:
    """Whether the sparse maps are the faster ones: a fixed rule, so that a run's numbers do not depend on timing.

    On a CPU a training step breaks even at about one active latent in eight, and takes a quarter of the time at one in a
    hundred (benchmarks/README.md). On a GPU it is dense, unless `saev.ops.choice` measures.
    """
    return device == "cpu" and n_pairs * 8 <= rows * d_sae


def takes_sparse(device: str, n_pairs: int, rows: int, d_sae: int, path: Path) -> bool:
    """Whether a map is computed from its n_pairs; logged once per path and device."""
    path = _path.get() if path == "auto" else path
    sparse = path == "sparse" or (path == "auto" and prefer_sparse(device, n_pairs, rows, d_sae))
    _log_once(device, "sparse" if sparse else "dense", path)
    return sparse


@functools.cache
def _log_once(device: str, taken: str, requested: Path) -> None:
    logging.getLogger(__name__).info("codes on %s: %s products (path=%s)", device, taken, requested)
