"""Every callback, put through the same run, and what each adds to the numbers."""

import inspect
import json
import logging
import math
import re
import time
from types import SimpleNamespace
from unittest.mock import Mock

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn
from recordings import record
from training.banks import assert_equal, build

import callbacks
import saev
from callbacks import (
    BankProgress,
    Checkpoint,
    Coherence,
    DeadUnits,
    FrequencyHistogram,
    MemberCost,
    MemberExport,
    MetricsWriter,
    Mixing,
    Page,
    Probe,
    SparsityWarmup,
    Throughput,
)
from saev.metrics.histograms import FREQUENCY_EDGES
from saev.nn import AuxK, Member, Plain, ReLU, TopK

NAMES = ["relu", "topk"]
MAKE = {
    "BankProgress": lambda path: BankProgress(),
    "Checkpoint": lambda path: Checkpoint(path / "last.ckpt", every_n_steps=5),
    "Coherence": lambda path: Coherence(every_n_steps=4),
    "DeadUnits": lambda path: DeadUnits(),
    "FrequencyHistogram": lambda path: FrequencyHistogram(),
    "MemberCost": lambda path: MemberCost(),
    "MemberExport": lambda path: MemberExport(path / "saes", {name: {"lr": 1e-2} for name in NAMES}, {"layer": 1}),
    "MetricsWriter": lambda path: MetricsWriter(path / "metrics.jsonl", {}),
    "Mixing": lambda path: Mixing(),
    "Page": lambda path: Page(lambda trainer, module: None),
    "Probe": lambda path: Probe(str(record(path / "labelled", labels=True)), images=8),
    "SparsityWarmup": lambda path: SparsityWarmup(0.5),
    "Throughput": lambda path: Throughput(),
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("callbacks") / "data")


def fit(dataset, *watching, steps=12, ckpt_path=None, dead_tokens=100):
    auxk = AuxK(dead_tokens=dead_tokens)
    specs = [Member(a, n, Plain(), auxk, 1e-2, d_sae=48) for n, a in zip(NAMES, (ReLU(1e-2), TopK(2)), strict=True)]
    trainer, module, data = build(
        dataset, specs, steps, watching, 64, optimiser=torch.optim.Adam, warmup=0, usual=False, val_check_interval=6,
        log_every_n_steps=2,
    )  # fmt: skip
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    trainer.validate(module, data, verbose=False)
    return trainer, module, data


def test_every_callback_is_tried_here():
    found = {
        name for name, value in vars(callbacks).items() if inspect.isclass(value) and issubclass(value, L.Callback)
    }
    assert found == set(MAKE) == set(callbacks.__all__)


@pytest.mark.slow
@pytest.mark.parametrize("name", MAKE)
def test_a_callback_changes_nothing_but_what_it_is_for(name, dataset, tmp_path):
    """Alone, it runs; and watching never changes what is learned (only the warm-up of the penalty may)."""
    _, plain, _ = fit(dataset)
    trainer, watched, _ = fit(dataset, MAKE[name](tmp_path))
    assert trainer.global_step == 12
    if name != "SparsityWarmup":
        assert_equal(plain.state_dict(), watched.state_dict())


def test_dead_units_are_those_that_did_not_fire_in_the_window(dataset):
    _, module, _ = fit(dataset, DeadUnits())
    for member, share in zip(module.bank, module.validated["dead_train"], strict=True):
        assert float(share) == pytest.approx(float((member.tokens_since_fired >= 100).double().mean()))
    assert float(module.validated["dead_train"][1]) > 0  # two of 48 latents per token leave some silent


def test_dead_units_are_not_measured_in_a_run_shorter_than_their_window(dataset):
    _, module, _ = fit(dataset, DeadUnits(), dead_tokens=10_000)
    assert all(math.isnan(value) for value in module.validated["dead_train"])


def test_the_window_of_dead_latents_follows_the_run():
    assert AuxK().window(200_000) == 20_000 and AuxK(dead_tokens=7).window(200_000) == 7
    assert AuxK().window(10**9) == AuxK().window() == 10_000_000


def test_a_slow_page_is_not_written_at_each_validation(monkeypatch):
    written, clock = [], SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)

    def write(trainer, module):
        written.append(clock.now)
        clock.now += 1

    page = Page(write)
    fitting, validating = TrainerFn.FITTING, TrainerFn.VALIDATING
    for fn, first, starts in (
        (validating, True, (0,)),
        (fitting, False, (1,)),
        (fitting, True, (2, 10, 22, 23, 30, 50)),
    ):
        for clock.now in starts:
            trainer = Mock(spec=L.Trainer, state=SimpleNamespace(fn=fn), is_global_zero=first)
            page.on_validation_end(trainer, Mock(spec=L.LightningModule))
    assert written == [2, 23, 50]


def test_coherence_is_the_largest_cosine(dataset):
    _, module, _ = fit(dataset, Coherence())
    for member, value in zip(module.bank, module.validated["coherence"], strict=True):
        gram = (member.sae.w_dec @ member.sae.w_dec.T).detach().abs().fill_diagonal_(0)
        assert float(value) == pytest.approx(float(gram.max()), rel=1e-5)
        assert "mean_max_cosine" in module.validated


def test_sparsity_rises_over_its_fraction_of_the_run(dataset):
    seen = []

    class Look(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append(pl_module.sparsity_factor)

    fit(dataset, SparsityWarmup(0.5), Look())
    assert seen == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"fraction=1\.5"):
        SparsityWarmup(1.5)


def test_mixing_is_measured_against_a_perfect_shuffle(dataset):
    _, module, _ = fit(dataset, Mixing())
    assert 0.9 < module.latest["image_entropy_fraction"][0] < 1.1
    assert float(module.latest["image_mates"][0]) >= 0


@pytest.mark.slow
def test_throughput_counts_training_alone(dataset):
    watching = Throughput()
    _, module, _ = fit(dataset, watching)
    bytes_per_token = 16 * 4  # float32
    assert module.latest["mb_per_s"][0] == pytest.approx(module.latest["tokens_per_s"][0] * bytes_per_token / 1e6)
    assert 0 < watching.seconds < 60 and watching.average == pytest.approx(watching.tokens / watching.seconds)
    assert module.validated["tokens_per_s"] == [watching.average] * 2


def test_export_is_the_trained_dictionary_with_its_numbers(dataset, tmp_path):
    _, module, data = fit(dataset, DeadUnits(), MAKE["MemberExport"](tmp_path))
    x = torch.from_numpy(data.store.read(1, 0, "patches").copy())
    for member in module.bank:
        loaded = saev.load(tmp_path / "saes" / member.name)
        assert torch.equal(loaded.encode(x), member.sae.encode(x))
        config = saev.read_config(tmp_path / "saes" / member.name)
        assert config["hyperparameters"] == {"lr": 1e-2} and config["provenance"]["layer"] == 1
        assert config["provenance"]["tokens"] == int(module.tokens_seen)
        assert json.loads((tmp_path / "saes" / member.name / "metrics.json").read_text())["dead"] >= 0


def test_progress_says_where_it_is(dataset, caplog):
    with caplog.at_level(logging.INFO, "callbacks.progress"):
        fit(dataset, BankProgress())
    first, *others = [r.getMessage() for r in caplog.records if r.name == "callbacks.progress"]
    said = r"about \d s left for 2 SAEs x [\d.e-]+ M tokens on cpu: [\d,]+ tokens/s, \d+ steps of [\d.e-]+ s, without validation"
    assert re.fullmatch(said, first), first
    assert [line.split(",")[0] for line in others] == ["step 6 of 12", "step 12 of 12"]
    assert "relu: NMSE" in caplog.text and "topk: NMSE" in caplog.text


def test_frequencies_are_counted_on_held_out_tokens(dataset):
    watching = FrequencyHistogram()
    _, module, _ = fit(dataset, watching)
    for i, counts in enumerate(watching.distributions["frequency_histogram"]):
        frequency = module.validation.latents(i)["frequency"].numpy()
        edges = 10.0 ** np.array(FREQUENCY_EDGES)
        edges[0], edges[-1] = 1e-300, np.inf
        np.testing.assert_array_equal(counts.numpy(), np.histogram(frequency[frequency > 0], edges)[0])
        assert counts.sum() > 0


@pytest.mark.slow
def test_costs_are_each_members_own(dataset):
    """A member that sleeps costs its sleep, the other does not."""

    class Sleepy(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            pl_module.bank.members[1].register_forward_hook(lambda *_: time.sleep(0.05))

    watching = MemberCost()
    _, module, _ = fit(dataset, watching, Sleepy())
    first, second = module.latest["member_ms"]
    assert second >= 50 > 0 < first and module.before_member is None


def test_costs_of_members_that_are_not_called(dataset, monkeypatch):
    """Guards against fused steps, which do not call the member's forward, without a time."""
    monkeypatch.setattr("saev.nn.bank.TrainingMember.__call__", lambda self, *of: self.forward(*of))
    _, module, _ = fit(dataset, MemberCost())
    assert all(ms > 0 for ms in module.latest["member_ms"])


def test_peaks_of_a_gpu_survive_that_costs_reset_them(monkeypatch):
    """The counter rises to 9 between logging steps and to 5 and 7 during the members' steps."""
    allocated, peaks, reset = [2], [9], []
    monkeypatch.setattr(torch.cuda, "Event", lambda **_: Mock())
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: allocated[0])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: peaks[0])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: reset.append(peaks[0]))
    module = SimpleNamespace(device=torch.device("cuda"), peak_bytes=0)
    watching = MemberCost()
    for number, peak in ((0, 9), (1, 5), (-1, 7)):
        peaks[0] = peak
        watching._mark(number, module)
    assert module.peak_bytes == 9 and reset == [9, 5] and watching.memory == [(0, 2, 5), (1, 2, 7)]


def test_the_estimate_covers_a_window_where_activations_are_computed():
    from callbacks.progress import timed_steps

    plan = SimpleNamespace(batches_per_window=32)
    live = SimpleNamespace(reader="live", train_examples=None, stream=lambda _: SimpleNamespace(plan=plan))
    for data, device, steps, expected in (
        (live, "cpu", 1000, 32), (live, "cuda", 40, 20), (None, "cpu", 1000, 5), (None, "cuda", 6103, 50), (None, "cuda", 200, 20),
    ):  # fmt: skip
        trainer = Mock(spec=L.Trainer, max_steps=steps, global_step=0, datamodule=data)
        assert timed_steps(trainer, torch.device(device)) == expected


def test_a_stopped_member_has_no_cost(dataset):
    class Stop(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 8:
                next(iter(pl_module.bank)).stop()

    _, module, _ = fit(dataset, MemberCost(), Stop())
    first, second = module.latest["member_ms"]
    assert math.isnan(first) and second > 0


@pytest.mark.slow
def test_a_resumed_run_continues_tokens_since_fired(dataset, tmp_path):
    """Guards against counters that start anew: dead latents would be alive for a whole window after each restart."""

    class Save(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 7:
                trainer.save_checkpoint(tmp_path / "seven.ckpt")

    _, through, _ = fit(dataset, DeadUnits(), Save())
    _, again, _ = fit(dataset, DeadUnits(), ckpt_path=tmp_path / "seven.ckpt")
    for a, b in zip(through.bank, again.bank, strict=True):
        assert torch.equal(a.tokens_since_fired, b.tokens_since_fired)
    assert [float(x) for x in again.validated["dead_train"]] == [float(x) for x in through.validated["dead_train"]]
    # more than the five steps of 64 tokens since: they were silent before the checkpoint too
    assert int(again.bank.members[1].tokens_since_fired.max()) > 5 * 64
