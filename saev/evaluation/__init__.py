"""Dictionaries measured on recorded activations and spliced back into their backbone."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={"evaluating": ["Evaluation", "evaluate"], "measuring": ["measure"], "settings": ["EvaluateSettings"]},
)
