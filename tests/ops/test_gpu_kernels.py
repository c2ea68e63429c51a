"""The GPU kernels without a GPU: run by Triton's interpreter, and compiled for the architectures that are in use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saev.ops import gpu

pytest.importorskip("triton")


@pytest.mark.slow
def test_the_kernels_compute_what_they_should():
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    path = Path(__file__).with_name("interpreted_kernels.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(path)]
    ran = subprocess.run(
        command, env=os.environ | {"TRITON_INTERPRET": "1"}, cwd=path.parents[2], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("fault", ["wrong", "raises"])
def test_kernels_that_do_not_work_are_named_and_left_out(monkeypatch, caplog, fault):
    def check(device):
        if fault == "raises":
            raise RuntimeError("no such architecture")
        return "sums"

    monkeypatch.setattr(gpu, "check", check)
    gpu._tested.cache_clear()
    assert not gpu.kernels(torch.device("cuda", 7))
    assert ("no such architecture" if fault == "raises" else "the sums are wrong") in caplog.text
    gpu._tested.cache_clear()


def test_a_cpu_has_no_kernels():
    assert not gpu.kernels(torch.device("cpu")) and not gpu.kernels(torch.device("meta"))


@pytest.mark.slow
def test_kernels_compile_without_spilling_registers():
    """For an A100, an H100 and a B200, without any of them: what can be interpreted need not compile."""
    from benchmarks.compiled_kernels import SHARED, compile_in_parallel, faults

    rows = compile_in_parallel([*SHARED])
    assert {row.architecture for row in rows} == {80, 90, 100}
    assert [row for row in rows if faults(row)] == []
