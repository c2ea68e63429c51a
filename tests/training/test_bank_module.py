"""The training loop on Lightning: a bank trains as single runs would, resumes exactly, and survives a member's NaN."""

import json

import lightning as L
import pytest
import torch
from recordings import record
from training.banks import Snapshots, StopAt, assert_equal, build, specs, state

from callbacks import Checkpoint, MetricsWriter
from saev.nn import AuxK, Member, Plain, ReLU


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture(scope="module")
def through(dataset):
    """(trainer, module) of an uninterrupted run."""
    trainer, module, data = build(dataset, specs())
    trainer.fit(module, data)
    return trainer, module


@pytest.mark.slow
def test_a_bank_of_n_is_n_single_runs(dataset, through):
    """Guards against members coupled by a global gradient norm or a shared random state."""
    trainer, together = through
    assert trainer.global_step == 30  # and not 90: one optimiser, whatever the number of members
    for i, spec in enumerate(specs()):
        trainer, alone, data = build(dataset, [spec])
        trainer.fit(alone, data)
        assert_equal(state(alone.bank.members[0]), state(together.bank.members[i]))


@pytest.mark.slow
def test_resumed_is_uninterrupted(dataset, through, tmp_path):
    """Guards against a theta that is lost and an optimiser whose step count is stuck or starts anew (known faults of peers)."""
    _, uninterrupted = through
    trainer, first, data = build(dataset, specs(), callbacks=[StopAt(17)])
    trainer.fit(first, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert trainer.global_step == 17 and data.consumed == 17

    trainer, again, data = build(dataset, specs())
    trainer.fit(again, data, ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 30 and data.consumed == 30
    assert_equal(state(again), state(uninterrupted))
    steps = [int(s["step"]) for s in again.optimizers().optimizer.state.values()]
    trained = [p for p in again.bank.parameters() if p.requires_grad]  # gated's b_enc is fixed
    assert set(steps) == {30} and len(steps) == len(trained) < len(list(again.bank.parameters())) - 8
    assert int(again.tokens_seen) == int(uninterrupted.tokens_seen)


@pytest.mark.slow
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


@pytest.mark.slow
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
    for members in (specs()[:2], [*specs()[:2], Member(ReLU(1e-2), "relu", Plain(), AuxK(), 1e-2, d_sae=32)]):
        trainer, module, data = build(dataset, members)
        with pytest.raises(ValueError, match=r"the checkpoint's SAEs are .*relu.* this run's are"):
            trainer.fit(module, data, ckpt_path=tmp_path / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_members_nan_stays_its_own(dataset):
    bad = Member(ReLU(1e-3), "bad", Plain(), AuxK(), 1e30, d_sae=64)
    trainer, alone, data = build(dataset, specs())
    trainer.fit(alone, data)
    trainer, module, data = build(dataset, [*specs(), bad], callbacks=[Snapshots()])
    trainer.fit(module, data)
    assert [member.stopped for member in module.bank] == [False] * len(specs()) + [True]
    for a, b in zip(alone.bank, list(module.bank)[:-1], strict=True):
        assert_equal(state(a), state(b))


def test_a_bank_of_failures_stops_with_the_remedy(dataset):
    bad = Member(ReLU(1e-3), "bad", Plain(), AuxK(), 1e30, d_sae=64)
    trainer, module, data = build(dataset, [bad], callbacks=[Snapshots()])
    with pytest.raises(ValueError, match=r"every SAE has diverged .* lower lr"):
        trainer.fit(module, data)


@pytest.mark.slow
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


@pytest.mark.slow
def test_metrics_reach_the_file_and_history_is_cut_on_resume(dataset, tmp_path):
    path = tmp_path / "metrics.jsonl"
    trainer, module, data = build(dataset, specs(), steps=20, callbacks=[MetricsWriter(path, {})])
    trainer.fit(module, data)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["member"] for line in lines} == {spec.name for spec in specs()}
    train = [line for line in lines if line["split"] == "train" and line["member"] == "topk"]
    assert [line["step"] for line in train] == [5, 10, 15, 20]
    assert {"loss", "z_mse", "l0", "gradient_norm", "dead_train", "lr"} <= train[-1].keys()
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    later = {**lines[-1], "step": 99}
    path.write_text(path.read_text() + json.dumps(later) + "\n" + '{"step": 1')
    trainer, module, data = build(dataset, specs(), steps=25, callbacks=[MetricsWriter(path, {})])
    trainer.fit(module, data, ckpt_path=tmp_path / "last.ckpt")
    steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert max(steps) == 25 and steps == sorted(steps) and steps.count(20) == 2 * len(specs())


def test_a_members_gradients_are_gone_before_the_next_ones_are_made(dataset):
    """Guards against memory of gradients that grows with the number of members."""
    held = []

    class Look(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            for member in pl_module.bank:
                member.register_forward_pre_hook(lambda *_: held.append([p.grad for p in pl_module.parameters()]))

    trainer, module, data = build(dataset, specs(), steps=2, callbacks=[Look()])
    trainer.fit(module, data)
    assert len(held) == 2 * len(specs()) and all(grad is None for grads in held for grad in grads)


def test_steps_are_counted_when_all_members_are_stopped(dataset):
    class Stop(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step == 4:
                for member in pl_module.bank:
                    member.stop()

    trainer, module, data = build(dataset, specs(), steps=10, callbacks=[Stop()])
    trainer.fit(module, data)
    assert trainer.global_step == data.consumed == 10
    assert trainer.lr_scheduler_configs[0].scheduler.last_epoch == 10
    assert [member.step for member in module.bank] == [4] * len(specs())


def test_a_precision_that_couples_members_is_refused(dataset):
    trainer, module, data = build(dataset, specs(), steps=2)
    trainer.strategy.precision_plugin.precision = "16-mixed"
    with pytest.raises(ValueError, match=r"trainer\.precision=16-mixed .* take bf16-mixed"):
        trainer.fit(module, data)
