"""Golden losses: a change that claims not to change numbers reproduces golden.csv.

Regenerate: PYTHONPATH=tests python tests/nn/test_golden.py

Losses of 50 steps on the CPU in float32; the tolerance leaves room for other BLAS libraries, not for another algorithm.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import mostly_slow
from nn.small_bank import OBJECTIVES, train

from saev.nn import AuxK, BatchTopK, Gated, JumpReLU, Member, Normaliser, ReLU, TopK
from saev.shards import Moments

FILE = Path(__file__).with_name("golden.csv")
STEPS = (0, 1, 2, 5, 10, 20, 30, 49)
SAES = ("relu", "topk", "batchtopk", "jumprelu", "gated")
MEMBERS = [f"{sae}-{objective}" for objective in ("plain", "matryoshka", "random") for sae in SAES]


def losses(name: str) -> list[float]:
    """The losses of one architecture at STEPS, on known data."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(64, 16))
    rows = (rng.exponential(size=(512, 64)) * (rng.random((512, 64)) < 0.05)) @ atoms + 1
    normaliser = Normaliser.fit(Moments.of(rows))
    z = normaliser(torch.from_numpy(rows))
    sae, objective = name.split("-")
    sparsifier = {
        "relu": ReLU(1e-2),
        "topk": TopK(4),
        "batchtopk": BatchTopK(4),
        "jumprelu": JumpReLU(l0_target=4),
        "gated": Gated(1e-2, l0_target=4),
    }[sae]
    spec = Member(sparsifier, name, OBJECTIVES[objective](), AuxK(dead_tokens=2000), lr=3e-3, d_sae=64)
    member = spec.build(normaliser, z)
    history = train(member, 50, z)
    return [float(history[step].loss.detach()) for step in STEPS]


@pytest.mark.parametrize("name", mostly_slow(MEMBERS, 3))
def test_losses_are_the_recorded_ones(name):
    recorded = {
        row["member"]: [float(row[str(step)]) for step in STEPS]
        for row in csv.DictReader(FILE.read_text().splitlines())
    }
    assert losses(name) == pytest.approx(recorded[name], rel=1e-2)


if __name__ == "__main__":
    with FILE.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["member", *STEPS])
        for member in MEMBERS:
            writer.writerow([member, *(f"{value:.6f}" for value in losses(member))])
