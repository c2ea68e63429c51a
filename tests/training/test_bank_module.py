"""The training loop on Lightning: a bank trains as single runs would, resumes exactly, and survives a member's NaN."""

import copy
import functools
import json

import lightning as L
import pytest
import torch
from recordings import record

from callbacks import Checkpoint, DeadUnits, MetricsWriter, SparsityWarmup
from datamodules import ActivationDataModule
from saev.nn import (
    AuxK,
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    MemberSpec,
    Normaliser,
    Plain,
    RandomMatryoshka,
    ReLU,
    SAEBank,
    TopK,
)  # fmt: skip
from saev.training.bank_module import BankModule


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("training") / "data")


def specs(**more):
    auxk = AuxK(dead_tokens=300)
    make = lambda name, act, objective, **kw: MemberSpec(name, act, objective, auxk, 1e-2, **{"d_sae": 64, **kw})  # noqa: E731
    return [
        make("topk", TopK(4), Plain()),
        make("batchtopk", BatchTopK(4), Matryoshka(), seed=1),
        make("relu", ReLU(1e-2), Plain()),
        make("jumprelu", JumpReLU(l0_target=4), RandomMatryoshka(n_prefixes=4), d_sae=48),
        make("gated", Gated(1e-2, l0_target=4), Plain(), d_sae=80),
        make("free", ReLU(1e-2, atom_norm=True), Plain(), d_sae=32),
    ]


def build(dataset, members, steps=30, callbacks=(), batch_size=50, **trainer):
    data = ActivationDataModule(str(dataset), 1, batch_size, n_tokens=None, val_share=0.2, depth=2)
    data.setup("fit")
    normaliser = Normaliser.fit(data.store.moments(1))
    sample = normaliser(data.sample(400))
    module = BankModule(
        SAEBank([spec.build(normaliser, sample) for spec in members]),
        functools.partial(torch.optim.Adam, fused=True),
        warmup=5,
    )
    settings = {
        "accelerator": "cpu",
        "max_steps": steps,
        "max_epochs": -1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "val_check_interval": 10,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": 5,
        "callbacks": [SparsityWarmup(0.2), DeadUnits(), *callbacks],
    }
    return L.Trainer(**{**settings, **trainer}), module, data


def state(module):
    return {name: copy.deepcopy(value) for name, value in module.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        if torch.is_tensor(one[name]):
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=name)
        else:
            assert one[name] == other[name], name


def test_a_bank_of_n_is_n_single_runs(dataset):
    """Guards against members coupled by a global gradient norm or a shared random state."""
    trainer, together, data = build(dataset, specs())
    trainer.fit(together, data)
    assert trainer.global_step == 30  # and not 90: one optimiser, whatever the number of members
    for i, spec in enumerate(specs()):
        trainer, alone, data = build(dataset, [spec])
        trainer.fit(alone, data)
        assert_equal(state(alone.bank.members[0]), state(together.bank.members[i]))


def test_resumed_is_uninterrupted(dataset, tmp_path):
    """Guards against a theta that is lost and an optimiser whose step count is stuck or starts anew (known faults of peers)."""
    trainer, through, data = build(dataset, specs())
    trainer.fit(through, data)

    trainer, first, data = build(dataset, specs(), callbacks=[StopAt(17)])
    trainer.fit(first, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert trainer.global_step == 17 and data.consumed == 17

    trainer, again, data = build(dataset, specs())
    trainer.fit(again, data, ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 30 and data.consumed == 30
    assert_equal(state(again), state(through))
    steps = [int(s["step"]) for s in again.optimizers().optimizer.state.values()]
    assert set(steps) == {30} and len(steps) == len(list(again.bank.parameters())) - 1  # gated's b_enc is fixed
    assert int(again.tokens_seen) == int(through.tokens_seen)


class StopAt(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


def test_ctrl_c_saves_and_stops_after_the_step(dataset, tmp_path):
    import signal

    class Press(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            if trainer.global_step == 12:
                signal.raise_signal(signal.SIGINT)

    interruption = Checkpoint(tmp_path / "last.ckpt", every_n_steps=1000)
    trainer, module, data = build(dataset, specs(), callbacks=[Press(), interruption])
    before = signal.getsignal(signal.SIGINT)
    trainer.fit(module, data)
    assert trainer.global_step == 13 and interruption.received == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 13 and saved["ActivationDataModule"]["consumed"] == 13


def test_there_is_one_checkpoint_and_it_is_the_newest(dataset, tmp_path):
    """Guards against versions beside `last.ckpt`, of which a resumed run would take the oldest."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    trainer, module, data = build(dataset, specs(), steps=12, callbacks=[Checkpoint(path, every_n_steps=5)])
    trainer.fit(module, data)
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["global_step"] == 10
    trainer, module, data = build(dataset, specs(), steps=17, callbacks=[Checkpoint(path, every_n_steps=5)])
    trainer.fit(module, data, ckpt_path=path)
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["global_step"] == 15
    with pytest.raises(ValueError, match="every_n_steps=0"):
        Checkpoint(path, every_n_steps=0)


def test_another_stream_is_not_resumed(dataset, tmp_path):
    trainer, module, data = build(dataset, specs(), steps=3)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer, module, data = build(dataset, specs(), batch_size=40)
    with pytest.raises(ValueError, match="batch_size=50, this run has batch_size=40"):
        trainer.fit(module, data, ckpt_path=tmp_path / "last.ckpt")


def test_another_bank_is_not_resumed(dataset, tmp_path):
    trainer, module, data = build(dataset, specs(), steps=3)
    trainer.fit(module, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    for members in (specs()[:2], [*specs()[:2], MemberSpec("relu", ReLU(1e-2), Plain(), AuxK(), 1e-2, d_sae=32)]):
        trainer, module, data = build(dataset, members)
        with pytest.raises(ValueError, match=r"the checkpoint's SAEs are .*relu.* this run's are"):
            trainer.fit(module, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)


def test_a_members_nan_stays_its_own(dataset):
    bad = MemberSpec("bad", ReLU(1e-3), Plain(), AuxK(), 1e30, d_sae=64)
    trainer, alone, data = build(dataset, specs())
    trainer.fit(alone, data)
    trainer, module, data = build(dataset, [*specs(), bad], callbacks=[Snapshots()])
    trainer.fit(module, data)
    assert [member.stopped for member in module.bank] == [False] * len(specs()) + [True]
    for a, b in zip(alone.bank, list(module.bank)[:-1], strict=True):
        assert_equal(state(a), state(b))


def test_a_bank_of_failures_stops_with_the_remedy(dataset):
    bad = MemberSpec("bad", ReLU(1e-3), Plain(), AuxK(), 1e30, d_sae=64)
    trainer, module, data = build(dataset, [bad], callbacks=[Snapshots()])
    with pytest.raises(ValueError, match=r"every SAE has diverged .* lower lr"):
        trainer.fit(module, data)


class Snapshots(L.Callback):
    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step % 5 == 0:
            pl_module.snapshot()


def test_validation_is_the_formula_on_held_out_tokens(dataset):
    trainer, module, data = build(dataset, specs(), steps=10)
    trainer.fit(module, data)
    x = torch.cat([batch["acts"] for batch in data.val_dataloader()]).double()
    assert len(x) == 8 * 16
    module.eval()
    for member, row in zip(module.bank, module.validated_rows(), strict=True):
        f = member.sae.encode(x.float())
        x_hat = member.sae.decode(f).double()
        nmse = (x - x_hat).square().sum() / (x - x.mean(0)).square().sum()
        assert row["nmse"] == pytest.approx(float(nmse.detach()), rel=1e-6)
        assert row["l0"] == pytest.approx(float((f != 0).sum(1).double().mean()), rel=1e-9)
        assert row["l1"] == pytest.approx(float(f.detach().abs().sum(1).double().mean()), rel=1e-6)


def test_metrics_reach_the_file_and_history_is_cut_on_resume(dataset, tmp_path):
    path = tmp_path / "metrics.jsonl"
    trainer, module, data = build(dataset, specs(), steps=20, callbacks=[MetricsWriter(path, {})])
    trainer.fit(module, data)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["member"] for line in lines} == {spec.name for spec in specs()}
    train = [line for line in lines if line["split"] == "train" and line["member"] == "topk"]
    assert [line["step"] for line in train] == [5, 10, 15, 20]
    assert {"loss", "z_mse", "l0", "gradient_norm", "dead", "lr"} <= train[0].keys()
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    later = {**lines[-1], "step": 99}
    path.write_text(path.read_text() + json.dumps(later) + "\n" + '{"step": 1')
    trainer, module, data = build(dataset, specs(), steps=25, callbacks=[MetricsWriter(path, {})])
    trainer.fit(module, data, ckpt_path=tmp_path / "last.ckpt")
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert max(steps) == 25 and steps == sorted(steps) and steps.count(20) == 2 * len(specs())
