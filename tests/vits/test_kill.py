"""A recording of images killed at ten random moments goes on in a new process, and equals an undisturbed one."""

from pathlib import Path

import numpy as np
from vits.micro_recordings import SMALL, contents, recording


def run(photos: str, root: str) -> None:
    """Two layers, four shards, in batches that do not divide them."""
    recording(Path(photos), Path(root), **SMALL | {"n_workers": 1}).run(False)


def test_killed_at_ten_random_moments(nursery, photos, tmp_path):
    call = "vits.test_kill:run"
    undisturbed = nursery.run(call, photos, tmp_path / "whole", root=tmp_path / "whole")
    assert not undisturbed["error"]
    whole, half_shards = contents(tmp_path / "whole"), 0
    for trial, at in enumerate(np.random.default_rng(0).integers(3, undisturbed["moments"], 10).tolist()):
        root = tmp_path / f"{trial}"
        assert nursery.run(call, photos, root, root=root, at=at)["killed"]
        half_shards += bool(list(root.rglob("*.part")))
        assert not recording(photos, root).recorded()
        again = nursery.run(call, photos, root, root=root)
        assert not again["error"], again["error"]
        assert contents(root) == whole, f"killed at moment {at}"
    assert half_shards > 2, "some were killed in the middle of a shard"
