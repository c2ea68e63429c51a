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


BITS = {"bf16": 16, "fp16": 16, "fp32": 32}
KINDS = [("bf16", "bf16"), ("fp16", "fp16"), ("fp32", "fp32"), ("fp64", "fp64"), ("bf16", "fp32"), ("fp32", "bf16")]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("table", "other"), KINDS)
def test_kernels_compile(table, other, capability):
    """For an A100 and an H100, without either: what can be interpreted need not compile. `other`: of weights, and left factors."""
    gpu_sums, gpu_topk = (importlib.import_module(f"saev.ops.{name}") for name in ("gpu_sums", "gpu_topk"))
    backend, language = (pytest.importorskip(f"triton.{name}") for name in ("backends.compiler", "language"))

    def compiled(kernel, types, constants, n_warps=4):
        names, target = kernel.arg_names, backend.GPUTarget("cuda", capability, 32)
        signature = {name: types.get(name, "constexpr") for name in names}
        # as they are when a run launches them: addresses and sizes that 16 divides, which is what loads are widened by
        aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in types}
        source = triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
        options = {"num_warps": n_warps, **gpu_sums.OPTIONS}
        return triton.compile(source, target=target, options=options).asm["cubin"]

    summed = "fp64" if table == "fp64" else "fp32"
    shared = {"out": f"*{summed}", "indices": "*i64", "offsets": "*i64", "width": "i32"}
    sums = shared | {"table": f"*{table}", "weights": f"*{other}"}
    for pairs, warps in (gpu_sums._FEW, gpu_sums._MANY):
        sizes = {"PAIRS": pairs, "WIDTH": gpu_sums._WIDTH, "SUM": getattr(language, f"float{summed[2:]}")}
        assert compiled(gpu_sums._weighted_sum, sums, sizes, warps)
        assert compiled(gpu_sums._products, shared | {"left": f"*{other}", "right": f"*{table}"}, sizes, warps)
        one_column = {name: kind for name, kind in sums.items() if name != "width"}
        assert compiled(
            gpu_sums._weighted_sum, one_column, sizes | {"width": 1}, warps
        )  # a number that is 1 is compiled in
    if table in BITS and table == other:
        found = {"threshold": "*i32", "ties": "*i32", "h": f"*{table}", "width": "i32", "k": "i32"}
        written = found | {"values": f"*{table}", "indices": "*i64"}
        for n, warps in ((16384, 16), (64, 1)):
            sizes = {"N": n, "GROUPS": 32 * warps, "BITS": BITS[table]}
            assert compiled(gpu_topk._thresholds, found, sizes, warps)
        assert compiled(gpu_topk._write, written, {"CHUNK": gpu_topk._CHUNK, "BITS": BITS[table]}, 1)
        del written["k"]
        assert compiled(gpu_topk._write, written, {"CHUNK": gpu_topk._CHUNK, "BITS": BITS[table], "k": 1}, 1)
