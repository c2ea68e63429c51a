"""How products are computed is settled once, and kept by checkpoints."""

import pytest
import torch
from recordings import record
from training.banks import build, specs

from saev.nn import AuxK, Member, Normaliser, Plain, ReLU, TopK
from saev.ops.choice import Timed
from saev.ops.paths import checked
from saev.training.bank import fusable, products
from saev.training.bank.products import choose_products

CPU = torch.device("cpu")
ADAM = torch.optim.Adam([torch.zeros(1)], fused=True)


def _member(sparsifier):
    spec = Member(sparsifier, "a", Plain(), AuxK(), 1e-3, d_sae=32)
    return spec.build(Normaliser(torch.zeros(8), torch.ones(())), torch.randn(64, 8))


@pytest.fixture
def timings(monkeypatch):
    asked = []
    monkeypatch.setattr(products, "faster_path", lambda *shape: asked.append(shape) or Timed("dense", 2.0, 1.0))
    return asked


def test_auto_measures_off_the_cpu_alone(timings):
    member = _member(TopK(2))
    choose_products(member, "auto", 128, CPU, "32-true", ADAM)
    assert member.products == "auto" and not timings
    choose_products(member, "auto", 128, torch.device("cuda"), "bf16-mixed", ADAM)
    assert member.products == "dense" and timings == [(128, 8, 32, 2, torch.device("cuda"), torch.bfloat16, 1, False)]


def test_what_a_checkpoint_settled_stays_unless_asked_by_name(timings):
    member, again = _member(TopK(2)), _member(TopK(2))
    choose_products(member, "measured", 128, CPU, "32-true", ADAM)
    again.load_state_dict(member.state_dict())
    assert again.products == "dense"
    choose_products(again, "measured", 128, CPU, "32-true", ADAM)
    assert len(timings) == 1
    choose_products(again, "sparse", 128, CPU, "32-true", ADAM)
    assert again.products == "sparse"


def test_codes_of_unknown_number_are_left_to_the_rule(timings):
    member = _member(ReLU(1e-3))
    choose_products(member, "measured", 128, CPU, "32-true", ADAM)
    assert member.products == "auto" and not timings


@pytest.mark.slow
def test_both_ways_give_the_same_training(tmp_path):
    dataset = record(tmp_path / "data")
    found = []
    for way in ("sparse", "dense"):
        trainer, module, data = build(dataset, specs()[:3], steps=10)
        module.products = way
        trainer.fit(module, data)
        assert {member.products for member in module.bank} == {way}
        found.append({name: value.detach() for name, value in module.bank.named_parameters()})
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_fused_steps_that_cannot_be_are_refused_by_name(timings):
    for precision, sparsifier, optimiser, reason in (
        ("32-true", TopK(2), ADAM, "trainer.precision is not bf16-mixed"),
        ("bf16-mixed", ReLU(1e-3, atom_norm=True), ADAM, "atom_norm=true"),
        ("bf16-mixed", TopK(2), torch.optim.SGD([torch.zeros(1)]), "the optimiser is SGD"),
        ("bf16-mixed", TopK(2), torch.optim.Adam([torch.zeros(1)]), "optimiser.fused=true"),
        ("bf16-mixed", TopK(2), ADAM, "d_model=8 is not a multiple of 16"),
    ):
        with pytest.raises(ValueError, match=f"products=fused: a: .*{reason}.*set products=auto"):
            choose_products(_member(sparsifier), "fused", 128, CPU, precision, optimiser)


def test_the_fused_step_is_measured_where_it_can_be(monkeypatch):
    asked = []
    monkeypatch.setattr(products, "refusal", lambda *a: None)
    monkeypatch.setattr(products, "faster_path", lambda *a: asked.append(a) or Timed("fused", 3.0, 2.0, 1.0))
    member = _member(TopK(2))
    choose_products(member, "measured", 128, CPU, "bf16-mixed", ADAM)
    assert member.products == "fused" and asked[0][-1] is True


def test_on_a_gpu_steps_of_unknown_numbers_of_codes_are_fused_where_they_can_be(monkeypatch, timings):
    for reason, expected in (("no kernels", "auto"), (None, "fused")):
        monkeypatch.setattr(products, "refusal", lambda *a, reason=reason: reason)
        member = _member(ReLU(1e-3))
        choose_products(member, "auto", 128, torch.device("cuda"), "bf16-mixed", ADAM)
        assert member.products == expected and not timings


def test_a_step_is_fused_in_all_processes_or_in_none(monkeypatch, caplog):
    monkeypatch.setattr(fusable, "refusal", lambda *a: None)
    members = [_member(TopK(2)) for _ in range(2)]
    for member in members:
        member.products = "fused"
    settled = fusable.Fusable()
    settled.settle(members, CPU, torch.bfloat16, ADAM, lambda mine: [mine[0], False])
    group = ADAM.param_groups[0]
    assert [settled.takes(member, CPU, ADAM, group) for member in members] == [True, False]
    assert "another process cannot take them" in caplog.text
    # settings of a checkpoint replace those of the optimiser
    assert not settled.takes(members[0], CPU, ADAM, {**group, "weight_decay": 0.1})
    assert "optimiser.weight_decay=0.1" in caplog.text


def test_unknown_products_are_refused():
    with pytest.raises(ValueError, match="products=spares: choose auto, measured, sparse, dense or fused"):
        checked("spares")
