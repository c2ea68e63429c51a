"""The part of the page that draws photos with maps and reports clicks: widget.js with the data of `cards`."""

from pathlib import Path
from typing import Any

import anywidget
import traitlets

HERE = Path(__file__).parent


class Pictures(anywidget.AnyWidget):
    """Photos of latents, or of an image with its patches. A click sets `chosen`: latent or example, its number, and the clicks so far."""

    _esm = HERE / "widget.js"
    _css = HERE / "widget.css"
    data: Any = traitlets.Dict().tag(sync=True)
    chosen: Any = traitlets.List().tag(sync=True)
