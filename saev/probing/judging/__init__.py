"""The best latent of each class: choice, exact fit, metrics, intervals over images, rows of tables."""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach(
    __name__,
    submod_attrs={
        "bootstrap": ["draws", "interval"],
        "class_metrics": ["ClassMetrics", "best_columns", "best_latents", "evaluate"],
        "firing_tokens": ["FiringTokens"],
        "pair_tables": ["write_pairs"],
        "rows": ["class_rows"],
        "summary": ["intervals", "summarise"],
    },
)
