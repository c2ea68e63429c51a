"""Which path is measured as the faster one, where there can be no doubt."""

import torch

from saev.ops.choice import faster_path


def test_few_of_many_latents_are_faster_by_pairs_and_many_of_few_by_matrices():
    few = faster_path(256, 64, 8192, 2, torch.device("cpu"))
    assert few.path == "sparse" and few.sparse < few.dense
    many = faster_path(2048, 64, 64, 48, torch.device("cpu"))
    assert many.path == "dense" and many.dense < many.sparse


def test_autocast_is_timed_too():
    timed = faster_path(32, 16, 64, 4, torch.device("cpu"), torch.bfloat16)
    assert timed.sparse > 0 and timed.dense > 0
