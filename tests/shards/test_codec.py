"""Rows are stored as they are, or in eight bits whose error is bounded by the token's scale."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saev.shards import Manifest
from saev.shards.codec import Codec, codec_path, keep_codec

FINITE = st.floats(-1e3, 1e3, width=32)


def int8_by_the_book(x, mean, std):
    """The documented formula, a token at a time."""
    decoded = []
    for token in x:
        z = (token - mean) / std
        scale = max(abs(z)) / 127 or 1.0
        decoded.append(mean + std * scale * np.round(z / scale))
    return np.array(decoded)


@settings(max_examples=40, deadline=None)
@given(arrays(np.float32, (5, 7), elements=FINITE), st.integers(0, 99))
def test_int8_follows_its_formula(x, seed):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(size=7).astype(np.float32), rng.uniform(0.1, 3, 7).astype(np.float32)
    codec = Codec.int8(mean, std)
    rows = codec.encode(x)
    assert rows.shape == (5, 11) and rows.dtype == np.int8 and codec.row_bytes == 11
    step = np.abs((x - mean) / std).max(1, keepdims=True) / 127 * std
    np.testing.assert_array_less(np.abs(codec.decode(rows) - x), 0.5001 * step + 1e-3)
    expected = int8_by_the_book(x.astype(np.float64), mean.astype(np.float64), std.astype(np.float64))
    # where z lies between two steps, float32 may round to the other one
    assert (np.abs(codec.decode(rows) - expected) <= 1.001 * step + 1e-3).all()
    assert np.isclose(codec.decode(rows), expected, rtol=1e-4, atol=1e-3).mean() > 0.9


def test_decoding_into_a_buffer_and_from_rows_of_a_file():
    acts = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    for codec in (Codec.calibrated(acts), Codec.plain("float16", 5)):
        rows = codec.encode(acts)
        width, dtype = codec.stored_shape_dtype
        assert rows.shape == (6, width) and rows.dtype == dtype and codec.row_bytes == rows[0].nbytes
        again = np.frombuffer(b"\0" + rows.tobytes(), np.uint8)[1:].view(dtype).reshape(6, width)
        out = np.empty((6, 5), codec.decoded_dtype)
        assert codec.decode(again, out) is out
        np.testing.assert_array_equal(out, codec.decode(rows))
        assert codec.decode(rows).dtype == codec.decoded_dtype
    plain = Codec.plain("float32", 5)
    assert plain.encode(acts) is acts and plain.decode(acts) is acts, "nothing is copied where nothing changes"


def test_a_token_at_the_mean_and_a_channel_that_never_moved():
    acts = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    acts[:, 2] = 7
    codec = Codec.calibrated(acts)
    np.testing.assert_allclose(codec.decode(codec.encode(acts[:1] * 0 + acts.mean(0))), acts.mean(0)[None], atol=1e-5)
    acts[0, 2] = 7.001  # moves after all, a little: the other channels keep their precision
    np.testing.assert_allclose(codec.decode(codec.encode(acts)), acts, atol=0.04)


def manifest(dtype):
    return Manifest({}, (3,), {"patches": 2}, 4, dtype, 1, 1)


def test_the_first_codec_of_a_layer_stays(tmp_path):
    one, two = (Codec.int8(np.full(4, value, np.float32), np.ones(4, np.float32)) for value in (1, 2))
    keep_codec(tmp_path, 3, one)
    keep_codec(tmp_path, 3, two)
    acts = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(Codec.load(tmp_path, 3, manifest("int8")).encode(acts), one.encode(acts))
    assert [path.name for path in (tmp_path / "layer-03").iterdir()] == ["codec.safetensors"]
    assert Codec.load(tmp_path, 3, manifest("float16")).decoded_dtype == np.float16


def test_codecs_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"layer-03/codec.safetensors is missing.*restore it"):
        Codec.load(tmp_path, 3, manifest("int8"))
    keep_codec(tmp_path, 3, Codec.int8(np.zeros(5, np.float32), np.ones(5, np.float32)))
    with pytest.raises(ValueError, match=r"layer-03/codec.safetensors is damaged .5 channels instead of 4"):
        Codec.load(tmp_path, 3, manifest("int8"))
    path = codec_path(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(ValueError, match=r"codec.safetensors is damaged"):
        Codec.load(tmp_path, 3, manifest("int8"))
    for std in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="std"):
            Codec.int8(np.zeros(2, np.float32), np.array([1, std], np.float32))
