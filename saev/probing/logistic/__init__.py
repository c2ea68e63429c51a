"""1-D logistic regressions of all (latent, class) pairs, fitted to their counts."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "fit": ["LogisticFit", "Status", "cross_entropy", "prevalence_entropy", "solve"],
        "nodes": ["Nodes"],
        "weighting": ["fit_all", "losses_of_all_pairs"],
    },
)
