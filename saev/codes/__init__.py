"""Sparse codes: any dictionary's codes as (latent, value) pairs, on disk as CSR shards with a manifest (docs/formats.md)"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "encoding": ["encode", "encode_part"],
        "manifest": ["CodesManifest"],
        "pairs": ["sparse_codes"],
        "rows": ["CodeRows"],
        "settings": ["EncodeSettings"],
        "store": ["CodeStore"],
        "writer": ["CodeWriter"],
    },
)
