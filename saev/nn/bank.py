"""Many autoencoders trained on the same batches.

Member --build--> TrainingMember (autoencoder, objective, dead-latent counter) ; SAEBank = ModuleList of these
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor, nn

from saev.nn.autoencoder import SparseAutoencoder
from saev.nn.auxk import auxk_loss
from saev.nn.decoding import firings, reconstruction_error
from saev.nn.freezing import freeze_parameters, hold_near
from saev.nn.maybe_dead import MaybeDead
from saev.nn.normalise import Normaliser
from saev.nn.objectives import Objective
from saev.nn.settings import AuxK, Freeze
from saev.ops import collective
from saev.ops.paths import Path, using


class Losses(NamedTuple):
    """Losses of one member's training step: means over the batch, or over this process's shard of it."""

    loss: Float[Tensor, ""]  # the minimised sum: reconstruction + sparsity + aux
    reconstruction: Float[Tensor, ""]
    sparsity: Float[Tensor, ""]
    aux: Float[Tensor, ""]
    z_mse: Float[Tensor, ""]  # of z, per dimension, of the whole dictionary
    l0: Float[Tensor, ""]  # active latents per token of the whole batch, also where it is sharded


class TrainingMember(nn.Module):
    """An autoencoder in training: its loss, the number of tokens since each latent fired, and the atoms it started from."""

    tokens_since_fired: Int64[Tensor, " d_sae"]
    failed: Bool[Tensor, ""]
    start: Float16[Tensor, "d_sae d_model"] | None  # unit rows; None where the atoms do not change

    def __init__(
        self,
        name: str,
        sae: SparseAutoencoder,
        objective: Objective,
        auxk: AuxK,
        lr: float,
        n_tokens: int | None = None,
        freeze: Freeze = "none",
    ):
        super().__init__()
        self.name, self.sae, self.objective, self.auxk, self.lr = name, sae, objective, auxk, lr
        self.dead_tokens = auxk.window(n_tokens)
        self.register_buffer("tokens_since_fired", torch.zeros(sae.n_latents, dtype=torch.int64))
        self.register_buffer("failed", torch.zeros((), dtype=torch.bool))
        self.freeze: Freeze = freeze
        freeze_parameters(sae, freeze)
        # part of the checkpoint: on another machine the initialisation may differ in its rounding
        self.register_buffer("start", sae.atoms.detach().half() if sae.w_dec.requires_grad else None)
        self.maybe_dead = MaybeDead(self.dead_tokens)
        self._maybe_dead: tuple[int, Tensor] | None = None  # of a step
        self.step = 0  # training steps taken; draws random prefixes
        # the path of the maps around its codes; fused: steps by saev.ops.fused, where they can be
        self.products: Path | Literal["fused"] = "auto"
        self.stopped = False  # `failed` on the host: read at every step without synchronising

    def forward(self, z: Float[Tensor, "batch d_model"], sparsity_factor: float = 1.0) -> Losses:
        """Losses of a batch of normalised activations; updates tokens_since_fired. ValueError for an empty batch."""
        self.check_batch(z)
        sae = self.sae
        with using(
            "auto" if self.products == "fused" else self.products
        ):  # not AuxK, which has another number of codes
            h, at, f = sae.training_codes(z)
            ends = self.objective.ends(sae.n_latents, self.step)
            reconstruction, residual = reconstruction_error(z, f, sae.w_dec, sae.b_dec, ends)
            sparsity = sae.sparsifier.penalty(at, f, sae.w_dec) * sparsity_factor
            auxiliary = sae.sparsifier.auxiliary_loss(z, at, sae.w_dec, sae.b_dec)
        tokens = collective.global_batch_size(len(z))
        aux = self._revival(z, h, residual, tokens) + auxiliary
        fired = collective.all_reduce_sum(firings(f, sae.n_latents))
        self.tokens_since_fired.add_(tokens).mul_(fired == 0)
        z_mse = residual.detach().square().mean()
        return Losses(reconstruction + sparsity + aux, reconstruction, sparsity, aux, z_mse, fired.sum() / tokens)

    @staticmethod
    def check_batch(z: Float[Tensor, "batch d_model"]) -> None:
        """ValueError for an empty batch."""
        if not len(z):
            raise ValueError("the batch has no tokens: batch_size must be at least 1, and the data must have tokens.")

    def _revival(
        self, z: Float[Tensor, "batch d_model"], h: Float[Tensor, "batch d_sae"], residual: Tensor, tokens: int
    ) -> Float[Tensor, ""]:
        maybe = self.maybe_dead_latents(tokens)
        return auxk_loss(self.auxk, self.sae, z, h, residual, self.dead, maybe)

    def maybe_dead_latents(self, tokens: int) -> Int64[Tensor, " n"]:
        """Latents among which all dead ones are that AuxK revives in a step of `tokens` tokens; none without AuxK."""
        if not self.auxk.coefficient or self.freeze == "all":
            return self.tokens_since_fired.new_empty(0)
        if self._maybe_dead is None or self._maybe_dead[0] != self.step:  # a step that is begun fused may ask again
            self._maybe_dead = self.step, self.maybe_dead.after(self.tokens_since_fired, tokens)
        return self._maybe_dead[1]

    def finish_step(self, l0: Float[Tensor, ""], sparsity_factor: float = 1.0) -> None:
        """After the optimiser's step: project onto the constraints, update the controller by the whole batch's `l0`, count."""
        self.sae.project()
        if self.freeze == "soft":
            assert self.start is not None
            hold_near(self.sae.w_dec, self.start)
        # during the penalty's warm-up L0 does not reflect the coefficient, nor does that of a frozen encoder at any time
        if sparsity_factor >= 1 and self.sae.encoder.requires_grad:
            self.sae.sparsifier.update_controller(l0)
        self.step += 1

    def get_extra_state(self) -> dict[str, Any]:
        """State in a checkpoint beside tensors."""
        return {"step": self.step, "products": self.products, "maybe_dead": self.maybe_dead.known()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.step, self.products, self._maybe_dead = state["step"], state["products"], None
        self.maybe_dead.know(state.get("maybe_dead"))

    def stop(self) -> None:
        """Exclude this member from further steps: its parameters are no longer finite."""
        self.stopped = True
        self.failed.fill_(True)
        self.requires_grad_(False)

    @property
    def dead(self) -> Bool[Tensor, " d_sae"]:
        """Latents that have not fired for `dead_tokens` training tokens."""
        return self.tokens_since_fired >= self.dead_tokens

    @torch.no_grad()
    def condition_gradients(self, clip: float) -> Float[Tensor, ""]:
        """Remove the atoms' parallel gradient and clip this member's gradient to norm `clip`; returns the norm before clipping.

        Clipping a bank as a whole would couple its members and spread one member's NaN to all.
        """
        self.sae.remove_parallel_gradient()
        norm = nn.utils.get_total_norm([p.grad for p in self.sae.parameters() if p.grad is not None])
        if (
            norm.device.type != "cpu" or not norm <= clip
        ):  # on a GPU the test would synchronise; scaling by 1 costs less
            nn.utils.clip_grads_with_norm_(self.sae.parameters(), clip, norm)
        return norm


class SAEBank(nn.Module):
    """Members that share every batch and its normalisation."""

    def __init__(self, members: list[TrainingMember]):
        super().__init__()
        names = [member.name for member in members]
        if len(set(names)) != len(names):
            raise ValueError(f"members of a bank must have different names: {names}.")
        self.members = nn.ModuleList(members)

    def __iter__(self) -> Iterator[TrainingMember]:
        return iter(self.members)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.members)

    @property
    def normaliser(self) -> Normaliser:
        """The map from raw activations to z, the same for all members."""
        return self.members[0].sae.normaliser  # type: ignore[union-attr, return-value]

    @property
    def names(self) -> list[str]:
        """The members' names, in order."""
        return [member.name for member in self]
