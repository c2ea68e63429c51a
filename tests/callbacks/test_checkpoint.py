"""Signals to a training run: what is saved, what follows, and that nothing is lost whenever they come."""

import json
import os
import signal
import threading
import time

import lightning as L
import pytest
import torch
from conftest import mostly_slow
from recordings import record
from training.banks import build

from callbacks import Checkpoint, MetricsWriter
from saev.nn import AuxK, BatchTopK, Member, Plain, ReLU
from saev.runs import signals
from saev.runs.signals import After
from saev.shards import TokenStream

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
MEMBERS = [
    Member(sparsifier, sparsifier.name, Plain(), AuxK(dead_tokens=300), 1e-2, d_sae=32)
    for sparsifier in (BatchTopK(4), ReLU(1e-2))
]
STEPS = 20  # with a validation of four batches after every tenth


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch):
    """No cluster's variables but the test's own, and every handler as it was."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return record(tmp_path_factory.mktemp("checkpoint") / "data")


@pytest.fixture(scope="module")
def undisturbed(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return fit(dataset, folder)[1].state_dict(), lines(folder)


@pytest.fixture
def submitit(monkeypatch):
    """A job of submitit's, as far as its handlers go: the calls of the one that requeues."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    calls = []

    def requeue(number, frame):
        calls.append(number)
        raise SystemExit(-1)

    signal.signal(signal.SIGUSR2, requeue)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    return calls


@pytest.fixture
def scontrol(monkeypatch, tmp_path):
    """A plain batch job, and a scontrol that writes down what it is asked; it refuses while tmp_path/refuse is there."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    program, said = tmp_path / "bin" / "scontrol", tmp_path / "said"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {said}\n[ ! -e {tmp_path}/refuse ] || {{ echo disabled >&2; exit 1; }}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return said


class Send(L.Callback):
    """Sends a signal to this process in the given hook, when the given step has been taken."""

    def __init__(self, number, hook, step=0, batch=0):
        self.sent = False

        def send(trainer, module, *args):
            at = next(of for of in args if isinstance(of, int)) if "validation_batch" in hook else batch
            if not self.sent and trainer.global_step == step and at == batch:
                self.sent = True
                signal.raise_signal(number)

        setattr(self, hook, send)


def fit(dataset, folder, *before, every_n_steps=1000, resume=False):
    """A run in `folder` with the callbacks `before` ahead of Checkpoint: (trainer, module, checkpoint)."""
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = Checkpoint(path, every_n_steps)
    callbacks = [*before, checkpoint, MetricsWriter(folder / "metrics.jsonl", {})]
    trainer, module, data = build(
        dataset, MEMBERS, STEPS, callbacks, of_data={"val_fraction": 0.3}, log_every_n_steps=1
    )
    trainer.fit(module, data, ckpt_path=path if resume else None, weights_only=True)
    return trainer, module, checkpoint


def lines(folder):
    """What was written of the training steps and validations."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def validations(folder):
    """The steps after which one was finished."""
    return sorted({line["step"] for line in lines(folder) if line["split"] == "val"})


def step_of(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def handlers():
    return [signal.getsignal(number) for number in NUMBERS]


def assert_resumes_as_undisturbed(dataset, folder, undisturbed):
    step, (state, written) = step_of(folder), undisturbed
    module = fit(dataset, folder, resume=True)[1]
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items() if torch.is_tensor(value))
    found = lines(folder)
    if step == STEPS:  # nothing was left to fit: whoever does validates now
        found, written = (
            [line for line in of if (line["step"], line["split"]) != (STEPS, "val")] for of in (found, written)
        )
    assert found == written


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {signal.SIGINT: After.STOP, signal.SIGTERM: After.STOP}),
        (
            {"SLURM_JOB_ID": "1"},
            {signal.SIGINT: After.STOP, signal.SIGTERM: After.KEEP_RUNNING, signal.SIGUSR1: After.REQUEUE},
        ),
        (
            {"SLURM_JOB_ID": "1", "SUBMITIT_EXECUTOR": "slurm"},
            {signal.SIGINT: After.STOP, signal.SIGTERM: After.KEEP_RUNNING, signal.SIGUSR2: After.REQUEUE},
        ),
        (
            {"SLURM_JOB_ID": "1", "SUBMITIT_EXECUTOR": "slurm", "SUBMITIT_PREEMPT_SIGNAL": "USR1"},
            {signal.SIGINT: After.STOP, signal.SIGTERM: After.KEEP_RUNNING, signal.SIGUSR1: After.REQUEUE},
        ),
    ],
)
def test_what_follows_a_signal_depends_on_who_started_the_run(environment, expected, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert signals.rules() == expected


@pytest.mark.parametrize(
    ("hook", "step", "batch", "saved"),
    mostly_slow(
        [
            ("on_train_batch_start", 7, 0, 8),
            ("on_train_start", 0, 0, None),
            ("on_train_batch_start", 9, 0, 10),  # a validation follows
            ("on_validation_batch_start", 10, 1, 10),
            ("on_validation_end", 10, 0, 11),
            ("on_train_batch_start", STEPS - 1, 0, STEPS),
            ("on_validation_batch_end", STEPS, 2, STEPS),
            ("on_train_end", STEPS, 0, STEPS),
        ],
        2,
    ),
)
def test_a_preempted_job_saves_requeues_and_resumes_exactly(
    hook, step, batch, saved, submitit, dataset, tmp_path, undisturbed
):
    with pytest.raises(SystemExit):
        fit(dataset, tmp_path, Send(signal.SIGUSR2, hook, step, batch))
    assert submitit == [signal.SIGUSR2]
    if saved is None:  # no step in flight: submitit's handler answers at once
        assert not (tmp_path / "checkpoints").exists()
    else:
        assert step_of(tmp_path) == saved and [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
        assert_resumes_as_undisturbed(dataset, tmp_path, undisturbed)


def test_before_lightning_starts_submitits_own_handler_answers(submitit, dataset, tmp_path):
    with pytest.raises(SystemExit):
        fit(dataset, tmp_path, Send(signal.SIGUSR2, "on_fit_start"))
    assert submitit == [signal.SIGUSR2] and not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("hook", "step", "saved"),
    mostly_slow([("on_train_batch_start", 7, 8), ("on_validation_batch_start", 10, 10), ("on_train_start", 0, 1)]),
)
def test_at_slurms_warning_a_job_saves_and_continues(hook, step, saved, submitit, dataset, tmp_path, undisturbed):
    """Guards against a job that ends by itself and is not requeued; and against Lightning, which would end it so."""
    before = handlers()
    trainer, _, checkpoint = fit(dataset, tmp_path, Send(signal.SIGTERM, hook, step))
    assert trainer.global_step == STEPS and checkpoint.received is None and submitit == []
    assert step_of(tmp_path) == saved and handlers() == before
    assert_resumes_as_undisturbed(dataset, tmp_path, undisturbed)


@pytest.mark.slow
def test_a_collective_that_breaks_after_a_signal_is_that_signals_end(dataset, tmp_path):
    """Before the first step one process may leave by a signal of its own; the other's collective breaks."""
    _, module, checkpoint = fit(dataset, tmp_path, every_n_steps=8)
    assert checkpoint.saved == 16
    several = type("Trainer", (), {"world_size": 2, "global_step": 19})()
    checkpoint.signals.received = {signal.SIGINT: After.STOP}
    checkpoint.on_exception(several, module, RuntimeError("Connection closed by peer"))
    assert checkpoint.received == signal.SIGINT
    assert checkpoint.remedy(several, tmp_path) == f"; step 16 is saved; resume with: ckpt_path={tmp_path}"
    several.global_step = 16
    assert checkpoint.remedy(several, tmp_path) == f"; resume with: ckpt_path={tmp_path}"
    checkpoint.path.unlink()
    several.global_step = 19
    assert checkpoint.remedy(several, tmp_path) == "; nothing is saved yet: repeat the command"
    alone = Checkpoint(tmp_path / "last.ckpt", 5)
    alone.on_exception(type("Trainer", (), {"world_size": 1})(), module, RuntimeError("a bug"))
    assert alone.received is None


@pytest.mark.parametrize("number", mostly_slow([signal.SIGTERM, signal.SIGINT]))
def test_outside_slurm_the_run_is_saved_and_stopped(number, dataset, tmp_path):
    before = handlers()
    trainer, _, checkpoint = fit(dataset, tmp_path, Send(number, "on_train_batch_start", 7))
    assert trainer.global_step == step_of(tmp_path) == 8 and checkpoint.received == number
    assert handlers() == before


@pytest.mark.parametrize(
    ("hook", "step", "batch", "saved", "batches"),
    mostly_slow(
        [
            ("on_validation_batch_start", 10, 1, 10, 2),  # of four batches
            ("on_train_batch_start", 7, 0, 8, 0),
            ("on_train_batch_start", 9, 0, 10, 0),  # a validation would follow
            ("on_validation_end", 10, 0, 11, 4),
        ]
    ),
)
def test_a_run_that_is_stopped_does_not_validate(hook, step, batch, saved, batches, dataset, tmp_path, undisturbed):
    """Guards against a validation between Ctrl-C and the prompt, or Slurm's KILL; resumed, none is missing or there twice."""
    seen, count = [], L.Callback()
    count.on_validation_batch_end = lambda trainer, *_: seen.append(trainer.global_step)
    trainer, _, checkpoint = fit(dataset, tmp_path, Send(signal.SIGINT, hook, step, batch), count)
    assert trainer.global_step == step_of(tmp_path) == saved and checkpoint.received == signal.SIGINT
    assert len(seen) == batches and validations(tmp_path) == ([10] if batches == 4 else [])
    assert_resumes_as_undisturbed(dataset, tmp_path, undisturbed)
    assert validations(tmp_path) == [10, STEPS]


@pytest.mark.parametrize(
    ("hook", "step", "batch"),
    mostly_slow([("on_validation_batch_end", STEPS, 2), ("on_train_batch_start", STEPS - 1, 0)]),
)
def test_a_signal_at_the_last_step_leaves_the_run_whole(hook, step, batch, dataset, tmp_path, undisturbed):
    trainer, _, checkpoint = fit(dataset, tmp_path, Send(signal.SIGINT, hook, step, batch))
    assert trainer.global_step == step_of(tmp_path) == STEPS and checkpoint.received == signal.SIGINT
    assert lines(tmp_path) == undisturbed[1]


def test_a_second_ctrl_c_stops_at_once(dataset, tmp_path):
    twice = Send(signal.SIGINT, "on_train_batch_start", 7), Send(signal.SIGINT, "on_train_batch_start", 7)
    with pytest.raises(SystemExit):  # Lightning's answer to a KeyboardInterrupt
        fit(dataset, tmp_path, *twice)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("array", mostly_slow([True, False]))
def test_a_plain_batch_job_requeues_itself(array, scontrol, dataset, tmp_path, undisturbed, monkeypatch):
    if array:  # of whose first task SLURM_JOB_ID names the whole array
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    with pytest.raises(SystemExit) as stop:
        fit(dataset, tmp_path, Send(signal.SIGUSR1, "on_train_batch_start", 7))
    assert stop.value.code == 128 + signal.SIGUSR1 and step_of(tmp_path) == 8
    assert scontrol.read_text() == ("requeue 7_2\n" if array else "requeue 7\n")
    assert_resumes_as_undisturbed(dataset, tmp_path, undisturbed)


def test_after_training_a_plain_batch_job_still_requeues_itself(scontrol, dataset, tmp_path):
    fit(dataset, tmp_path)
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGUSR1)
    assert scontrol.read_text() == "requeue 7\n"


def test_a_cluster_that_does_not_requeue_is_named(scontrol, dataset, tmp_path, caplog):
    (tmp_path / "refuse").touch()
    with pytest.raises(SystemExit):
        fit(dataset, tmp_path, Send(signal.SIGUSR1, "on_train_batch_start", 7))
    assert "does not put job 7 back into the queue (disabled); submit it again" in caplog.text
    assert step_of(tmp_path) == 8


def test_only_the_first_process_of_a_plain_batch_job_requeues_it(scontrol, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    signals.requeue(signal.SIGUSR1, None)
    assert not scontrol.exists()


def test_outside_the_main_thread_a_run_sets_no_handlers(scontrol, dataset, tmp_path):
    before, found = handlers(), []

    class Look(L.Callback):
        def on_train_batch_start(self, *_):
            found.append(handlers())

    thread = threading.Thread(target=fit, args=(dataset, tmp_path, Look()))
    thread.start()
    thread.join()
    assert found and all(of == before for of in found)


@pytest.mark.slow
def test_a_signal_is_answered_while_a_batch_does_not_arrive(dataset, tmp_path, undisturbed, monkeypatch):
    """The stream falls silent after batch 7; the run saves step 6 or 7 (one batch is fetched ahead) and ends at once."""
    batches = TokenStream.batches

    def silent(self, start=0, stop=None, closing=None):
        for batch in batches(self, start, stop, closing):
            if stop is None and batch["step"] == 7:
                time.sleep(2)  # meanwhile the run takes the batches that are ready
                os.kill(os.getpid(), signal.SIGINT)
                closing.wait(20)
                return
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TokenStream, "batches", silent)
        started = time.monotonic()
        trainer, _, checkpoint = fit(dataset, tmp_path)
    assert time.monotonic() - started < 15 and checkpoint.received == signal.SIGINT
    assert trainer.global_step == step_of(tmp_path) in (6, 7)
    assert_resumes_as_undisturbed(dataset, tmp_path, undisturbed)
