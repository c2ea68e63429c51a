"""The readers of docs/formats.md, which need NumPy alone, read what we write."""

import re
import textwrap
from pathlib import Path

import numpy as np
import webdataset as wds
from recordings import acts_of, labels_of, record
from safetensors.numpy import load_file

from saev.shards import ActivationStore

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
READER, DECODER = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def test_values_and_labels(tmp_path):
    root = record(tmp_path / "data", 6, examples_per_shard=6, skipped=(2,), labels=True)
    seen = {}
    collecting = READER + "    seen[int(index)] = acts.copy(), labels.copy()\n"
    exec(compile(collecting, "formats.md", "exec"), {"dataset": root, "seen": seen})
    assert list(seen) == [0, 1, 3, 4, 5]
    for example, (acts, labels) in seen.items():
        np.testing.assert_array_equal(acts, acts_of(example, 1, 17, 16))
        np.testing.assert_array_equal(labels, labels_of(example, 1, 16))


def test_eight_bits(tmp_path):
    root = record(tmp_path / "data", 6, examples_per_shard=6, dtype="int8")
    names = {"np": np}
    exec(compile(DECODER, "formats.md", "exec"), names)
    codec = load_file(root / "layer-01" / "codec.safetensors")
    reading = READER + "    break\n"
    exec(compile(reading, "formats.md", "exec"), read := {"dataset": root})
    found, wanted = names["decode"](read["acts"], codec["mean"], codec["std"]), acts_of(0, 1, 17, 16)
    assert found.dtype == np.float32
    assert np.square(found - wanted).sum() < 1e-3 * np.square(wanted - wanted.mean(0)).sum()


def test_tars_of_other_programs(tmp_path):
    with wds.TarWriter(str(tmp_path / "theirs.tar")) as sink:
        sink.write({"__key__": "x", "npy": np.ones((3, 4), np.float32)})
    snippet = textwrap.dedent(re.search(r"^    from saev.shards.foreign.*?\)\n", PAGE, re.M | re.S)[0])
    snippet = re.sub(r"outputs/activations/theirs", str(tmp_path / "data"), snippet)
    exec(re.sub(r"\[.*\]", repr([str(tmp_path / "theirs.tar")]), snippet), {})
    np.testing.assert_array_equal(ActivationStore(tmp_path / "data").read(8, 0), np.ones((3, 4)))
