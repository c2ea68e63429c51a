"""Looking at dictionaries: the results table, plots, top images with patch heat maps, and the page that holds them."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "report": ["write_report"],
        "settings": ["Choice", "ShowSettings"],
        "showing": ["show"],
    },
)
