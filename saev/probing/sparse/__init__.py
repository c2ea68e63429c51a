"""k-sparse and image-level probes on several latents together, by scikit-learn."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "linear_fits": ["LinearFit", "refit", "ridge_fit"],
        "pooling": ["PooledCodes"],
        "probing": ["sparse_probing"],
    },
)
