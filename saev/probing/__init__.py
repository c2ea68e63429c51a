"""Which latent stands for which class: 1-D logistic probes of all (latent, class) pairs, k-sparse probes, average precision.

data (tokens and their labels) ─▶ counts (one pass) ─▶ logistic (the fits), ranking (AP, AUROC, F1) ─▶ judging (rows)
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "inputs": ["ProbeInputs", "open_inputs"],
        "pipeline": ["ProbeResult", "probe"],
        "quick": ["quick_score"],
        "settings": ["ProbeSettings", "SparseSettings"],
    },
)
