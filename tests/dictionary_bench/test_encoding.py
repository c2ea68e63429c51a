"""The pass over a recording against dense arithmetic."""

import numpy as np
import pytest
import torch
from dictionary_bench.worlds import Linear, dense_acts, dense_max, linear, selection, topk

from saev.dictionary_bench.encoding import codes_by_image, whole_images
from saev.evaluation.measuring import measure

MEMBERS = {
    "topk": topk, "sparse": linear, "signed": lambda: linear(signed=True), "dense": lambda: linear(threshold=0.0),
    "projections": lambda: linear(threshold=-1e9, signed=True), "silent": lambda: linear(threshold=1e9),
}  # fmt: skip


def by_definition(acts: torch.Tensor, dictionary, grid: tuple[int, int], first: int = 0):
    """(max, active, Moran's I as a sum over pairs of patches)."""
    codes = dictionary.encode(acts.flatten(0, 1)).unflatten(0, acts.shape[:2]).double().detach()
    cells = [(r, c) for r in range(grid[0]) for c in range(grid[1])]
    w = torch.tensor(
        [[float(p != q and abs(p[0] - q[0]) <= 1 and abs(p[1] - q[1]) <= 1) for q in cells] for p in cells]
    )
    maps = codes[:, first:]
    centred = maps - maps.mean(1, keepdim=True)
    variation = centred.square().sum(1)
    value = len(cells) / w.sum() * torch.einsum("ipl,pq,iql->il", centred, w.double(), centred) / variation
    active = (maps != 0).sum(1)
    valid = (active >= 5) & (active <= int(0.9 * len(cells))) & (variation > 1e-10)
    return codes.amax(1), (codes != 0).sum(1), torch.where(valid, value, torch.nan)


@pytest.mark.parametrize("tokens", ["patches", "all"])
@pytest.mark.parametrize("batch_size", [7, 50, 4096])
def test_codes_by_image_are_those_of_dense_arithmetic(tmp_path, tokens, batch_size):
    chosen = selection(tmp_path / "r", tokens, n_examples=12, examples_per_shard=5)
    members = {name: build() for name, build in MEMBERS.items()}
    acts, found = dense_acts(chosen), codes_by_image(members, chosen, batch_size)
    for name, codes in found.items():
        largest, active, morans_i = by_definition(acts, members[name], (4, 4), int(tokens == "all"))
        assert np.allclose(dense_max(codes), largest, atol=1e-5), name
        assert (codes.matrix(codes.active).toarray() == active.numpy()).all()
        shown = np.full(largest.shape, np.nan)
        shown[np.repeat(np.arange(12), np.diff(codes.offsets)), codes.latents] = codes.morans_i
        assert np.allclose(shown, morans_i, atol=1e-5, equal_nan=True)
        assert np.isfinite(shown).any() == (name != "silent")
        x_hat = members[name].decode(members[name].encode(acts.flatten(0, 1))).unflatten(0, acts.shape[:2]).detach()
        residual = (acts - x_hat).double()
        assert np.allclose(codes.reconstruction, x_hat.mean(1), atol=1e-5)
        assert np.allclose(codes.residual_total, residual.sum((1, 2)), atol=1e-3)
        assert np.allclose(codes.residual_square, residual.square().sum((1, 2)))
        assert (codes.firings == active.sum(0).numpy()).all()
        assert (codes.live == (largest.amax(0) > 0).numpy()).all()
    images = found["topk"].images
    assert images is found["sparse"].images
    assert np.allclose(images.mean, acts.mean(1), atol=1e-5)
    assert np.allclose(images.variation, (acts - acts.mean((0, 1))).double().square().sum((1, 2)))
    assert np.allclose(images.square, acts.double().square().sum((1, 2)))
    assert np.allclose(images.total, acts.double().sum((1, 2)))


def test_nmse_of_images_is_that_of_the_evaluation(tmp_path):
    chosen = selection(tmp_path / "r", n_examples=9, skipped=(2, 8))
    member = topk()
    codes = codes_by_image({"a": member}, chosen)["a"]
    row = measure({"a": member}, chosen)["a"]
    assert codes.residual_square.sum() / codes.images.variation.sum() == pytest.approx(row["nmse"], rel=1e-6)
    assert codes.firings.sum() / codes.images.tokens.sum() == pytest.approx(row["l0"])
    assert codes.images.example.tolist() == [0, 1, 3, 4, 5, 6, 7]


def test_images_without_all_their_patches_have_no_map(tmp_path):
    chosen = selection(tmp_path / "r", n_examples=6, labels=True)
    chosen = type(chosen)(chosen.store, 1, chosen.images, "patches", ignore_labels=(0,))
    codes = codes_by_image({"a": linear(threshold=0.5)}, chosen)["a"]
    assert not codes.images.grids.any() and np.isnan(codes.morans_i).all()


def test_codes_that_are_not_finite_are_refused(tmp_path):
    atoms = torch.full((4, 16), torch.nan)
    with pytest.raises(ValueError, match="a has codes or reconstructions that are NaN"):
        codes_by_image({"a": Linear(atoms, -1.0)}, selection(tmp_path / "r", n_examples=6))


def test_batches_are_cut_between_images():
    example = np.repeat([3, 4, 9], [3, 5, 1])
    rows = {"acts": np.arange(9), "token": np.arange(9), "example": example}
    for size in range(1, 11):
        batches = [{key: column[at : at + size] for key, column in rows.items()} for at in range(0, 9, size)]
        cut = list(whole_images(batches))
        assert np.concatenate([acts for acts, _, _ in cut]).tolist() == list(range(9))
        assert np.concatenate([n for _, _, n in cut]).tolist() == [3, 5, 1]
