"""Whose steps bench_step.py times: ours as BankModule takes them, the plain forms, and other libraries'."""

import copy
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.step_peers import PEERS, Size
from benchmarks.step_references import (
    Step,
    dense_auxk,
    dense_batchtopk,
    dense_matryoshka,
    dense_relu,
    dense_stacked,
    dense_topk,
)
from saev.nn import (
    AuxK,
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    Member,
    Normaliser,
    Objective,
    Plain,
    ReLU,
    SAEBank,
    SparsifierSettings,
    TopK,
    TrainingMember,
)
from saev.training.bank.module import BankModule
from saev.training.bank.products import choose_products

K, L1 = 32, 1e-3
PREFIXES = Matryoshka(groups=[0.1] * 10)


class Options(NamedTuple):
    device: torch.device
    autocast: torch.dtype | None
    cpu_seconds: bool
    rounds: int


def ours(
    size: tuple[int, int, int], sparsifier: SparsifierSettings, options: Options, objective: Objective | None = None
) -> TrainingMember:
    """A member from a sample of what is trained on; on a GPU with the fastest products, as BankModule chooses them."""
    member = copy.deepcopy(_built(size, sparsifier, objective or Plain())).to(options.device)
    precision = "32-true" if options.autocast is None else "bf16-mixed"
    choose_products(member, "auto", size[2], options.device, precision, adam([{"params": [torch.zeros(1)], "lr": 1.0}]))
    return member


@functools.cache
def _built(size: tuple[int, int, int], sparsifier: SparsifierSettings, objective: Objective) -> TrainingMember:
    spec = Member(sparsifier, "ours", objective, AuxK(), 3e-4, d_sae=size[1], b_dec="mean")
    normaliser = Normaliser(torch.zeros(size[0]), torch.ones(()))
    return spec.build(normaliser, data(size, torch.device("cpu"))[:4096])


def by_matrices(member: TrainingMember) -> TrainingMember:
    """The same member, but every latent takes part in every product."""
    member.products = "dense"
    return member


def stepped(members: list[TrainingMember], options: Options) -> Step:
    """As BankModule steps a bank of these members."""
    module = BankModule(SAEBank(members[:1]), adam)  # a bank's names differ, these members' do not
    optimisers = [adam([{"params": list(member.sae.parameters()), "lr": member.lr}]) for member in members]

    def step(z: Tensor) -> None:
        for member, optimiser in zip(members, optimisers, strict=True):
            dtype = options.autocast or torch.bfloat16
            with torch.autocast(z.device.type, dtype, enabled=options.autocast is not None):
                module._member_step(member, z, optimiser, optimiser.param_groups[0])

    return step


def adam(groups: list[dict[str, Any]]) -> torch.optim.Adam:
    """The optimiser of trainer=gpu."""
    return torch.optim.Adam(groups, fused=True)


def repeated(step: Step, times: int) -> Step:
    """The same step several times in turn, as members of a bank are: what comes before it weighs as little as it does there."""

    def stepping(z: Tensor) -> None:
        for _ in range(times):
            step(z)

    return stepping


def with_dead(member: TrainingMember, n_dead: int, step: Step) -> Step:
    """The step of a member whose first n_dead latents stay dead: a bias keeps them from firing."""
    with torch.no_grad():
        member.sae.b_enc[:n_dead] -= 2

    def stepping(z: Tensor) -> None:
        member.tokens_since_fired[:n_dead] = member.dead_tokens
        step(z)

    member.tokens_since_fired[:n_dead] = member.dead_tokens
    return stepping


@functools.cache
def data(size: tuple[int, int, int], device: torch.device) -> Tensor:
    """Sparse mixtures of more directions than dimensions, with noise: about as hard as activations are."""
    d_model, _, batch = size
    generator = torch.Generator().manual_seed(0)
    atoms = torch.randn(2 * d_model, d_model, generator=generator)
    codes = torch.rand(batch, 2 * d_model, generator=generator) * (
        torch.rand(batch, 2 * d_model, generator=generator) < 0.02
    )
    z = codes @ atoms + 0.1 * torch.randn(batch, d_model, generator=generator)
    return (z / z.std()).to(device)


def contenders(size: tuple[int, int, int], options: Options, peers: bool) -> dict[str, dict[str, Step]]:
    """Group -> name -> step; the first of a group is ours."""
    d_model, d_sae, _ = size
    top, batchtop = ours(size, TopK(K), options), ours(size, BatchTopK(K), options)
    nested, relu = ours(size, TopK(K), options, PREFIXES), ours(size, ReLU(L1), options)
    four, reviving = [ours(size, TopK(K), options) for _ in range(4)], ours(size, TopK(K), options)
    n_dead = d_sae // 50

    def one() -> Step:
        return stepped([ours(size, TopK(K), options)], options)

    found: dict[str, dict[str, Step]] = {
        "topk": {"ours": stepped([top], options), "dense": dense_topk(top, K, options.autocast)},
        "batchtopk": {
            "ours": stepped([batchtop], options),
            "our topk": one(),
            "dense": dense_batchtopk(batchtop, K, options.autocast),
        },
        "matryoshka": {
            "ours": stepped([nested], options),
            "our topk": one(),
            "dense": dense_matryoshka(nested, K, options.autocast),
        },
        "relu": {"ours": stepped([relu], options), "dense": dense_relu(relu, L1, options.autocast)},
        **{
            name: {
                "ours": stepped([ours(size, make(), options)], options),
                "our topk": one(),
                "our dense": stepped([by_matrices(ours(size, make(), options))], options),
            }
            for name, make in (("jumprelu", lambda: JumpReLU(l0_target=K)), ("gated", lambda: Gated(L1, l0_target=K)))
        },
        "auxk": {
            "ours": with_dead(reviving, n_dead, stepped([reviving], options)),
            "our topk": one(),
            "dense": dense_auxk(reviving, K, n_dead, options.autocast),
        },
        "4 members": {"ours": stepped(four, options), "4 x one": repeated(stepped([four[0]], options), 4)},
        "stacking": {
            "ours": stepped(four, options),
            "dense": repeated(dense_topk(four[0], K, options.autocast), 4),
            "dense, stacked": dense_stacked(four, K, options.autocast),
        },
    }
    for group, named in PEERS.items() if peers else ():
        for name, make in named.items():
            try:
                step = make(Size(d_model, d_sae, K, device=str(options.device))).step
            except ImportError:
                continue
            found["relu" if group == "relu_l1" else group][name] = step
    return found
