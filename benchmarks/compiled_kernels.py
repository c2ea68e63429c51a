"""Compile every GPU kernel of saev/ops on a machine without a GPU: `python benchmarks/compiled_kernels.py [80 90 100]`.

    saev/ops on meta tensors of a real size ──launches──▶ compiled, not run ──cuobjdump──▶ registers, spills, shared memory

Types, sizes, alignment and options are those of a training step, as its own functions launch the kernels. One process per
architecture, in parallel; `--rows` compiles in this process and prints one row of JSON per kernel.
"""

import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas, sm_arch_from_capability
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

from benchmarks.kernel_launches import SIZES, launch_all

SHARED = {80: 163, 90: 227, 100: 227}  # KB of shared memory that one program may take, by architecture


class Compiled(NamedTuple):
    """A kernel compiled for one architecture."""

    name: str  # module.function
    architecture: int
    registers: int
    spilled: int  # bytes of a thread that are written to and read from memory for want of registers
    shared: int  # bytes of a program
    warps: int


class NoDevice:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, architecture: int):
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        """The architecture to compile for."""
        return self.target

    def get_current_device(self) -> int:
        """There is one."""
        return 0

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0


def compile_for(architecture: int) -> list[Compiled]:
    """All kernels that training steps of the sizes in `SIZES` launch. AssertionError for one that nothing launches."""
    driver.set_active(NoDevice(architecture))  # type: ignore[arg-type]
    run, kernels = JITFunction.run, {}

    def compiled(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        kernels[_name(self), kernel.hash] = kernel

    JITFunction.run = compiled  # type: ignore[method-assign]
    torch.autocast = lambda *_, **__: contextlib.nullcontext()  # type: ignore[misc, assignment]  # it refuses meta tensors
    for size in SIZES:
        launch_all(size, torch.device("meta"))
    missing = {_name(kernel) for kernel in entry_points()} - {name for name, _ in kernels}
    assert not missing, f"benchmarks/kernel_launches.py launches no {sorted(missing)}"
    return [_measured(name, kernel, architecture) for (name, _), kernel in sorted(kernels.items())]


def entry_points() -> list[JITFunction]:
    """The Triton functions of saev/ops that no other one calls."""
    import saev.ops

    names = [module.name for module in pkgutil.walk_packages(saev.ops.__path__, "saev.ops.")]
    modules = [importlib.import_module(name) for name in names]
    functions = {id(f): f for module in modules for f in vars(module).values() if isinstance(f, JITFunction)}.values()
    called = {name for f in functions for name in re.findall(r"(\w+)\(", f.src.partition("(")[2])}
    return [f for f in functions if f.fn.__name__ not in called]


def _name(kernel: JITFunction) -> str:
    return f"{kernel.fn.__module__.removeprefix('saev.ops.')}.{kernel.fn.__name__}"


def _measured(name: str, kernel: Any, architecture: int) -> Compiled:
    usage = _output_of([triton.knobs.nvidia.cuobjdump.path, "-res-usage"], kernel.asm["cubin"])
    registers, stack = (int(re.findall(rf"{word}:(\d+)", usage)[-1]) for word in ("REG", "STACK"))
    spilled = _spilled(kernel.asm["ptx"], architecture) if stack else 0
    return Compiled(name, architecture, registers, spilled, kernel.metadata.shared, kernel.metadata.num_warps)


def _spilled(ptx: str, architecture: int) -> int:
    """As the assembler says: what is on the stack may be something else."""
    options = ["-v", "--regAllocOptLevel=2", f"--gpu-name={sm_arch_from_capability(architecture)}", "-o", os.devnull]
    said = _output_of([get_ptxas(architecture).path, *options], ptx.encode())
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill", said))


def _output_of(command: list[str], source: bytes) -> str:
    with tempfile.NamedTemporaryFile() as file:
        file.write(source)
        file.flush()
        ran = subprocess.run([*command, file.name], capture_output=True, text=True, check=True)
    return ran.stdout + ran.stderr


def compile_in_parallel(architectures: list[int]) -> list[Compiled]:
    """`compile_for` each of these, in a process of its own. RuntimeError with its output where one fails."""
    command = [sys.executable, "-m", "benchmarks.compiled_kernels", "--rows"]
    root = Path(__file__).resolve().parents[1]
    processes = [
        subprocess.Popen([*command, str(a)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root)
        for a in architectures
    ]
    ended = [(process, *process.communicate()) for process in processes]
    for process, _, errors in ended:
        if process.returncode:
            raise RuntimeError(errors)
    return [Compiled(**json.loads(line)) for _, output, _ in ended for line in output.splitlines()]


def main() -> None:
    """Print a table; exit with 1 where registers spill or shared memory does not suffice."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architectures", nargs="*", type=int, default=[*SHARED])
    parser.add_argument("--rows", action="store_true")
    arguments = parser.parse_args()
    if arguments.rows:
        for architecture in arguments.architectures:
            for row in compile_for(architecture):
                print(json.dumps(row._asdict()))
        return
    rows = compile_in_parallel(arguments.architectures)
    for row in rows:
        print(*(f"{name} {value}" for name, value in row._asdict().items()), sep=", ")
    sys.exit(1 if any(faults(row) for row in rows) else 0)


def faults(row: Compiled) -> bool:
    """Whether its registers spill, or its shared memory is more than the GPU has."""
    return row.spilled > 0 or row.shared > SHARED[row.architecture] * 1024


if __name__ == "__main__":
    main()
