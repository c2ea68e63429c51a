"""Is the converted dictionary the original? Both on the same inputs: the library's equations, and our class, in float64.

A latent whose pre-activation is a threshold but for float32's rounding may fire in one and not in the other, so a
fraction of ALLOWED of the codes may differ; everything else has to agree.
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
CLOSE = (
    1e-4  # codes are equal that differ by less, relative to the largest of their token; reconstructions, to their norm
)


@dataclasses.dataclass(frozen=True)
class Proof:
    """What both gave. L0 is the mean number of codes that are not 0; pairs are (the library's equations, ours)."""

    inputs: str
    tokens: int
    nmse: tuple[float, float]
    l0: tuple[float, float]
    active: int  # codes that are not 0 in the library's equations
    different: int  # codes that are not equal
    apart: int  # tokens whose reconstructions are not equal
    negative: int  # tokens with codes below 0 in the library's equations, which ours cannot have

    @property
    def holds(self) -> bool:
        """Whether the two are the same function, as far as these inputs show."""
        return (
            self.active > 0
            and self.different <= ALLOWED * self.active
            and self.apart <= self.different  # one code explains one token
            and all(alike(theirs, ours) for theirs, ours in (self.nmse, self.l0))
        )

    def require(self, what: str) -> None:
        """ValueError with the numbers where the two are not the same function."""
        if self.holds:
            return
        if self.active == 0:
            raise ValueError(
                f"{what}: no latent of the original fires on {self.tokens} tokens ({self.inputs}), so nothing is shown: give "
                "activations that it was trained on, --check RECORDING --layer N."
            )
        negative = "; the original keeps k latents though fewer are positive, which ours does not" * bool(self.negative)
        raise ValueError(
            f"{what} does not compute what the original does, on {self.tokens} tokens ({self.inputs}): NMSE {self.nmse[0]:.6g} "
            f"and {self.nmse[1]:.6g}, L0 {self.l0[0]:.6g} and {self.l0[1]:.6g}; {self.different} of {self.active} codes and "
            f"{self.apart} reconstructions differ{negative}. Nothing was written: check the options that say what the files leave open."
        )


def alike(theirs: float, ours: float) -> bool:
    """Whether the numbers are equal but for rounding; NMSE has none where all tokens are equal."""
    if not (math.isfinite(theirs) and math.isfinite(ours)):
        return math.isnan(theirs) == math.isnan(ours) and not (math.isfinite(theirs) or math.isfinite(ours))
    return abs(ours - theirs) <= ALLOWED * abs(theirs) + 1e-12


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

    `leave_negative` leaves out tokens on which the original has codes below 0: right for random inputs, which may lie
    where no activation does.

    NMSE is over all tokens together: sum of squared errors over squared distances from these tokens' mean.
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
        theirs, ours = codes * code_scale, sae.encode(x)
        n, sums, squares = moments_update(x, shift)
        tokens, total, square = tokens + n, total + sums, square + squares
        decoded = sae.decode(ours)
        errors += torch.stack([squared_error_update(x, x_hat), squared_error_update(x, decoded)])
        apart += int(((x_hat - decoded).norm(dim=1) > CLOSE * x_hat.norm(dim=1)).sum())
        reach = theirs.abs().amax(1, keepdim=True)
        active += int((codes != 0).sum())
        fired += int((ours != 0).sum())
        different += int(((theirs - ours).abs() > CLOSE * reach).sum())
    if tokens == 0:
        raise ValueError(f"{inputs} has no tokens to compare the two on: choose another selection.")
    variation = variation_compute(torch.tensor(tokens), total, square)
    nmse = nmse_compute(errors, variation)
    return Proof(
        inputs,
        tokens,
        (nmse[0].item(), nmse[1].item()),
        (active / tokens, fired / tokens),
        active,
        different,
        apart,
        negative,
    )


def random_inputs(sae: SparseAutoencoder, n: int = 1024, seed: int = 0) -> Iterator[Float[Tensor, "_ d_model"]]:
    """Gaussian directions about the reconstruction of nothing, of lengths from far below to far above where latents fire.

    At lengths that make h as large as the biases and thresholds some latents fire and some do not; at the largest ones
    about half would without a threshold.
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
