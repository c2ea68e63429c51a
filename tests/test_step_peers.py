"""The steps of other libraries that ours are measured beside: each trains, on float32, and is skipped where it is missing."""

import importlib.util

import pytest
import torch

from benchmarks.step_peers import PEERS, Size

SIZE = Size(d_model=32, d_sae=128, k=8, lr=1e-3)
MODULES = {"eai-sparsify": "sparsify", "sae-lens": "sae_lens", "overcomplete": "overcomplete"}
NAMES = [(architecture, library) for architecture, peers in PEERS.items() for library in peers]


@pytest.fixture
def x():
    generator = torch.Generator().manual_seed(0)
    codes = torch.rand(512, 48, generator=generator) * (torch.rand(512, 48, generator=generator) < 0.1)
    return codes @ torch.randn(48, SIZE.d_model, generator=generator)


def build(architecture: str, library: str):
    package = library.removesuffix(" sparse")
    if importlib.util.find_spec(MODULES[package]) is None:
        pytest.skip(f"{package} is not installed: uv sync --group peers")
    torch.manual_seed(0)
    return PEERS[architecture][library](SIZE)


@pytest.mark.filterwarnings("ignore")  # those libraries' own
@pytest.mark.parametrize(("architecture", "library"), NAMES)
def test_a_peer_learns(architecture, library, x):
    peer = build(architecture, library)

    def error() -> float:
        with torch.no_grad():
            return float((peer.reconstruct(x) - x).square().mean())

    peer.step(x)
    before = error()
    for _ in range(50):
        peer.step(x)
    assert error() < 0.8 * before
    assert peer.reconstruct(x).dtype == torch.float32
