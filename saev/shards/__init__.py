"""Activations on disk: writing, reading and streaming recordings (docs/formats.md)."""

from saev.files import fingerprint
from saev.shards.manifest import Manifest
from saev.shards.moments import Moments
from saev.shards.reader import ActivationStore
from saev.shards.stream import TokenStream, open_stream
from saev.shards.tensors import store_activations
from saev.shards.writer import RecordingWriter

__all__ = [
    "ActivationStore",
    "Manifest",
    "Moments",
    "RecordingWriter",
    "TokenStream",
    "fingerprint",
    "open_stream",
    "store_activations",
]
