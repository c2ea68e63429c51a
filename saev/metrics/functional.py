"""Formulas of reconstruction, sparsity and geometry, each defined once.

`*_update` turns a batch into sufficient statistics (float64 or exact integers) that add up over batches, processes and
machines; `*_compute` turns their sums into the number. Each `*_compute` broadcasts over leading dimensions, so that
the statistics of several bank members may be stacked. Nothing here synchronises the device.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Max and mean of the per-atom maxima of |cos|: defined in saev.ops, as it needs blocks.
from saev.ops.coherence import Coherence as Coherence
from saev.ops.coherence import coherence as coherence


def moments_update(
    x: Float[Tensor, "batch d_model"], shift: Float[Tensor, " d_model"]
) -> tuple[int, Float[Tensor, " d_model"], Float[Tensor, ""]]:
    """Number of tokens, sum over tokens of `x - shift`, and sum over tokens of `||x - shift||^2`, in float64.

    A shift near the mean (the dataset's; it need not be exact) keeps the sums small beside the deviations, so that
    `variation_compute` loses no digits in one pass. It must be the same for all statistics that are added.
    """
    centred = x.double() - shift.double()
    return x.shape[0], centred.sum(0), centred.square().sum()


def variation_compute(
    n: Int[Tensor, "*m"], total: Float[Tensor, "*m d_model"], square: Float[Tensor, "*m"]
) -> Float[Tensor, "*m"]:
    """Sum over tokens of `||x - mean(x)||^2`, the mean being that of the tokens counted.

    `sum ||y||^2 - ||sum y||^2 / n` with `y = x - shift`; the shift cancels.
    """
    return square - total.square().sum(-1) / n


def squared_error_update(x: Float[Tensor, "batch d_model"], x_hat: Float[Tensor, "batch d_model"]) -> Float[Tensor, ""]:
    """Sum over tokens and dimensions of `(x - x_hat)^2`, in float64."""
    return (x.double() - x_hat.double()).square().sum()


def nmse_compute(squared_error: Float[Tensor, "*m"], variation: Float[Tensor, "*#m"]) -> Float[Tensor, "*m"]:
    """Sum of squared errors over the sum of squared distances from the mean: 0 is perfect, 1 predicts the mean.

    `sum ||x - x_hat||^2 / sum ||x - mean(x)||^2`, both over all evaluated tokens. NaN or inf where they are all equal.

    >>> x, x_hat = torch.tensor([[0.0, 0.0], [2.0, 4.0]]), torch.tensor([[0.0, 1.0], [2.0, 4.0]])
    >>> n, total, square = moments_update(x, shift=torch.zeros(2))
    >>> nmse_compute(squared_error_update(x, x_hat), variation_compute(torch.tensor(n), total, square))
    tensor(0.1000, dtype=torch.float64)
    """
    return squared_error / variation


def explained_variance_compute(
    squared_error: Float[Tensor, "*m"], variation: Float[Tensor, "*#m"]
) -> Float[Tensor, "*m"]:
    """One minus NMSE: the R^2 that weights dimensions by their variance."""
    return 1 - nmse_compute(squared_error, variation)


def mse_compute(squared_error: Float[Tensor, "*m"], n: Int[Tensor, "*#m"], d_model: int) -> Float[Tensor, "*m"]:
    """Squared error, mean over tokens and dimensions, in squared units of the activations."""
    return squared_error / (n * d_model)


def firings_update(codes: Float[Tensor, "batch d_sae"]) -> Int[Tensor, " d_sae"]:
    """Per latent, the number of tokens of the batch on which its code is not 0."""
    return (codes != 0).sum(0, dtype=torch.int32).long()  # summing bools into int64 is 6x slower


def frequency_compute(firings: Int[Tensor, "*m d_sae"], n: Int[Tensor, "*#m"]) -> Float[Tensor, "*m d_sae"]:
    """Per latent, the fraction of tokens on which it fires."""
    return firings.double() / n.unsqueeze(-1)


def mean_value_compute(
    value_sum: Float[Tensor, "*m d_sae"], firings: Int[Tensor, "*m d_sae"]
) -> Float[Tensor, "*m d_sae"]:
    """Per latent, the mean code over the tokens on which it fires; NaN where it never does."""
    return value_sum / firings


def l0_compute(firings: Int[Tensor, "*m d_sae"], n: Int[Tensor, "*#m"]) -> Float[Tensor, "*m"]:
    """Mean over tokens of the number of active latents (codes that are not 0)."""
    return firings.sum(-1).double() / n


def l0(codes: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:
    """Mean over the batch of the number of active latents.

    >>> l0(torch.tensor([[0.0, 2.0, 0.0], [1.0, 3.0, -4.0]]))
    tensor(2., dtype=torch.float64)
    """
    return firings_update(codes).sum().double() / codes.shape[0]


def l1_update(codes: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:
    """Sum over tokens and latents of `|f|`, in float64."""
    return codes.abs().sum(dtype=torch.float64)


def l1_compute(absolute: Float[Tensor, "*m"], n: Int[Tensor, "*#m"]) -> Float[Tensor, "*m"]:
    """Mean over tokens of the sum over latents of `|f|`: it does not grow with the batch."""
    return absolute / n


def l1(codes: Float[Tensor, "batch d_sae"]) -> Float[Tensor, ""]:
    """Mean over the batch of the sum over latents of `|f|`.

    >>> l1(torch.tensor([[0.0, 2.0, 0.0], [1.0, 3.0, -4.0]]))
    tensor(5., dtype=torch.float64)
    """
    return l1_update(codes) / codes.shape[0]


def dead_compute(firings: Int[Tensor, "*m d_sae"]) -> Float[Tensor, "*m"]:
    """Fraction of latents that never fire on the tokens counted: the window is whatever `firings` was summed over."""
    return (firings == 0).double().mean(-1)


def almost_dead_compute(
    firings: Int[Tensor, "*m d_sae"], n: Int[Tensor, "*#m"], below: float = 1e-6
) -> Float[Tensor, "*m"]:
    """Fraction of latents that fire on less than one token in a million (the dead included).

    With a million tokens or fewer this is the dead fraction.
    """
    return (frequency_compute(firings, n) < below).double().mean(-1)


def dense_compute(firings: Int[Tensor, "*m d_sae"], n: Int[Tensor, "*#m"], above: float) -> Float[Tensor, "*m"]:
    """Fraction of latents that fire on more than the fraction `above` of the tokens.

    >>> dense_compute(torch.tensor([0, 10, 11, 90]), torch.tensor(100), above=0.1)
    tensor(0.5000, dtype=torch.float64)
    """
    return (frequency_compute(firings, n) > above).double().mean(-1)


def mean_atom_norm(atoms: Float[Tensor, "n_latents d_model"]) -> Float[Tensor, ""]:
    """Mean over atoms of their Euclidean norm, in float64."""
    return torch.linalg.vector_norm(atoms.double(), dim=-1).mean()
