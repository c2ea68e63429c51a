"""Image sets: a folder of one's own, or the demo's photos out of the package index."""

from saev.images.demo import DemoBirds
from saev.images.folder import FolderImages
from saev.images.opening import open_rgb
from saev.images.patch_labels import VOID, Labelling, patch_labels
from saev.images.source import ImageSource

__all__ = ["VOID", "DemoBirds", "FolderImages", "ImageSource", "Labelling", "open_rgb", "patch_labels"]
