"""Which latents may be dead, as a GPU is asked for them: never too few, known without waiting, kept by checkpoints."""

import copy

import pytest
import torch
from nn.small_bank import SPARSIFIERS, Z, build

from saev.nn import Member, TopK, auxk, maybe_dead
from saev.nn.auxk import AuxK
from saev.nn.maybe_dead import MaybeDead, Question
from saev.nn.objectives import Plain


@pytest.fixture
def as_on_a_gpu():
    """Makes it so within a context of monkeypatch."""

    def patch(context):
        context.setattr(auxk, "by_numpy", lambda h: False)
        context.setattr(maybe_dead, "horizon", lambda device, dead_tokens: dead_tokens // 4)

    return patch


@pytest.fixture
def asked(monkeypatch):
    """A list that grows by one with each question, and with each answer that is taken: "?" and "!"."""
    events, ask, take = [], Question.__init__, Question.latents
    monkeypatch.setattr(Question, "__init__", lambda self, *args: (events.append("?"), ask(self, *args))[1])
    monkeypatch.setattr(Question, "latents", lambda self: (events.append("!"), take(self))[1])
    return events


@pytest.mark.parametrize("sae", SPARSIFIERS)
def test_losses_are_those_of_a_check_at_every_step(monkeypatch, as_on_a_gpu, asked, sae):
    """Members in training whose latents die and come back: losses by either way, and how often the device is asked."""
    here = build(sae=sae, dead_tokens=1200)
    there = copy.deepcopy(here)
    aux, optimisers = [], [torch.optim.Adam(m.sae.parameters(), lr=1e-2) for m in (here, there)]
    for step in range(30):
        z = Z[step % 6 :: 6]  # 100 tokens
        for member, optimiser in zip((here, there), optimisers, strict=True):
            with monkeypatch.context() as context:
                if member is there:
                    as_on_a_gpu(context)
                with torch.no_grad():
                    member.sae.b_enc[:4] -= 2 * (step == 3)
                losses = member(z)
            optimiser.zero_grad()
            losses.loss.backward()
            optimiser.step()
            member.finish_step(losses.l0)
            aux.append(float(losses.aux.detach()))
    torch.testing.assert_close(aux[::2], aux[1::2], rtol=1e-6, atol=1e-9)
    assert asked.count("?") == 8, "every 300 tokens and one batch"
    if "topk" in sae:
        assert any(aux), "something died"


def test_latents_that_come_close_are_known_before_they_are_dead(monkeypatch, as_on_a_gpu, asked):
    as_on_a_gpu(monkeypatch)
    silent, known = torch.tensor([0, 39, 40, 120]), MaybeDead(100)
    assert known.after(silent, 20).tolist() == [3] and asked == ["?", "!"], "the first step waits: 75 and 25 are dead"
    assert known.after(silent + 20, 5).tolist() == [3] and asked == ["?", "!"]
    assert known.after(silent + 25, 10).tolist() == [3], "exactly as far ahead as was asked"
    assert asked == ["?", "!", "?"], "on the way while this step goes on"
    assert known.after(silent + 35, 25).tolist() == [2, 3] and asked == ["?", "!", "?", "!"], "65, 10 and 25 are dead"


def random_run(seed: int, n_steps: int = 200):
    """(silent, tokens) of steps on batches of uneven size in which some latents fire."""
    g = torch.Generator().manual_seed(seed)
    rate = 10 ** (-4 * torch.rand(40, generator=g))
    silent = torch.zeros(40, dtype=torch.int64)
    for _ in range(n_steps):
        tokens = int(torch.randint(1, 60, (), generator=g))
        yield silent, tokens
        fired = torch.rand(40, generator=g) < 1 - (1 - rate) ** tokens
        silent = (silent + tokens) * ~fired


@pytest.mark.slow
@pytest.mark.parametrize("dead_tokens", [1, 7, 100, 1000])
def test_the_dead_are_always_among_them_and_a_resumed_run_looks_at_the_same(monkeypatch, dead_tokens):
    monkeypatch.setattr(maybe_dead, "horizon", lambda device, dead_tokens: max(1, dead_tokens // 4))
    for seed in range(20):
        known, resumed = MaybeDead(dead_tokens), MaybeDead(dead_tokens)
        for step, (silent, tokens) in enumerate(random_run(seed)):
            if step % 7 == seed % 7:
                resumed, before = MaybeDead(dead_tokens), resumed
                resumed.know(before.known())
            latents = known.after(silent, tokens)
            assert set((silent >= dead_tokens).nonzero().squeeze(1).tolist()) <= set(latents.tolist())
            assert latents.tolist() == resumed.after(silent, tokens).tolist() == sorted(latents.tolist())


def test_on_a_cpu_it_is_the_dead_alone(asked):
    silent, known = torch.tensor([0, 99, 100]), MaybeDead(100)
    assert known.after(silent, 1).tolist() == [2] and known.after(silent + 1, 1).tolist() == [1, 2]
    assert not asked and known.known() is None


def test_what_a_gpu_knew_is_forgotten_on_a_cpu():
    """A run that goes on without its GPU, and with one again, does not take an old answer for a new one."""
    known = MaybeDead(100)
    known.know(([0], 80, 100))
    assert known.after(torch.tensor([0, 100]), 10).tolist() == [1] and known.known() is None


def test_what_a_checkpoint_says_follows_to_the_device(asked):
    """It is read on the CPU, before the module goes to its GPU; a device without values stands for one."""
    known = MaybeDead(100)
    known.know(([0, 2], 20, 100))
    assert known.after(torch.zeros(4, dtype=torch.int64, device="meta"), 10).device.type == "meta" and not asked


def test_an_answer_about_other_dead_tokens_is_none(monkeypatch, as_on_a_gpu, asked):
    as_on_a_gpu(monkeypatch)
    known = MaybeDead(100)
    known.know(([], 2_000, 10_000))
    assert known.after(torch.tensor([0, 5_000]), 10).tolist() == [1] and asked == ["?", "!"]


def test_a_checkpoint_keeps_what_is_known(monkeypatch, as_on_a_gpu, asked):
    """Whom a step looks at decides how its sums are rounded: a resumed run must look at the same."""
    as_on_a_gpu(monkeypatch)
    member, again = (build(dead_tokens=4000) for _ in range(2))
    member.tokens_since_fired[:3] = 3500
    member(Z)
    again.load_state_dict(member.state_dict())
    assert again.maybe_dead.latents.tolist() == [0, 1, 2] and again.maybe_dead.left == 400
    again(Z[:400])
    assert asked == ["?", "!"]


def test_without_auxk_the_device_is_not_read(monkeypatch, as_on_a_gpu, asked):
    as_on_a_gpu(monkeypatch)
    off = AuxK(coefficient=0.0, dead_tokens=3)
    member = build(Member(TopK(3), "a", Plain(), off, 1e-3, d_sae=48))
    member(Z)
    assert float(member(Z).aux.detach()) == 0 and not asked


def test_a_step_asks_once(monkeypatch, as_on_a_gpu, asked):
    """A step that is begun fused, and then taken by the autograd path, asks for the latents twice."""
    as_on_a_gpu(monkeypatch)
    member = build()
    first = member.maybe_dead_latents(len(Z))
    left = member.maybe_dead.left
    assert member.maybe_dead_latents(len(Z)) is first and member.maybe_dead.left == left
    member.step += 1
    member.maybe_dead_latents(len(Z))
    assert member.maybe_dead.left != left or asked.count("?") > 1
