"""A recording killed at any step on the disk goes on, and becomes the dataset that it would have been."""

from pathlib import Path

import numpy as np
from recordings import record

from saev.shards import ActivationStore, layer_shard
from saev.shards.shard_writer import ShardWriter


def record_small(root: str) -> None:
    """Two layers of int8 with labels, three shards, an image that cannot be read."""
    record(Path(root), 5, 4, 8, (1, 2), examples_per_shard=2, skipped=(3,), dtype="int8", labels=True)


def record_saving(root: str) -> None:
    """One shard of twelve images, whose state is saved after each block of about two images."""
    layer_shard.BLOCK_BYTES, ShardWriter.SAVE_EVERY_S = 6000, 0
    record(Path(root), 12, 4, 8, (1, 2), examples_per_shard=12, skipped=(3,), dtype="int8", labels=True)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_killed_at_any_moment(nursery, tmp_path):
    call = "shards.test_kill:record_small"
    undisturbed = nursery.run(call, tmp_path / "whole", root=tmp_path / "whole")
    assert not undisturbed["error"] and undisturbed["moments"] > 60
    whole, half_shards, leftovers = files(tmp_path / "whole"), 0, 0
    n = undisturbed[
        "moments"
    ]  # each of them was tried once; the tests take every sixth, and each rename of the merging
    for at in sorted({*np.random.default_rng(0).permutation(n)[: n // 6].tolist(), *range(n - 30, n, 3)}):
        root = tmp_path / f"cut-{at}"
        assert nursery.run(call, root, root=root, at=at + 1)["killed"]
        left = files(root)
        half_shards += any(name.endswith(".part") for name in left)
        leftovers += any(name.endswith(".tmp") for name in left)
        complete = b'"complete": true' in left.get("manifest.json", b"")
        assert left == whole or not complete, f"moment {at}: a dataset that says it is complete is"
        if not complete:
            again = nursery.run(call, root, root=root)
            assert not again["error"], f"moment {at}: {again['error']}"
            found = files(root)
            assert found.keys() == whole.keys(), f"moment {at}"
            assert found == whole, f"moment {at}"
    assert half_shards and leftovers > 2, "some were killed in the middle of a shard, some in the middle of a table"


def test_killed_within_a_shard_that_is_continued(nursery, tmp_path):
    call = "shards.test_kill:record_saving"
    undisturbed = nursery.run(call, tmp_path / "whole", root=tmp_path / "whole")
    assert not undisturbed["error"]
    whole, continued = files(tmp_path / "whole"), 0
    for at in np.random.default_rng(0).permutation(int(0.9 * undisturbed["moments"]))[:14].tolist():
        root = tmp_path / f"cut-{at}"
        killed = nursery.run(call, root, root=root, at=at + 1)
        assert killed["killed"], killed
        continued += (root / "shard-000000.part.safetensors").is_file()
        assert not nursery.run(call, root, root=root)["error"]
        assert files(root) == whole, f"moment {at}"
    assert continued > 2


def test_killed_twice(nursery, tmp_path):
    """What the first death left does not mislead the one who goes on and dies too."""
    call, rng = "shards.test_kill:record_small", np.random.default_rng(0)
    nursery.run(call, tmp_path / "whole", root=tmp_path / "whole")
    for trial in range(8):
        root = tmp_path / f"{trial}"
        for at in rng.integers(1, 60, 2).tolist():
            nursery.run(call, root, root=root, at=at)
        try:
            ActivationStore(root)
        except ValueError:
            assert not nursery.run(call, root, root=root)["error"]
        assert files(root) == files(tmp_path / "whole")
