"""metrics.jsonl is read as far as it is complete."""

import json

import numpy as np

from saev.visuals.history import last_validation, read_history


def line(split, step, member, **metrics):
    return json.dumps({"split": split, "step": step, "tokens": 10 * step, "member": member, **metrics})


def test_curves_and_the_last_validation(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert read_history(path) == {} and last_validation(path) == []
    lines = [
        line("train", 1, "a", z_mse=0.5), line("val", 1, "a", nmse=0.6), line("val", 1, "b", nmse=0.7),
        line("train", 2, "a", z_mse=0.4, l0=3),
        line("val", 2, "a", nmse=0.5), line("val", 2, "b", nmse=0.6, probe_map=0.2), line("train", 3, "a", z_mse=0.1)[:20],
    ]  # fmt: skip
    path.write_text("\n".join(lines))
    assert [(one["member"], one["nmse"]) for one in last_validation(path)] == [("a", 0.5), ("b", 0.6)]
    (curve,) = read_history(path).values()
    np.testing.assert_array_equal([curve["tokens"], curve["z_mse"], curve["l0"]], [[10, 20], [0.5, 0.4], [np.nan, 3]])
    probed = read_history(path, ["probe_map"], "val")
    np.testing.assert_array_equal(probed["b"]["probe_map"], [np.nan, 0.2])
