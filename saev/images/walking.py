"""The files below a folder: links are followed, and neither loops nor second paths to a file list it again."""

import logging
import os
from collections import deque
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from saev.files import plain_name

log = logging.getLogger(__name__)

Patterns = frozenset[tuple[str, ...]]  # what may follow a folder: the rest of the pattern, ** taken and not taken
# fmt: off
EXTENSIONS = {
    ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"
}
# fmt: on


def find_files(
    root: str | Path, pattern: str = "**/*", extensions: Collection[str] = EXTENSIONS, once: bool = True
) -> list[str]:
    """Sorted relative paths of the files below root that match a glob; hidden ones are left out.

    Each real file is listed once, preferably not by a link, and left-out links are warned of; with once=False only links
    to a parent folder are left out. A link to nothing is listed. ValueError naming a folder that cannot be listed or a
    name that is not UTF-8.
    """
    patterns = taken(frozenset([tuple(pattern.split("/"))]))
    folders: dict[str, str] = {}  # real path -> path below root
    queue: deque[tuple[str, str, Patterns, tuple[str, ...]]] = deque([("", os.path.realpath(root), patterns, ())])
    linked: list[tuple[str, str, Patterns, tuple[str, ...]]] = []
    files: list[str] = []
    file_links: list[str] = []
    left_out: list[str] = []
    while queue or linked:
        if not queue:  # links last, so that a file is listed by its own path
            queue, linked = deque(sorted(linked)), []
        below, real, patterns, above = queue.popleft()
        if real in (folders if once else above):
            left_out.append(below)
            continue
        folders[real] = below
        for entry in entries(root, real):
            rest = after(patterns, entry.name)
            if not rest or entry.name.startswith("."):
                continue
            path, link = below + entry.name, entry.is_symlink()
            if os.path.isdir(entry.path) if link else entry.is_dir():
                target = os.path.realpath(entry.path) if link else entry.path
                (linked if link else queue).append((f"{path}/", target, rest, (*above, real)))
            elif () in rest and os.path.splitext(path)[1].lower() in extensions:
                (file_links if link else files).append(path)
    listed = set(files)
    for path in sorted(file_links):
        folder, name = os.path.split(target := os.path.realpath(os.path.join(root, path)))
        if once and (target in listed or folders.get(folder, "/") + name in listed):
            left_out.append(path)
        else:
            files.append(path)
            listed.add(target)
    if left_out:
        names = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        log.warning("%s: left out %d links to files that are listed already: %s", root, len(left_out), names)
    for path in files:
        plain_name(
            path, f"images.root={root}", "rename it (all names to UTF-8: convmv -r -f latin1 -t utf8 --notest .)"
        )
    return sorted(files)


def entries(root: str | Path, folder: str) -> list[os.DirEntry[str]]:
    """The entries of a folder."""
    try:
        with os.scandir(folder) as found:
            return [*found]
    except OSError as error:
        raise ValueError(
            f"images.root={root}: {folder} cannot be listed ({error.strerror}): allow reading it, or move it away."
        ) from error


def taken(patterns: Patterns) -> Patterns:
    """The patterns, and what remains of them where a leading ** stands for no folder."""
    more = frozenset(pattern[1:] for pattern in patterns if pattern[:1] == ("**",) and len(pattern) > 1)
    return patterns | taken(more) if more - patterns else patterns


def after(patterns: Patterns, name: str) -> Patterns:
    """What remains of the patterns below the entry `name`; () where the entry itself matches.

    >>> sorted(after(taken(frozenset([("**", "*.jpg")])), "a.jpg"))
    [(), ('**', '*.jpg'), ('*.jpg',)]
    """
    rest = {p if p[0] == "**" else p[1:] for p in patterns if p and (p[0] in ("**", "*") or fnmatchcase(name, p[0]))}
    return taken(frozenset(rest | ({()} if ("**",) in rest else set())))
