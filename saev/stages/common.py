"""What the stages that compare dictionaries on images have in common."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.config.build import plain
from saev.runs.planning import key_of
from saev.shards import ActivationStore

log = logging.getLogger(__name__)


def check_dictionaries(named: Sequence[str]) -> None:
    """ValueError for a directory that is not there."""
    for one in named:
        if not Path(one).is_dir():
            raise ValueError(f"{one} is not there: give finished runs, sweeps or dictionaries.")


def shown_images(cfg: DictConfig, store: ActivationStore, page: str, recorded: bool = False) -> Any:
    """The image set of a page's photos: the one that was just recorded, or that the command names; None, with a warning, for neither.

    ValueError where it is missing, or does not have the images of the recording.
    """
    if not recorded and not any(key_of(str(o)) in ("images", "images.root") for o in HydraConfig.get().overrides.task):
        log.warning(
            "%s shows no photos: give the images that were recorded, e.g. images=folder images.root=/path", page
        )
        return None
    images = instantiate(cfg.images)
    images.check()
    images.indices(store.examples["path"].to_list(), store.name)
    return images


def layers_of(layer: Any) -> Sequence[int]:
    """The blocks that `layer` names: none, one or a list."""
    value = plain(layer)
    if value is None:
        return ()
    layers = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(one, int) for one in layers):
        raise ValueError(f"layer={layer}: must be a block index or a list of them, e.g. layer=[8,11].")
    return layers
