"""Fixtures that several packages' tests share: a tiny recording, and the command line inside and outside this process.

The library is imported inside the fixtures: this file is read before pytest installs the checking of shapes.
"""

import dataclasses
import functools
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typechecking
from hypothesis import settings
from nursery import Nursery

gc.disable()  # until all is imported: little of it is garbage
sys.dont_write_bytecode = False  # a third of the collection is compiling
ROOT = Path(__file__).resolve().parent.parent
settings.register_profile("any load", deadline=None)
settings.load_profile("any load")
# Two steps of everything.
TINY = (
    "trainer=cpu", "batch_size=64", "n_tokens=128", "warmup=0", "log_every=1", "val_every=1", "dead_tokens=64",
    "d_sae=64", "report=false",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with processes of their own are marked slow; files with slow tests come first, so that none is left for the end.

    Tests marked gpu are skipped on a machine without one.
    """
    without = pytest.mark.skip(reason="needs a CUDA GPU")
    for item in items:
        if item.get_closest_marker("gpu") and not gpu_is_there():
            item.add_marker(without)
        if {"nursery", "slurm_cluster"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@functools.cache
def gpu_is_there() -> bool:
    """Whether PyTorch sees a CUDA GPU."""
    import torch

    return torch.cuda.is_available()


def pytest_collection_finish() -> None:
    """The collector need not walk over imported libraries and tests again and again: a tenth of the time."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    typechecking.start_test()


def pytest_sessionfinish() -> None:
    """At its end the interpreter looks for what was not freed."""
    gc.unfreeze()


def mostly_slow(values: Iterable[Any], n: int = 1) -> list[Any]:
    """Parameters of a test, tuples where it has several: all but the first `n` are marked slow."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*row, marks=[pytest.mark.slow] if i >= n else []) for i, row in enumerate(rows)]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command ended with."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Arrays of tests are tiny: a pool of threads costs more than it gives, most of all beside other work."""
    import scipy.linalg  # noqa: F401  with a BLAS of its own
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


@pytest.fixture(scope="session", autouse=True)
def plain_environment() -> None:
    """Tests may be run within a job of a cluster, or with Hydra's tracebacks on; what they start knows of neither."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_")) and name != "SLURM_CONF"]:
        del os.environ[name]
    os.environ.pop("HYDRA_FULL_ERROR", None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # compiling takes a third of an import


@pytest.fixture(scope="session", autouse=True)
def unsynchronised() -> Iterator[None]:
    """Files of tests need not survive a power cut: waiting for the disk was a sixth of the time of tests that write."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A job in the background of a script ignores SIGINT, and so would the processes that tests start and interrupt."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def cheap_compositions() -> Iterator[None]:
    """Commands inside this process compose the same groups of the configuration once."""
    from compositions import keep_compositions

    with pytest.MonkeyPatch.context() as patch:
        keep_compositions(patch)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete recording to read from: 40 images of a cls and 16 patch tokens, layers 1 and 2, d_model 16."""
    from recordings import record

    return record(tmp_path_factory.mktemp("recording") / "tiny", layers=(1, 2))


@pytest.fixture(scope="session")
def frameworks() -> None:
    """Lightning's log handler keeps the stderr of its import: let that be the session's, not one test's."""
    import lightning  # noqa: F401


def command_line(*arguments: str) -> object:
    """The exit code of `saev <arguments>` in this process, or its last words; logging and Hydra stay as they were."""
    from hydra.core.global_hydra import GlobalHydra

    from saev.cli import main

    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["saev", *arguments])
        try:
            main(list(arguments))
        except SystemExit as stop:
            return stop.code
        finally:
            GlobalHydra.instance().clear()
            for handler in {*root.handlers} - {*before}:
                root.removeHandler(handler)
                handler.close()
            root.handlers[:], root.level = before, level
    return 0


@pytest.fixture
def cli(
    frameworks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """`cli("train", "k=8")` runs the command line inside this process, with outputs under tmp_path/outputs."""
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Result:
        capfd.readouterr()
        code = command_line(*arguments)
        out, err = capfd.readouterr()
        if isinstance(code, str):  # the interpreter prints it and exits with 1
            code, err = 1, f"{err}{code}\n"
        return Result(code if isinstance(code, int) else 0, out, err)

    return run


def topk_run(dataset: Path, *more: str) -> tuple[str, ...]:
    """The arguments of `saev` for two steps of a top-k SAE on layer 1."""
    return ("train", "experiment=none", *TINY, f"dataset={dataset}", "layer=1", "sae=topk", *more)


@pytest.fixture(scope="session")
def tiny_run(frameworks: None, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run on layer 1 of `tiny`; its SAEs: sae=batchtopk,k=4 and sae=relu,sparsity=1e-2."""
    directory = tmp_path_factory.mktemp("tiny_run") / "run"
    bank = 'variants=[["sae=batchtopk","k=4"],["sae=relu","sparsity=1e-2"]]'
    where = (f"dataset={tiny}", "layer=1", f"hydra.run.dir={directory}")
    assert not command_line("train", "experiment=none", bank, *TINY, *where)
    return directory


def environment(outputs: Path) -> dict[str, str]:
    """Environment variables of a command that a test starts, with its outputs under `outputs`."""
    return os.environ | {"SAEV_OUTPUTS": str(outputs), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., Result]:
    """`run_python("train.py", "k=8")` in the root of the clone, as a user types it; 5 s and more, so for few tests."""

    def run(*arguments: str, timeout: float = 300, **variables: str) -> Result:
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment(tmp_path / "outputs") | variables,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """A process that has imported the libraries and forks processes for tests."""
    nursery = Nursery("saev.cli", "saev.stages.train", "callbacks", "datamodules", "timm", "polars")
    yield nursery
    nursery.close()


@pytest.fixture
def fork_python(nursery: Nursery, tmp_path: Path) -> Callable[..., Result]:
    """As `run_python`, in a process that need not import the libraries; `module:function` may stand for the script."""

    def run(*script: str, timeout: float = 300, **variables: str) -> Result:
        child = nursery.start(*script, env=environment(tmp_path / "outputs") | variables)
        out, err = child.communicate(timeout)
        return Result(child.returncode or 0, out, err)

    return run


@pytest.fixture(scope="session")
def fork_pair(nursery: Nursery) -> Callable[..., Result]:
    """As `fork_python`, in two processes with the variables that torch.distributed reads; the result is rank 0's."""
    import torch.distributed

    if not torch.distributed.is_available():
        pytest.skip("torch was built without torch.distributed")

    def run(*script: object, timeout: float = 300, **variables: str) -> Result:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "OMP_NUM_THREADS": "1"}
        common |= {"NODE_RANK": "0", "WORLD_SIZE": "2"} | variables
        ranks = [
            nursery.start(*map(str, script), env=os.environ | common | {"RANK": rank, "LOCAL_RANK": rank})
            for rank in "01"
        ]
        texts = [rank.communicate(timeout) for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(text[-3000:] for pair in texts for text in pair)
        return Result(0, *texts[0])

    return run
