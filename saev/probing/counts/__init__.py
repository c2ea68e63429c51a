"""The counts of all (latent, value bin, class), accumulated in one pass over codes and labels."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "columns": ["Columns"],
        "statistics": ["LatentLabelStats"],
        "table": ["LabelTable"],
    },
)
