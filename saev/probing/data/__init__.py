"""The tokens and their labels: classes, training and validation images, readers of codes."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "classes": ["Classes"],
        "labels": ["ImageLabels", "Labels", "TokenLabels"],
        "sample": ["Sample", "draw_sample"],
        "sources": ["CodesOnDisk", "Encoder", "Source", "Split"],
        "splits": ["LabelledData", "PermutedLabels", "labelled_data"],
    },
)
