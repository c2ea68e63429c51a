"""Selections over a batch, and what thresholds learn: by Triton's interpreter without a GPU, at a real size with one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["interpreted_selection.py", "interpreted_thresholds.py"])
def test_selections_by_the_interpreter(file):
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    path = Path(__file__).with_name(file)
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(path)]
    ran = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=path.parents[3], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "d_sae", "k"), [(16384, 16384, 32), (16384, 6144, 32), (1000, 6100, 16)])
def test_selections_on_a_gpu(rows, d_sae, k):
    """As many as in training, on few large latents, with ties: bfloat16 has few values."""
    from ops.fused.selection_checks import check_batchtopk, check_beyond

    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    h = torch.randn(rows, d_sae, generator=generator, device=device).bfloat16()
    h *= torch.rand(d_sae, generator=generator, device=device) ** 4  # few latents have most of the pairs
    h[:, 5], h[7] = 9.0, h[7].abs() + 9
    check_batchtopk(h, k)
    check_batchtopk(torch.where(torch.rand(h.shape, generator=generator, device=device) < 1e-4, h, -h.abs()), k)
    bound = h[:1000].float().quantile(1 - 2 * k / d_sae, dim=0)
    check_beyond(h, bound, rows * k * 4)
    check_beyond(h, bound, rows * k)
