"""A bank of every architecture on a tiny recording, as the tests of training, optimisers and callbacks train it."""

import copy
import functools

import lightning as L
import torch

from callbacks import DeadUnits, SparsityWarmup
from datamodules import ActivationDataModule
from saev.nn import (
    AuxK,
    BatchTopK,
    Gated,
    JumpReLU,
    Matryoshka,
    Member,
    Normaliser,
    Plain,
    RandomMatryoshka,
    ReLU,
    SAEBank,
    TopK,
)  # fmt: skip
from saev.training.bank.module import BankModule


def specs():
    auxk = AuxK(dead_tokens=300)
    make = lambda name, act, objective, **kw: Member(act, name, objective, auxk, 1e-2, **{"d_sae": 64, **kw})  # noqa: E731
    return [
        make("topk", TopK(4), Plain()),
        make("batchtopk", BatchTopK(4), Matryoshka(), seed=1),
        make("relu", ReLU(1e-2), Plain()),
        make("jumprelu", JumpReLU(l0_target=4), RandomMatryoshka(n_prefixes=4), d_sae=48),
        make("gated", Gated(1e-2, l0_target=4), Plain(), d_sae=80),
        make("fixed-decoder", BatchTopK(4), Matryoshka(), d_sae=40, freeze="decoder"),
        make("fixed-encoder", Gated(1e-2), Plain(), d_sae=40, freeze="encoder"),
        make("held", TopK(4), Plain(), d_sae=40, freeze="soft"),
        make("untrained", BatchTopK(4), Plain(), d_sae=40, freeze="all", init="tokens"),
        make("free", ReLU(1e-2, atom_norm=True), Plain(), d_sae=32),
    ]


def build(
    dataset,
    members,
    steps=30,
    callbacks=(),
    batch_size=50,
    parts=None,
    optimiser=None,
    warmup=0.1,
    usual=True,
    of_data=None,
    **trainer,
):
    """(trainer, module, datamodule) of a run on layer 1, with the `usual` callbacks and these; `of_data`, `trainer`: other settings."""
    settings = {"n_tokens": None, "val_fraction": 0.2, "depth": 2, "parts": parts} | (of_data or {})
    data = ActivationDataModule(str(dataset), 1, batch_size, **settings)
    data.setup("fit")
    normaliser = Normaliser.fit(data.store.moments(1))
    sample = normaliser(data.sample(400))
    module = BankModule(
        SAEBank([spec.build(normaliser, sample) for spec in members]),
        optimiser or functools.partial(torch.optim.Adam, fused=True),
        warmup=warmup,
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
        "callbacks": [*((SparsityWarmup(0.2), DeadUnits()) if usual else ()), *callbacks],
    }
    return L.Trainer(**{**settings, **trainer}), module, data


def state(module):
    return {name: copy.deepcopy(value) for name, value in module.state_dict().items()}


def assert_equal(one, other, within=0.0):
    assert one.keys() == other.keys()
    for name in one:
        if torch.is_tensor(one[name]):
            torch.testing.assert_close(
                one[name], other[name], rtol=within, atol=within, msg=lambda m, n=name: f"{n}: {m}"
            )
        else:
            assert one[name] == other[name], name


class StopAt(L.Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.global_step >= self.step


class Snapshots(L.Callback):
    """Looks at the numbers every fifth step, and keeps them."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        if trainer.global_step % 5 == 0:
            self.seen.append(pl_module.snapshot())
