"""Image sets: any folder, published data sets in their layouts, and the labels of their patches."""

from saev.images.ade20k import Ade20k
from saev.images.butterflies import Butterflies
from saev.images.cifar10 import Cifar10
from saev.images.cub200 import Cub200
from saev.images.fishvista import FishVista
from saev.images.folder import FolderImages
from saev.images.huggingface import HuggingFaceImages
from saev.images.inat21 import INat21
from saev.images.opening import open_rgb
from saev.images.patch_labels import Labelling, patch_labels
from saev.images.segmentation import SegmentationFolder
from saev.images.source import ImageSource
from saev.shards.manifest import VOID

__all__ = [
    "VOID",
    "Ade20k",
    "Butterflies",
    "Cifar10",
    "Cub200",
    "FishVista",
    "FolderImages",
    "HuggingFaceImages",
    "INat21",
    "ImageSource",
    "Labelling",
    "SegmentationFolder",
    "open_rgb",
    "patch_labels",
]
