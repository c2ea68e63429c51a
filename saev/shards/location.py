"""Location of a recording: a directory, or files behind http(s)://, pipe: and whatever else webdataset opens."""

import shutil
import tempfile
import urllib.request
import weakref
from pathlib import Path
from typing import Any

TIMEOUT_S = 20


class Location:
    """A recording's files by their path below its root.

    A remote root is an address (`http://host/data/birds-vits14-1a2b3c4d`) or a command that writes one file to its
    standard output (`pipe:ssh host cat /data/birds-vits14-1a2b3c4d/{file}`).
    """

    def __init__(self, root: Any):
        self.root = str(root)
        self.remote = self.root.startswith("pipe:") or "://" in self.root
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
        """Address of a file for webdataset."""
        if self.root.startswith("pipe:"):
            return self.root.replace("{file}", file)
        return f"{self.root.rstrip('/')}/{file}"

    def path(self, file: str) -> Path:
        """A local path of a small file; a remote one is fetched once, into a folder deleted with this object."""
        if not self.remote:
            return Path(self.root) / file
        if self._fetched is None:
            self._fetched = Path(tempfile.mkdtemp(prefix="saev-"))
            weakref.finalize(self, shutil.rmtree, self._fetched, ignore_errors=True)  # also at the program's end
        path = self._fetched / file
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_name(f".{path.name}")
            self._fetch(file, scratch)
            scratch.replace(path)
        return path

    def _fetch(self, file: str, target: Path) -> None:
        url = self.url(file)
        try:
            with open_url(url) as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)
        except (OSError, ValueError) as error:
            target.unlink(missing_ok=True)
            raise ValueError(
                f"dataset={self.root}: {file} cannot be fetched from {url} ({error}): check the address, and that it serves "
                "a whole recorded directory."
            ) from error


def open_url(url: str) -> Any:
    """A readable stream of the file at the address, as a context manager; times out after 20 s without an answer.

    webdataset's opener is not used for http: its 30 retries are right during a run and too slow at its start.
    """
    if url.startswith(("http://", "https://")):
        return urllib.request.urlopen(url, timeout=TIMEOUT_S)
    from webdataset.gopen import gopen  # slow to import

    return gopen(url)
