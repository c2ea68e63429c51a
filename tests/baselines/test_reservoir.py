"""The sample of a reservoir: SplitMix64 in exact integers, every token equally likely, the same however a stream is cut."""

import numpy as np
import torch
from scipy.stats import chisquare, kstest

from saev.baselines.reservoir import Reservoir, mixed

N, D = 500, 3
ROWS = torch.arange(N).float()[:, None].repeat(1, D)
TOKENS = torch.arange(N) * 7 + 3


def splitmix(token, seed):
    mask = (1 << 64) - 1

    def finalise(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    x = finalise((token * 0x9E3779B97F4A7C15 + finalise(seed)) & mask)
    return x - (1 << 64) if x >> 63 else x


def kept(seed=0, parts=1, size=40, order=None):
    reservoir = Reservoir(size, D, seed)
    order = torch.arange(N) if order is None else order
    for chosen in order.chunk(parts):
        reservoir.add(ROWS[chosen], TOKENS[chosen])
    return reservoir


def test_the_hash_is_splitmix64():
    tokens = [0, 1, 2, 12345, 2**40 + 7, 2**62]
    for seed in (0, 1, 2**31 + 5):
        assert mixed(torch.tensor(tokens), seed).tolist() == [splitmix(token, seed) for token in tokens]


def test_hashes_are_uniform_and_different_between_seeds():
    hashes = mixed(torch.arange(20000), 3).double().numpy() / 2**63
    assert kstest(hashes, "uniform", args=(-1, 2)).pvalue > 1e-3
    other = mixed(torch.arange(20000), 4).double().numpy() / 2**63
    assert abs(np.corrcoef(hashes, other)[0, 1]) < 0.03


def test_the_smallest_hashes_are_kept_in_their_order():
    wanted = sorted(range(N), key=lambda i: splitmix(int(TOKENS[i]), 5))[:40]
    assert kept(seed=5).rows[:, 0].int().tolist() == wanted


def test_neither_batches_nor_order_nor_processes_change_the_sample():
    one = kept()
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    for other in (kept(parts=9), kept(parts=500), kept(parts=4, order=shuffled)):
        torch.testing.assert_close(other.rows, one.rows, rtol=0, atol=0)
    a, b = kept(order=shuffled[:30]), kept(order=shuffled[30:])  # one of them not full yet
    a.merge(b)
    torch.testing.assert_close(a.rows, one.rows, rtol=0, atol=0)
    torch.testing.assert_close(a.hashes, one.hashes, rtol=0, atol=0)


def test_every_token_is_as_likely_as_the_others():
    counts = np.zeros(N)
    for seed in range(400):
        counts[kept(seed=seed).rows[:, 0].long().numpy()] += 1
    assert counts.sum() == 400 * 40 and chisquare(counts).pvalue > 1e-3


def test_an_interrupted_stream_resumes():
    first, second = kept(order=torch.arange(200)), Reservoir(40, D, 0)
    second.load_state_dict(first.state_dict())
    second.add(ROWS[200:], TOKENS[200:])
    torch.testing.assert_close(second.rows, kept().rows, rtol=0, atol=0)
