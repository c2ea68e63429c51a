"""Checks of the stream's settings, before anything is recorded or read."""

from collections.abc import Mapping

from saev.settings import listed

READERS = ("auto", "mapped", "streamed")


def check_settings(
    batch_size: int,
    pool: int,
    reader: str,
    val_fraction: float,
    subset_tokens: int | None,
    at_least: Mapping[str, tuple[int | None, int]],
) -> None:
    """ValueError naming key, value and remedy; `at_least`: (value, lower bound) of further settings."""
    if not 0 < val_fraction < 1:
        raise ValueError(f"datamodule.val_fraction={val_fraction}: must be above 0 and below 1.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: must be at least 1.")
    if pool < 4 * batch_size:
        raise ValueError(
            f"datamodule.pool={pool}: must be at least {4 * batch_size}, to mix batches of {batch_size} tokens."
        )
    if reader not in READERS:
        raise ValueError(f"datamodule.reader={reader}: choose {listed(READERS)}.")
    for key, (value, bound) in at_least.items():
        if value is not None and value < bound:
            raise ValueError(f"datamodule.{key}={value}: must be at least {bound}.")
    if subset_tokens is not None and subset_tokens < batch_size:
        raise ValueError(f"subset_tokens={subset_tokens}: must be at least batch_size={batch_size}.")
