"""The fused step without a GPU: its kernels run by Triton's interpreter, and the layout that the order of pairs rests on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saev.ops.fused.shapes import group_width, padded, refusal

pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["interpreted_step.py", "interpreted_training.py"])
def test_the_kernels_compute_what_they_should(name):
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    path = Path(__file__).with_name(name)
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(path)]
    ran = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=path.parents[3],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("d_sae", "k", "width"), [(16384, 32, 32), (64, 4, 8), (40, 40, 1), (96, 16, 2), (2**21, 32, None)]
)
def test_groups_are_at_least_twice_as_many_as_codes(d_sae, k, width):
    assert group_width(d_sae, k) == width


def test_shapes_that_kernels_do_not_take_are_named():
    assert refusal(1024, 16384, 32) is None and refusal(384, 6144, 32) is None
    assert "d_model=100" in str(refusal(100, 1024, 8)) and "d_sae=1001" in str(refusal(64, 1001, 8))


def test_tiles_are_powers_of_two():
    assert [padded(n) for n in (1, 2, 3, 384, 1024)] == [1, 2, 4, 512, 1024]
