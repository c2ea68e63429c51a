"""Training steps as they are usually written: dense products, autograd, the plain Adam; what bench_step.py measures beside.

Each starts from the weights of one of our members and does all that its step does: loss, backward pass, the atoms' parallel
gradient removed, the gradient's norm clipped, Adam, atoms back to unit norm.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saev.nn.bank import TrainingMember

Step = Callable[[Float[Tensor, "batch d_model"]], None]


class DenseSAE(nn.Module):
    """Weights of a member, and its reconstruction from a matrix of codes."""

    def __init__(self, member: TrainingMember):
        super().__init__()
        sae = member.sae
        named = {"w_enc": sae.w_enc, "b_enc": sae.b_enc, "w_dec": sae.w_dec, "b_dec": sae.b_dec}
        for name, value in named.items():
            setattr(self, name, nn.Parameter(value.detach().clone(memory_format=torch.contiguous_format)))

    def pre_activations(self, z: Tensor) -> Tensor:
        return torch.einsum("bd,ds->bs", z - self.b_dec, self.w_enc) + self.b_enc

    def topk(self, z: Tensor, k: int) -> Tensor:
        """Codes by a mask: the matrix of them that are kept, times all."""
        f = self.pre_activations(z).relu()
        mask = torch.zeros_like(f).scatter_(1, f.topk(k, dim=1).indices, 1.0)
        return f * mask

    def batchtopk(self, z: Tensor, k: int) -> Tensor:
        f = self.pre_activations(z).relu()
        mask = torch.zeros_like(f).flatten().scatter_(0, f.flatten().topk(len(z) * k).indices, 1.0)
        return f * mask.view_as(f)

    def decode(self, f: Tensor) -> Tensor:
        return torch.einsum("bs,sd->bd", f, self.w_dec) + self.b_dec


def dense_topk(member: TrainingMember, k: int, autocast: torch.dtype | None) -> Step:
    sae = DenseSAE(member)
    return _stepped(sae, lambda z: (z - sae.decode(sae.topk(z, k))).square().mean(), autocast, fused=False)


def dense_batchtopk(member: TrainingMember, k: int, autocast: torch.dtype | None) -> Step:
    sae = DenseSAE(member)
    return _stepped(sae, lambda z: (z - sae.decode(sae.batchtopk(z, k))).square().mean(), autocast, fused=False)


def dense_matryoshka(member: TrainingMember, k: int, autocast: torch.dtype | None) -> Step:
    """Every prefix decoded by itself, and stacked."""
    sae = DenseSAE(member)
    ends = member.objective.ends(member.sae.n_latents)  # type: ignore[attr-defined, call-arg]

    def loss(z: Tensor) -> Tensor:
        f = sae.topk(z, k)
        z_hat = torch.stack([f[:, :end] @ sae.w_dec[:end] + sae.b_dec for end in ends])
        return (z - z_hat).square().mean()

    return _stepped(sae, loss, autocast, fused=False)


def dense_auxk(member: TrainingMember, k: int, n_dead: int, autocast: torch.dtype | None) -> Step:
    """With the first n_dead latents dead: all others masked, the largest half of d_model among them decoded."""
    sae, coefficient = DenseSAE(member), member.auxk.coefficient
    dead = torch.arange(member.sae.n_latents, device=sae.b_enc.device) < n_dead

    def loss(z: Tensor) -> Tensor:
        e = z - sae.decode(sae.topk(z, k))
        among = torch.where(dead, sae.pre_activations(z), 0).relu()
        mask = torch.zeros_like(among).scatter_(1, among.topk(z.shape[1] // 2, dim=1).indices, 1.0)
        error = ((among * mask) @ sae.w_dec - e.detach()).square().sum()
        return e.square().mean() + coefficient * error / (e - e.mean(0)).detach().square().sum()

    return _stepped(sae, loss, autocast, fused=False)


def dense_stacked(members: list[TrainingMember], k: int, autocast: torch.dtype | None) -> Step:
    """Members of one shape as one: weights stacked, batched products, one optimiser."""
    every = [DenseSAE(member) for member in members]
    sae = every[0]
    for name in ("w_enc", "b_enc", "w_dec", "b_dec"):
        stacked = torch.stack([getattr(one, name).detach() for one in every])
        setattr(sae, name, nn.Parameter(stacked if name.startswith("w") else stacked[:, None]))

    def loss(z: Tensor) -> Tensor:
        f = ((z - sae.b_dec) @ sae.w_enc + sae.b_enc).relu()
        f = f * torch.zeros_like(f).scatter_(2, f.topk(k, dim=2).indices, 1.0)
        return (z - f @ sae.w_dec - sae.b_dec).square().mean() * len(every)

    return _stepped(sae, loss, autocast, fused=False)


def dense_relu(member: TrainingMember, sparsity: float, autocast: torch.dtype | None) -> Step:
    """As one would write it for speed by hand: the bias folded into the product, the fused Adam."""
    sae = DenseSAE(member)

    def loss(z: Tensor) -> Tensor:
        f = torch.addmm(sae.b_enc - sae.b_dec @ sae.w_enc, z, sae.w_enc).relu()
        z_hat = torch.addmm(sae.b_dec, f, sae.w_dec)
        return (z - z_hat).square().mean() + sparsity * f.sum() / len(z)

    return _stepped(sae, loss, autocast, fused=True)


def _stepped(sae: DenseSAE, loss: Callable[[Tensor], Tensor], autocast: torch.dtype | None, fused: bool) -> Step:
    optimiser = torch.optim.Adam(sae.parameters(), lr=3e-4, fused=fused)

    def step(z: Tensor) -> None:
        with torch.autocast(z.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            value = loss(z)
        value.backward()
        with torch.no_grad():
            assert sae.w_dec.grad is not None
            sae.w_dec.grad -= (sae.w_dec.grad * sae.w_dec).sum(-1, keepdim=True) * sae.w_dec
            nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            sae.w_dec /= sae.w_dec.norm(dim=-1, keepdim=True)

    return step
