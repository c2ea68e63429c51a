"""Average precision, AUROC, F1 and precision@k of all pairs, exact under ties."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "measures": ["auroc", "average_precision", "best_f1"],
        "top_tokens": ["precision_at", "purity_at"],
    },
)
