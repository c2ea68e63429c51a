"""Vision transformers and other backbones by name or file, and the recording of their activations."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "backbone": ["Backbone"],
        "hooks": ["HOOKS"],
        "micro": ["MicroVit"],
        "open_clip_vit": ["OpenClipVit"],
        "recording": ["Recording", "record"],
        "settings": ["RecordSettings"],
        "shape": ["VitShape"],
        "source": ["VitSource"],
        "timm_models": ["TimmCnn", "TimmVit"],
    },
)
