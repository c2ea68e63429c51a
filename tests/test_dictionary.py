"""Scorers: the codes of any dictionary as scores of its prototypes."""

import torch

import saev
from saev.baselines.kmeans import KMeansDictionary
from saev.nn import Normaliser, SparseAutoencoder, TopK


def test_a_scorer_scores_each_token_for_each_prototype_of_any_dictionary():
    atoms, acts = torch.eye(3, 4), torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    normaliser = Normaliser(torch.zeros(4), torch.ones(()))
    for dictionary in (
        KMeansDictionary(normaliser, atoms),
        KMeansDictionary(normaliser, atoms, "inverse"),
        SparseAutoencoder(4, 3, TopK(2), normaliser),
    ):
        score = saev.Scorer(dictionary)
        assert score.n_prototypes == 3 and torch.equal(score(acts), dictionary.encode(acts))
    nearest = torch.cdist(acts, atoms).argmin(1)
    assert torch.equal(saev.Scorer(KMeansDictionary(normaliser, atoms, "inverse"))(acts).argmax(1), nearest)
