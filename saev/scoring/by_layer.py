"""Which dictionaries are compared at which layer of a recording."""

import logging
from collections.abc import Sequence

from saev.saved import Recording, SavedDictionary, layer_of, open_recording
from saev.shards import ActivationStore

log = logging.getLogger(__name__)


def opened(recording: Recording) -> ActivationStore:
    """The recording, opened where its directory is given."""
    return recording if isinstance(recording, ActivationStore) else ActivationStore(recording)


def dictionaries_by_layer(
    saved: Sequence[SavedDictionary], store: ActivationStore, layers: Sequence[int]
) -> dict[int, list[SavedDictionary]]:
    """The dictionaries of each layer; one that does not say its layer is of the only one in `layers`. ValueError without a layer."""
    out: dict[int, list[SavedDictionary]] = {store.resolve_layer(layer): [] for layer in layers}
    for one in saved:
        unknown = one.provenance.get("layer") is None and len(layers) == 1
        layer = layer_of(one, open_recording(one, store), layers[0] if unknown else None)
        if layers and layer not in out:
            log.warning("%s was trained on layer %d, which is not among layer=%s: left out", one.name, layer, [*layers])
        else:
            out.setdefault(layer, []).append(one)
    if not out:
        raise ValueError("no layer is named: give dictionaries, or layer=[8].")
    return out
