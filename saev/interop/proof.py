"""Compare a converted dictionary with the original on the same inputs: the library's equations and our class, in float64.

A pre-activation within float32's rounding of a threshold may fire in one and not in the other, so a fraction ALLOWED of the
codes may differ; everything else must agree.
"""

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from saev.interop.foreign import Equations
from saev.metrics.functional import moments_update, nmse_compute, squared_error_update, variation_compute
from saev.nn import SparseAutoencoder
from saev.shards import ActivationStore, open_stream

ALLOWED = 1e-4  # of codes that are not 0, and of NMSE and L0 relative to their values
CLOSE = 1e-4  # tolerance of codes, relative to their token's largest, and of reconstructions, relative to their norm


@dataclasses.dataclass(frozen=True)
class Proof:
    """The results of both. L0 is the mean number of codes that are not 0; pairs are (the library's equations, ours)."""

    inputs: str
    tokens: int
    nmse: tuple[float, float]
    l0: tuple[float, float]
    active: int  # codes that are not 0 in the library's equations
    different: int  # codes that are not equal
    apart: int  # tokens whose reconstructions are not equal
    negative: int  # tokens with codes below 0 in the library's equations; ours are at least 0

    @property
    def holds(self) -> bool:
        """Whether the two are the same function on these inputs."""
        return (
            self.active > 0
            and self.different <= ALLOWED * self.active
            and self.apart <= self.different  # one code explains one token
            and all(agree(*pair) for pair in (self.nmse, self.l0))
        )

    def require(self, what: str) -> None:
        """ValueError with the numbers where the two are not the same function."""
        if self.holds:
            return
        if self.active == 0:
            raise ValueError(
                f"{what}: no latent of the original fires on {self.tokens} tokens ({self.inputs}), so the comparison shows nothing: give "
                "activations that it was trained on, --check RECORDING --layer N."
            )
        negative = "; the original keeps k latents though fewer are positive, which ours does not" * bool(self.negative)
        raise ValueError(
            f"{what} differs from the original on {self.tokens} tokens ({self.inputs}): NMSE {self.nmse[0]:.6g} "
            f"and {self.nmse[1]:.6g}, L0 {self.l0[0]:.6g} and {self.l0[1]:.6g}; {self.different} of {self.active} codes and "
            f"{self.apart} reconstructions differ{negative}. Nothing was written: check the options for what the files do not record."
        )


def agree(reference: float, value: float) -> bool:
    """Whether two numbers are equal up to rounding; NMSE is not finite where all tokens are equal."""
    if not (math.isfinite(reference) and math.isfinite(value)):
        return math.isnan(reference) == math.isnan(value) and not (math.isfinite(reference) or math.isfinite(value))
    return abs(value - reference) <= ALLOWED * abs(reference) + 1e-12


@torch.inference_mode()
def compare(
    evaluate: Equations,
    code_scale: Float[Tensor, " d_sae"],
    sae: SparseAutoencoder,
    batches: Iterable[Float[Tensor, "_ d_model"]],
    inputs: str,
    leave_negative: bool = False,
) -> Proof:
    """The library's equations and our autoencoder on the same tokens; ours has codes `code_scale` times as large.

    `leave_negative` leaves out tokens on which the original has codes below 0: random inputs may cause them. NMSE is over all
    tokens together: sum of squared errors over squared distances from these tokens' mean.
    """
    sae = copy.deepcopy(sae).double()
    shift = sae.decode(torch.zeros(1, sae.n_latents, dtype=torch.float64))[0]
    tokens = active = fired = different = apart = negative = 0
    total, square = torch.zeros(sae.d_model, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    errors = torch.zeros(2, dtype=torch.float64)
    for x in batches:
        codes, x_hat = evaluate(x)
        below = (codes < 0).any(1)
        negative += int(below.sum())
        if leave_negative and bool(below.any()):
            x, codes, x_hat = x[~below], codes[~below], x_hat[~below]
        expected, ours = codes * code_scale, sae.encode(x)
        n, sums, squares = moments_update(x, shift)
        tokens, total, square = tokens + n, total + sums, square + squares
        decoded = sae.decode(ours)
        errors += torch.stack([squared_error_update(x, x_hat), squared_error_update(x, decoded)])
        apart += int(((x_hat - decoded).norm(dim=1) > CLOSE * x_hat.norm(dim=1)).sum())
        largest = expected.abs().amax(1, keepdim=True)
        active += int((codes != 0).sum())
        fired += int((ours != 0).sum())
        different += int(((expected - ours).abs() > CLOSE * largest).sum())
    if tokens == 0:
        raise ValueError(f"{inputs} has no tokens to compare the two on: choose another selection.")
    variation = variation_compute(torch.tensor(tokens), total, square)
    nmse = nmse_compute(errors, variation)
    l0 = active / tokens, fired / tokens
    return Proof(inputs, tokens, (nmse[0].item(), nmse[1].item()), l0, active, different, apart, negative)


def random_inputs(sae: SparseAutoencoder, n: int = 1024, seed: int = 0) -> Iterator[Float[Tensor, "_ d_model"]]:
    """Gaussian directions around the reconstruction of zero codes, with lengths over three orders of magnitude.

    Lengths are chosen so that h is comparable to the biases and thresholds: some latents fire and some do not.
    """
    generator = torch.Generator().manual_seed(seed)
    centre = sae.decode(torch.zeros(1, sae.n_latents))
    learned = dict(sae.sparsifier.named_parameters()) | dict(sae.sparsifier.named_buffers())
    levels = [sae.b_enc, *(learned[name] for name in ("theta", "b_gate", "b_mag") if name in learned)]
    level = max(float(value.abs().mean()) for value in levels) or 1.0
    unit = level / (float(sae.w_enc.norm(dim=0).mean()) or 1.0)
    lengths = unit * 10 ** (torch.rand(n, 1, generator=generator) * 3 - 1)
    directions = torch.randn(n, sae.d_model, generator=generator) * sae.normaliser.scale
    yield from (centre + lengths * directions).float().split(256)


def recorded_inputs(
    store: ActivationStore, layer: int, tokens: str, limit: int, batch_size: int = 1024
) -> Iterator[Float[Tensor, "_ d_model"]]:
    """The first `limit` tokens of a layer of a recording."""
    stream = open_stream(store, layer, batch_size, tokens=tokens, limit=limit)
    for batch in stream.batches(0, stream.n_batches):
        yield torch.from_numpy(batch["acts"]).float()
