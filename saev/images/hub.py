"""Hugging Face data sets from the hub, its cache or a local folder; a missing one is reported within seconds."""

import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 5
REMEDY = (
    "give a local folder (saved by save_to_disk, or of parquet files or images), images.path=/path/to/folder, or other "
    "images, e.g. images=folder images.root=/your/photos."
)


def load(path: str | None, config: str | None, split: str) -> Any:
    """The split as a datasets.Dataset; ValueError with the remedy where it is not available."""
    if not path:
        raise ValueError("images.path is not set: name a data set of the hub, images.path=owner/name, or a folder.")
    try:
        import datasets
    except ImportError as error:
        raise ValueError(
            f"images.path={path} needs the package `datasets`: install the extra hub (uv sync --extra hub, or pip "
            f"install 'saev-lightning[hub]'), or {REMEDY}"
        ) from error
    local = Path(path).exists()
    if local and glob.has_magic(path):
        raise ValueError(
            f"images.path={path}: the package `datasets` takes [, * and ? in a path for a pattern: link the folder, "
            "ln -s PATH /tmp/data, and give the link, images.path=/tmp/data."
        )
    if not local and not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", path):
        raise ValueError(f"images.path={path} is neither a file nor a data set's name, owner/name: {REMEDY}")
    if any((Path(path) / file).is_file() for file in ("dataset_dict.json", "state.json")):
        return _saved(path, split)
    reason = None if local else unreachable(path)
    try:
        if Path(path).is_file():
            return datasets.load_dataset(Path(path).suffix[1:], data_files=path, split=split)
        with offline(reason is not None):
            return datasets.load_dataset(path, config, split=split)
    except Exception as error:  # the library, its builders and its transport raise any type
        message = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        where = "" if local else f" (hub: {reason}; not in the cache)" if reason else " (on the hub)"
        raise ValueError(
            f"images.path={path} images.config={config or 'null'} images.split={split} is not available{where}: {message}. "
            f"Name another config or split, or {REMEDY}"
        ) from error


def _saved(path: str, split: str) -> Any:
    """A split saved by save_to_disk, alone or among others."""
    import datasets

    saved = datasets.load_from_disk(path)
    several = isinstance(saved, datasets.DatasetDict)
    splits: dict[str, Any] = (
        {str(s): data for s, data in saved.items()} if several else {str(saved.split or split): saved}
    )
    if split not in splits:
        raise ValueError(f"images.split={split} is not in images.path={path}: choose {' or '.join(splits)}.")
    return splits[split]


def unreachable(path: str) -> str | None:
    """Why the hub cannot be reached, in one line; None if it answers, also if the data set does not exist."""
    import huggingface_hub as hub

    if hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        hub.HfApi().dataset_info(path, timeout=PATIENCE_S)
    except hub.errors.HfHubHTTPError:
        return None  # an answer; load_dataset explains it better
    except Exception as error:  # network libraries raise any type
        return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    return None


@contextmanager
def offline(cache_only: bool) -> Iterator[None]:
    """Restrict `datasets` to its cache: it would try an unreachable hub for minutes."""
    from datasets import config

    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = cache_only or before
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before
