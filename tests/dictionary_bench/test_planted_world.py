"""Dictionaries on planted features: the oracle and a trained one score higher than frozen and untrained ones."""

import numpy as np
import pytest
import torch

from saev.dictionary_bench.coalitions import coalition_matching
from saev.dictionary_bench.encoding import codes_by_image
from saev.dictionary_bench.paired_images import ImagePairs, paired_images
from saev.dictionary_bench.reconstruction import nmse
from saev.nn import Normaliser, SparseAutoencoder, TopK
from saev.nn.settings import Member
from saev.shards import ActivationStore, RecordingWriter
from saev.shards.selected_tokens import Selection
from saev.trait_evaluation.table import TraitTable

N, PATCHES, D, FEATURES, ACTIVE = 240, 8, 24, 48, 2
HALF = N // 2  # image i + HALF is image i without its first feature


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(directions of the features, which images have which, the recording): each image has 5 features, of which 2 at a time are active."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))[0][:, :D]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    present = np.zeros((N, FEATURES), bool)
    writer = RecordingWriter(
        tmp_path_factory.mktemp("world") / "data", {}, N, 40, [1], {"patches": PATCHES}, D, "float32"
    )
    images = []
    for i in range(HALF):
        own = rng.permutation(FEATURES)[:5]
        own[0] = i % 4  # the attributes of the pairs
        codes = np.zeros((PATCHES, FEATURES))
        for token in range(PATCHES):
            codes[token, own[[token % 5, (token + 2) % 5]]] = rng.uniform(1, 2, ACTIVE)
        without = codes.copy()
        without[:, own[0]] = 0
        images.append((codes, without))
        present[i, own], present[i + HALF, own[1:]] = True, True
    present[HALF:][np.arange(HALF), np.arange(HALF) % 4] = False
    for shard in writer.pending():
        with writer.shard(shard) as out:
            for i in writer.examples_of(shard):
                acts = images[i % HALF][i // HALF] @ directions
                out.add(i, {1: acts.astype(np.float32)}, {"key": str(i), "path": f"{i}.jpg", "grid_h": 2, "grid_w": 4})
    writer.finish()
    store = ActivationStore(writer.root)
    return torch.tensor(directions, dtype=torch.float32), present, Selection(store, 1, np.arange(N))


def trained(acts, freeze, steps=600):
    member = Member(TopK(ACTIVE), d_sae=FEATURES, seed=0, init="random", freeze=freeze, lr=0.01)
    one = member.build(Normaliser(torch.zeros(D), torch.ones(())), acts, len(acts))
    parameters = [p for p in one.sae.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(parameters, lr=one.lr) if parameters else None
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps if optimiser else 0):
        losses = one(acts[torch.randint(len(acts), (512,), generator=generator)])
        losses.loss.backward()
        one.condition_gradients(1.0)
        optimiser.step()
        optimiser.zero_grad()
        one.finish_step(losses.l0)
    return one.sae.finalised().eval().requires_grad_(False)


def oracle(directions):
    sae = SparseAutoencoder(D, FEATURES, TopK(ACTIVE)).eval().requires_grad_(False)
    sae.encoder.copy_(directions)
    sae.w_dec.copy_(directions)
    return sae


@pytest.fixture(scope="module")
def scores(world):
    directions, present, selection = world
    acts = torch.tensor(np.concatenate([selection.store.read(1, i, "patches") for i in range(N)])).float()
    members = {"oracle": oracle(directions)} | {name: trained(acts, name) for name in ("none", "decoder", "all")}
    codes = codes_by_image(members, selection)
    both = present[:, 4] | present[:, 5], present[:, 6] | present[:, 7]
    table = np.concatenate([present, np.stack(both, 1)], 1).astype(np.int8)
    concepts = TraitTable(tuple(f"c{i}" for i in range(table.shape[1])), table)
    pairs = ImagePairs(np.arange(HALF), np.arange(HALF, N), [str(i % 4) for i in range(HALF)])
    return {
        name: {
            "nmse": nmse(one).value,
            "coalitions": coalition_matching(one, concepts, permutations=2)[0],
            "pairs": paired_images(one.pooled, pairs, permutations=2)[0].value,
        }
        for name, one in codes.items()
    }


def test_frozen_and_untrained_dictionaries_fail_where_the_oracle_and_trained_ones_do_not(scores):
    f1 = {name: one["coalitions"].value for name, one in scores.items()}
    assert min(f1["oracle"], f1["none"]) > max(f1["decoder"], f1["all"]) + 0.25, f1
    pairs = {name: one["pairs"] for name, one in scores.items()}
    assert min(pairs["oracle"], pairs["none"]) > max(pairs["decoder"], pairs["all"]), pairs
    error = {name: one["nmse"] for name, one in scores.items()}
    assert max(error["oracle"], error["none"]) < error["decoder"] < error["all"], error


def test_random_directions_hold_something_too(scores):
    for name, one in scores.items():
        assert one["coalitions"].value > one["coalitions"].null + 0.1, name
