"""A grid of linear probes as a LightningModule, on activations or codes: the supervised bound."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "inputs": ["CodesInput", "RawInput", "inputs_of"],
        "module": ["ProbeModule"],
        "probe": ["ProbeSpec", "grid"],
        "settings": ["LinearProbeSettings"],
    },
)
