"""Vision transformers and other backbones by name or file, and the recording of their activations."""

from saev.vits.backbone import Backbone
from saev.vits.hooks import HOOKS
from saev.vits.micro import MicroVit
from saev.vits.open_clip_vit import OpenClipVit
from saev.vits.recording import Recording, record
from saev.vits.shape import VitShape
from saev.vits.source import VitSource
from saev.vits.timm_cnn import TimmCnn
from saev.vits.timm_vit import TimmVit

__all__ = [
    "HOOKS",
    "Backbone",
    "MicroVit",
    "OpenClipVit",
    "Recording",
    "TimmCnn",
    "TimmVit",
    "VitShape",
    "VitSource",
    "record",
]
