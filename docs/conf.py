"""Sphinx builds the site from the pages of this folder and from the docstrings: a page per package of API, in docs/api.

uv run --group docs sphinx-build -W --keep-going docs docs/_build/html
"""

import importlib
import pkgutil
import re
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.highlighting import lexers

API = (
    "saev", "saev.nn", "saev.images", "saev.vits", "saev.baselines", "saev.evaluation", "saev.codes", "saev.probing",
    "saev.trait_evaluation.sources", "saev.visuals", "saev.interop", "saev.shards", "saev.metrics.functional",
    "saev.metrics.segmentation", "saev.ops", "callbacks", "datamodules",
)  # fmt: skip

project = html_title = "saev-lightning"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build", "images"]
html_theme = "furo"
html_show_copyright = smartquotes = False
myst_heading_anchors = 3
lexers["mermaid"] = TextLexer()  # GitHub draws the diagram of architecture.md; the site shows its text

default_role = "code"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
maximum_signature_line_length = 100


def documented(name: str) -> list[str]:
    """The package itself where its __init__ names public objects, else its public modules."""
    module = importlib.import_module(name)
    if hasattr(module, "__all__") or not hasattr(module, "__path__"):
        return [name]
    return [f"{name}.{part.name}" for part in pkgutil.iter_modules(module.__path__) if not part.name.startswith("_")]


def write_api_pages(app: Sphinx) -> None:
    """docs/api: a page per package with the docstrings of its public objects, and a list of the packages."""
    pages = {"index": ["API", "===", "", ".. toctree::", "   :maxdepth: 1", "", *(f"   {package}" for package in API)]}
    for package in API:
        pages[package] = [package, "=" * len(package)]
        for module in dict.fromkeys([package, *documented(package)]):
            heading = [] if module == package else [module, "-" * len(module), ""]
            pages[package] += ["", *heading, f".. automodule:: {module}", "   :members:"]
    pages["saev"].append("   :no-index:")  # its names are indexed in their packages
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.rst"):
        if old.stem not in pages:
            old.unlink()
    for name, rows in pages.items():
        page, text = folder / f"{name}.rst", "\n".join(rows) + "\n"
        if not page.exists() or page.read_text() != text:  # else Sphinx would read it again
            page.write_text(text)


def plain_text(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Docstrings are plain text: "Args:" becomes a list, indented paragraphs keep their lines, | and * are characters."""
    text = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        rows = paragraph.split("\n")
        if rows[0].strip() == "Args:":
            items = [re.sub(r"^    (\w.*?): ", r"- `\1`: ", row) for row in rows[1:]]
            rows = ["Arguments:", "", *(re.sub(r"^ {6,}", "  ", row) for row in items)]
        elif not re.match(r"\s*(- |\d\. |>>> )", rows[0]) and any(row.startswith(" ") for row in rows):
            rows = ["::", "", *("    " + row for row in rows)]
        if not rows[0].startswith(("::", ">>>")):
            rows = [re.sub(r"(`[^`]*`)|([|*]|_(?!\w))", lambda match: match[1] or "\\" + match[2], row) for row in rows]
        text += [*rows, ""]
    lines[:] = text


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", plain_text)
    app.connect("builder-inited", write_api_pages)
