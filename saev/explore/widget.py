"""The part of the page that draws photos with maps and reports clicks: widget.js with the data of `cards`."""

from pathlib import Path
from typing import Any

import anywidget
import traitlets

HERE = Path(__file__).parent
MARKS = HERE.parent / "visuals"  # marks.js and marks.css, that all pages share


class Pictures(anywidget.AnyWidget):
    """Photos of latents, or of an image with its patches. A click sets `chosen`: latent or example, its number, and the clicks so far."""

    _esm = (MARKS / "marks.js").read_text() + (HERE / "widget.js").read_text()
    _css = (MARKS / "marks.css").read_text() + (HERE / "widget.css").read_text()
    data: Any = traitlets.Dict().tag(sync=True)
    chosen: Any = traitlets.List().tag(sync=True)
