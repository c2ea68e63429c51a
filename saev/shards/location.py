"""Location of a recording: a directory, or files behind http(s)://, s3://, gs:// and pipe: addresses."""

import fcntl
import hashlib
import re
import shlex
import shutil
import tempfile
import time
import urllib.parse
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saev.files import plain_name
from saev.locks import is_locked
from saev.shards.remote import is_remote, opened

PREFIX, LOCK = "saev-remote-", "lock"
RECENT_S = 60


class Location:
    """A recording's files by their path below its root.

    A remote root is an address (`http://host/data/birds-vits14-1a2b3c4d`) or a command that writes one file to its
    standard output (`pipe:ssh host cat /data/birds-vits14-1a2b3c4d/{file}`).
    """

    def __init__(self, root: Any):
        self.root = str(root)
        self.remote = is_remote(self.root)
        self.sha256: Mapping[str, str] = {}  # of files, which are compared when they are fetched
        self._fetched: Path | None = None
        if self.root.startswith("pipe:") and "{file}" not in self.root:
            raise ValueError(
                f"dataset={self.root}: put {{file}} where the file's name belongs, e.g. dataset='pipe:ssh host cat /data/x/{{file}}'."
            )

    @property
    def name(self) -> str:
        """The recording's name: the last part of its path."""
        return self.root.removesuffix("/{file}").rstrip("/").split("/")[-1]

    def url(self, file: str) -> str:
        """Address of a file; ValueError for a name that leads elsewhere or that a shell would interpret."""
        plain_name(file, f"dataset={self.root}")
        if not self.root.startswith("pipe:"):
            return f"{self.root.rstrip('/')}/{urllib.parse.quote(file) if self.remote else file}"
        if not re.fullmatch(r"[\w./=+@%,-]+", file, re.ASCII) or file.startswith(
            "-"
        ):  # ssh quotes nothing for its shell
            raise ValueError(
                f"dataset={self.root} names the file {file!r}: a command gets only names of letters, digits and ./=+@%,_-; "
                "copy the recording here."
            )
        return self.root.replace("{file}", shlex.quote(file))

    def path(self, file: str) -> Path:
        """A local path of a small file; a remote one is fetched once, into a folder deleted with this object."""
        if not self.remote:
            return Path(self.root) / file
        if self._fetched is None:
            self._fetched = scratch_folder(self)
        path = self._fetched / plain_name(file, f"dataset={self.root}")
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fetch(file, path.with_name(f".{path.name}"))
            path.with_name(f".{path.name}").replace(path)
        return path

    def _fetch(self, file: str, target: Path) -> None:
        url, digest = self.url(file), hashlib.sha256()
        try:
            with opened(url) as source, open(target, "wb") as out:
                while piece := source.read(1 << 20):
                    digest.update(piece)
                    out.write(piece)
        except ValueError as error:
            raise ValueError(
                f"dataset={self.root}: {file} cannot be fetched: {error}. Check the address, and that it serves a whole recorded "
                "directory."
            ) from error
        if digest.hexdigest() != self.sha256.get(file, digest.hexdigest()):
            raise ValueError(f"{url} differs from what was recorded (sha256): restore it, or copy the recording again.")


def scratch_folder(owner: object) -> Path:
    """A new temporary folder, deleted with its owner or at the program's end; deletes those of killed programs."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if not is_locked(left / LOCK) and time.time() - left.stat().st_mtime > RECENT_S:
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = open(folder / LOCK, "w")  # noqa: SIM115 held as long as the process lives
    fcntl.flock(lock, fcntl.LOCK_EX)
    weakref.finalize(owner, discard, folder, lock)
    return folder


def discard(folder: Path, lock: Any) -> None:
    """Delete a temporary folder and release its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()
