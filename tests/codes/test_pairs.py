"""Pairs are the nonzeros of the dense codes, whatever the dictionary; rounding keeps what fires."""

import numpy as np
import pytest
import torch
from codes.dictionaries import D_MODEL, KINDS, OneHot, Signed, sae
from recordings import acts_of

from saev.codes.pairs import narrowed, sparse_codes
from saev.codes.store import CodeRows
from saev.dictionary import Dictionary

ACTS = torch.cat([torch.from_numpy(acts_of(example, 1, 17, D_MODEL)) for example in range(6)])


def check_canonical(codes):
    """CSR as scipy calls canonical: latents ascend within a row, each once, and no value is 0."""
    assert codes.latents.dtype == torch.int32 and codes.offsets.dtype == torch.int64
    assert codes.offsets[0] == 0 and codes.offsets[-1] == len(codes.latents) == len(codes.values)
    key = codes.rows() * 1000 + codes.latents
    assert (key.diff() > 0).all() and (codes.values != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_the_dense_codes(kind):
    dictionary = sae(kind)
    dense, codes = dictionary.encode(ACTS), sparse_codes(dictionary, ACTS)
    assert 0 < len(codes.values) < 0.3 * dense.numel()
    check_canonical(codes)
    torch.testing.assert_close(codes.dense(dictionary.n_latents), dense, rtol=0, atol=0)


def test_any_dictionary_will_do():
    for dictionary in (Signed(), OneHot()):
        assert isinstance(dictionary, Dictionary)
        codes = sparse_codes(dictionary, ACTS)
        check_canonical(codes)
        torch.testing.assert_close(codes.dense(40), dictionary.encode(ACTS), rtol=0, atol=0)
    assert len(sparse_codes(OneHot(), ACTS).values) == len(ACTS)


@pytest.mark.parametrize("most", [1, 3, 7, 500])
@pytest.mark.parametrize("kind", ["signed", "topk", "relu", "batchtopk"])
def test_the_largest_by_absolute_value_are_kept(kind, most):
    dictionary = Signed() if kind == "signed" else sae(kind)
    dense, codes = dictionary.encode(ACTS).numpy(), sparse_codes(dictionary, ACTS, most)
    check_canonical(codes)
    wanted = np.zeros_like(dense)
    for row, values in enumerate(dense):
        best = np.argsort(-np.abs(values))[:most]
        wanted[row, best] = values[best]
    np.testing.assert_array_equal(codes.dense(dense.shape[1]).numpy(), wanted)


def test_tokens_without_any_code_have_empty_rows():
    codes = sparse_codes(sae("topk"), torch.full((3, D_MODEL), -1e3))
    silent = sae("relu")
    silent.b_enc.fill_(-1e6)
    assert len(codes.offsets) == 4
    none = sparse_codes(silent, ACTS)
    assert len(none.values) == 0 and none.offsets.tolist() == [0] * (len(ACTS) + 1)
    assert CodeRows(none.offsets.numpy(), none.latents.numpy(), none.values.numpy(), 96).dense().sum() == 0


def test_another_width_is_refused():
    for dictionary in (sae("topk"), sae("relu"), Signed()):
        with pytest.raises(ValueError, match="d_model=5, this dictionary takes d_model=16"):
            sparse_codes(dictionary, torch.zeros(2, 5))


def test_rounding_keeps_what_fires():
    values = torch.tensor([1e-30, -1e-30, 65504.0, 70000.0, 0.1, -2.0])
    rounded = narrowed(values, torch.float16)
    assert (rounded != 0).all() and (rounded.sign() == values.sign()).all()
    assert rounded[2] == 65504 and torch.isinf(rounded[3])
    torch.testing.assert_close(narrowed(values, torch.float32), values, rtol=0, atol=0)
