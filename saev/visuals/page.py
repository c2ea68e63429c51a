"""What all pages have in common: page.html.j2 with its style and scripts, a table of contents, and one file without network."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from saev.files import write_atomically
from saev.visuals.pictures import Album

HEADING = re.compile(r'<h([23]) id="([^"]+)">(.*?)</h\1>', re.DOTALL)


def headings(html: str) -> list[tuple[int, str, str]]:
    """(level, id, text) of the headings h2 and h3 that have an id.

    >>> headings('<h2 id="files">Files</h2><h3>not linked</h3>')
    [(2, 'files', 'Files')]
    """
    return [(int(level), id_, text) for level, id_, text in HEADING.findall(html)]


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip
ENVIRONMENT.filters["headings"] = headings


def write_page(
    path: str | Path,
    template: str,
    *,
    album: Album | None = None,
    files: Mapping[str, str | Path] | None = None,
    credits: Sequence[str] = (),
    **values: Any,
) -> Path:
    """Write a template's page in one step and return its path.

    Args:
        template: a file of this folder that extends page.html.j2.
        album: the photos; each is embedded once. None: a page without photos.
        files: label -> path, shown relative to the page. credits: paragraphs.
        values: what else the template reads, title and facts among it.
    """
    path = Path(path)
    page = ENVIRONMENT.get_template(template).render(
        album=album, ratio=ratio_of(album) if album else None, masks=bool(album and album.store.manifest.labels),
        credits=[text for text in credits if text],
        files={label: os.path.relpath(file, path.parent) for label, file in (files or {}).items()}, **values,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    return path


def ratio_of(album: Album) -> str | None:
    """Width / height of the backbone's view, as CSS writes it; None where each image has its own shape."""
    if not (size := album.store.manifest.meaning.get("vit", {}).get("image_size")):
        return None
    return f"{size[1]} / {size[0]}"
