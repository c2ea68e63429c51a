"""Settings of the stream that contradict themselves, found before anything is recorded or read."""

from collections.abc import Mapping

READERS = ("auto", "mapped", "streamed")


def check_settings(
    batch_size: int,
    pool: int,
    reader: str,
    val_fraction: float,
    subset_tokens: int | None,
    least: Mapping[str, tuple[int | None, int]],
) -> None:
    """ValueError naming key, value and remedy; `least` gives further settings with their values and lower bounds."""
    if not 0 < val_fraction < 1:
        raise ValueError(
            f"datamodule.val_fraction={val_fraction}: the held-out fraction of the images lies between 0 and 1."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: give a positive number of tokens.")
    if pool < 4 * batch_size:
        raise ValueError(
            f"datamodule.pool={pool} is too small to mix batches of batch_size={batch_size}: give at least {4 * batch_size}."
        )
    if reader not in READERS:
        raise ValueError(f"datamodule.reader={reader}: choose one of {', '.join(READERS)}.")
    for key, (value, bound) in least.items():
        if value is not None and value < bound:
            raise ValueError(f"datamodule.{key}={value}: give at least {bound}.")
    if subset_tokens is not None and subset_tokens < batch_size:
        raise ValueError(f"subset_tokens={subset_tokens} is less than batch_size={batch_size}: give more tokens.")
