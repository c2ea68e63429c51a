"""saev doctor: check the machine, and the given recordings, dictionaries and runs.

saev doctor [PATH ...]      prints each fault with its remedy; exit code 1 if there is one
"""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from saev.progress import terminal
from saev.runs.diagnosis import Finding, check_path

ROOT = Path(__file__).resolve().parents[2]
MIN_FREE_GB = 5  # the demo with its environment's caches takes 1 GB, a layer of ImageNet at 1024 dimensions 500 GB


def run(arguments: Sequence[str]) -> int:
    """Check the machine and every given path, print a table; 0 without a fault, else 1."""
    parser = argparse.ArgumentParser("saev doctor", description="Check the environment and the given paths.")
    parser.add_argument("paths", nargs="*", type=Path, help="recordings, dictionaries, run or sweep directories")
    paths = parser.parse_args(list(arguments)).paths
    findings = list(environment())
    with Progress(transient=True, disable=not sys.stderr.isatty(), console=terminal(stderr=True)) as progress:
        for path in progress.track(paths, description="reading"):
            findings += check_path(path)
    show(findings)
    return int(any(finding.fault for finding in findings))


def show(findings: Sequence[Finding]) -> None:
    """Print the findings as a table, and the number of faults."""
    table = Table(show_edge=False, pad_edge=False)
    for title in ("", "what", "found", "remedy"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        mark = Text("fault", "red") if finding.fault else Text("ok", "green")
        table.add_row(mark, finding.what, finding.found, finding.remedy)
    console = terminal()
    console.print(table)
    faults = sum(finding.fault for finding in findings)
    console.print(f"{faults} fault{'' if faults == 1 else 's'}" if faults else "no faults")


def environment() -> Iterator[Finding]:
    """Versions of installed packages, device, disk, configuration; imports torch alone."""
    version = platform.python_version()
    known = (3, 11) <= sys.version_info < (3, 14)
    yield Finding("Python", version, "" if known else "use Python 3.11 to 3.13: uv sync --python 3.11", fault=not known)
    yield from packages()
    yield device()
    yield from kernels()
    yield Finding(
        "CPU cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    )
    yield disk(Path(os.environ.get("SAEV_OUTPUTS", ROOT / "outputs")))
    yield cache()
    conf = ROOT / "conf"
    exists = (conf / "train.yaml").is_file()
    yield Finding(
        "configuration", str(conf) if exists else f"{conf} is missing",
        "" if exists else "the stages run from a clone of the repository: `uv sync` there", fault=not exists,
    )  # fmt: skip


def packages(name: str = "saev-lightning") -> Iterator[Finding]:
    """Whether each package that `name` requires is installed in a version that it allows."""
    from packaging.requirements import Requirement

    try:
        required = [Requirement(text) for text in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        yield Finding("packages", f"{name} is not installed", "uv sync", fault=True)
        return
    versions = {}
    for requirement in required:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            versions[requirement.name] = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(requirement.name, "is not installed", "uv sync", fault=True)
            continue
        if not requirement.specifier.contains(versions[requirement.name], prereleases=True):
            text = f"{versions[requirement.name]} is installed, {requirement.specifier} is required"
            yield Finding(requirement.name, text, "uv sync", fault=True)
    main = [f"{key} {versions[key]}" for key in ("torch", "lightning", "hydra-core", "timm") if key in versions]
    yield Finding("packages", f"{len(versions)} installed: {', '.join(main)}, ...")


def device() -> Finding:
    """The GPU and its memory; a fault if the machine has one that torch cannot use."""
    import torch

    if torch.cuda.is_available():
        properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return Finding("GPU", "; ".join(f"{p.name}, {p.total_memory / 2**30:.0f} GiB" for p in properties))
    if shutil.which("nvidia-smi"):
        remedy = "update the driver to one for CUDA " + (torch.version.cuda or "(this torch has none: `uv sync`)")
        return Finding("GPU", "the machine has one, torch cannot use it", remedy, fault=True)
    return Finding("GPU", "none: training runs on the CPU")


def kernels() -> Iterator[Finding]:
    """Whether training on the GPU uses the kernels of saev.ops.gpu."""
    import torch

    from saev.ops import gpu

    if torch.cuda.is_available():
        work = gpu.kernels(torch.device("cuda", 0))
        yield Finding(
            "GPU kernels",
            "compiled and checked" if work else "not used, for the reason above; torch's are used instead",
        )


def disk(folder: Path) -> Finding:
    """Free space where outputs go, and whether they can be written."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        return Finding("outputs", f"{existing} cannot be written to", "export SAEV_OUTPUTS=/a/folder", fault=True)
    free = shutil.disk_usage(existing).free / 1e9
    remedy = "" if free >= MIN_FREE_GB else "make room, or export SAEV_OUTPUTS=/another/disk"
    return Finding("outputs", f"{folder}: {free:.0f} GB free", remedy, fault=free < MIN_FREE_GB)


def cache() -> Finding:
    """The folder of downloaded and converted data."""
    from saev.demo.wheels import cache_dir

    try:
        folder = cache_dir()
    except (ValueError, OSError) as error:
        return Finding("cache", str(error), "export SAEV_CACHE=/a/folder", fault=True)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    return Finding("cache", f"{folder}: {size:.0f} MB")
