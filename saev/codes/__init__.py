"""Sparse codes: any dictionary's codes as (latent, value) pairs, on disk as CSR shards with a manifest (docs/formats.md)"""

from saev.codes.manifest import CodesManifest, Layout
from saev.codes.pairs import sparse_codes
from saev.codes.selection import Selection
from saev.codes.store import CodeRows, CodeStore
from saev.codes.writer import CodeWriter

__all__ = ["CodeRows", "CodeStore", "CodeWriter", "CodesManifest", "Layout", "Selection", "sparse_codes"]
