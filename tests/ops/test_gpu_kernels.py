"""The GPU kernels without a GPU: run by Triton's interpreter, and compiled for the architectures that are in use."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saev.ops import gpu

triton = pytest.importorskip("triton")


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
    gpu._tried.cache_clear()
    assert not gpu.kernels(torch.device("cuda", 7))
    assert ("no such architecture" if fault == "raises" else "the sums are wrong") in caplog.text
    gpu._tried.cache_clear()


def test_a_cpu_is_not_asked():
    assert not gpu.kernels(torch.device("cpu")) and not gpu.kernels(torch.device("meta"))


BITS = {"bf16": 16, "fp16": 16, "fp32": 32}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("kind", ["bf16", "fp16", "fp32", "fp64"])
def test_kernels_compile(kind, capability):
    """For an A100 and an H100, without either: what can be interpreted need not compile. Numbers that are 1 are compiled in."""
    gpu_sums, gpu_topk = (importlib.import_module(f"saev.ops.{name}") for name in ("gpu_sums", "gpu_topk"))
    backend, language = (pytest.importorskip(f"triton.{name}") for name in ("backends.compiler", "language"))

    def compiled(kernel, types, constants, n_warps=4):
        source = triton.compiler.ASTSource(
            fn=kernel, signature={name: types.get(name, "constexpr") for name in kernel.arg_names}, constexprs=constants
        )
        target, options = backend.GPUTarget("cuda", capability, 32), {"num_warps": n_warps, **gpu_sums.OPTIONS}
        return triton.compile(source, target=target, options=options).asm["cubin"]

    summed = "fp64" if kind == "fp64" else "fp32"
    shared = {"out": f"*{summed}", "places": "*i64", "offsets": "*i64", "width": "i32"}
    pairs = {"PAIRS": gpu_sums._PAIRS, "WIDTH": gpu_sums._WIDTH, "SUM": getattr(language, f"float{summed[2:]}")}
    sums = shared | {"table": f"*{kind}", "weights": f"*{kind}"}
    assert compiled(gpu_sums._weighted_sum, sums, pairs)
    assert compiled(gpu_sums._products, shared | {"left": f"*{kind}", "right": f"*{kind}"}, pairs)
    del sums["width"]
    assert compiled(gpu_sums._weighted_sum, sums, pairs | {"width": 1})
    if kind in BITS:
        largest = {"values": f"*{kind}", "places": "*i64", "h": f"*{kind}", "d_sae": "i32", "k": "i32"}
        assert compiled(gpu_topk._topk, largest, {"N": 16384, "CHUNK": 2048, "BITS": BITS[kind]}, n_warps=16)
        del largest["k"]
        assert compiled(gpu_topk._topk, largest, {"N": 64, "CHUNK": 64, "BITS": BITS[kind], "k": 1}, n_warps=1)
