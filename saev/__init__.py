"""Sparse autoencoders on vision-transformer activations: record, train, compare, read.

>>> import saev
>>> recording = saev.record(saev.images.FolderImages("photos"), saev.vits.TimmVit("vit_small_patch14_dinov2"), [8])  # doctest: +SKIP
>>> run = saev.train(recording, 8, [saev.Member(saev.BatchTopK(k)) for k in (16, 32)], n_tokens=2_000_000)  # doctest: +SKIP
>>> saev.evaluate(run.dictionaries, recording).results  # doctest: +SKIP

The public names stand in __init__.pyi; each is imported when it is first used, so `import saev` does not load torch.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
