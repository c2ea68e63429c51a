"""The fused step without a GPU: its kernels run by Triton's interpreter, and the layout that the order of pairs rests on."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saev.ops.fused.shapes import group_width, padded, refusal

triton = pytest.importorskip("triton")


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


@pytest.mark.parametrize("k", [0, 16, 32])
@pytest.mark.parametrize("capability", [80, 90])
def test_each_instruction_of_the_transposition_takes_pairs_of_one_row(k, capability):
    """The n-th atomic addition of a warp takes the n-th 32 elements of the tile, one per lane: the order of pairs rests on it."""
    transposed, backend = (
        importlib.import_module(n) for n in ("saev.ops.fused.transposed", "triton.backends.compiler")
    )
    names = transposed._copy.arg_names
    types = dict.fromkeys(("row_offsets", "latents", "base", "offsets", "rows"), "*i32") | {"values": "*bf16"}
    types |= dict.fromkeys(("d_values", "by_latent", "d_by_latent"), "*fp32") | {"n_rows": "i32", "d_sae": "i32"}
    constants = {name: None for name in names if name not in types} | {"K": k, "ROWS": 128, "PIECES": 16}
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in types}
    signature = {name: types.get(name, "constexpr") for name in names}
    source = triton.compiler.ASTSource(fn=transposed._copy, signature=signature, constexprs=constants, attrs=aligned)
    target, options = backend.GPUTarget("cuda", capability, 32), {"num_warps": 1, "enable_fp_fusion": True}
    intermediate = triton.compile(source, target=target, options=options).asm["ttgir"]
    layouts = set(re.findall(r"tt\.atomic_rmw .*tensor<512x!tt\.ptr<i32>, (#\w+)>", intermediate))
    assert len(layouts) == 1
    defined = re.search(rf"{layouts.pop()} = (.*)", intermediate)
    assert defined and "sizePerThread = [1], threadsPerWarp = [32], warpsPerCTA = [1]" in defined[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize(
    "shape", [(1024, 16384, 32, 1), (1024, 16384, 32, 10), (384, 6144, 16, 1), (768, 24576, 100, 5), (48, 200, 7, 3)]
)
def test_steps_on_a_gpu_are_those_of_dense_autograd(shape):
    from saev.ops.fused.check import check

    assert check(torch.device("cuda"), *shape) is None
