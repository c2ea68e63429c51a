"""SAEs and activations of other libraries: read, rebuilt as ours and proven equal; ours written in SAELens' format.

files of a library ──reader──▶ ForeignSAE(evaluate, sae, ...) ──proof──▶ dictionary directory
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__, submod_attrs={"converting": ["Conversion", "convert"], "foreign": ["Options"]}
)

# Here, so that the command line prints it without importing the readers.
KNOWN = """\
  saev                 sae.pt, or a folder with sae.pt or checkpoint/sae.pt
  saev shards          a folder with metadata.json and acts000000.bin
  SAELens              a folder with cfg.json and sae_weights.safetensors
  dictionary_learning  ae.pt with config.json beside it, or their folder
  ours                 a folder with config.json and dictionary.safetensors, to export"""
