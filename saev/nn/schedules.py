"""Factors over training steps, as pure functions."""


def learning_rate_factor(step: int, total: int, warmup: float, decay: float) -> float:
    """Linear warm-up over `warmup` of the `total` steps, then 1, then linear decay to 0 over the last fraction `decay`.

    `warmup` is a fraction below 1, or a number of steps.

    >>> [learning_rate_factor(s, total=100, warmup=0.1, decay=0.2) for s in (0, 9, 50, 90)]
    [0.1, 1.0, 1.0, 0.5]
    """
    rise = min(1.0, (step + 1) / max(warmup * total if warmup < 1 else warmup, 1))
    last = decay * total
    fall = min(1.0, max(0.0, (total - step) / last)) if last > 0 else 1.0
    return min(rise, fall)


def sparsity_factor(step: int, total: int, fraction: float) -> float:
    """Linear rise of the sparsity coefficient from 0 to 1 over the first `fraction` of `total` steps.

    >>> [sparsity_factor(s, total=100, fraction=0.05) for s in (0, 2, 5, 60)]
    [0.0, 0.4, 1.0, 1.0]
    """
    rise = fraction * total
    return min(1.0, step / rise) if rise > 0 else 1.0
