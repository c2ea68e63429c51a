"""One of two processes that train a bank together: python process.py DATASET FOLDER, with Lightning's variables set
and tests/ on the path.

Goes through the runs that test_distributed.py compares, one after the other; each process leaves `<run>-<rank>.pt` in FOLDER.
"""

import sys
from pathlib import Path

import torch
from training.banks import Snapshots, StopAt, build, specs, state

from saev.nn import AuxK, Member, Plain, ReLU, TopK
from saev.training.bank.ddp import BankDDP


def members():
    """All architectures, and those whose numbers are the whole batch's in a way of their own."""
    auxk = AuxK(dead_tokens=300)
    target = Member(ReLU(1e-2, l0_target=4), "target", Plain(), auxk, 1e-2, d_sae=64)
    return [*specs(), target, Member(TopK(4, threshold=True), "threshold", Plain(), auxk, 1e-2, d_sae=64)]


def diverging():
    """Three members, of which the second does not stay finite."""
    first, *_, last = specs()
    return [first, Member(ReLU(1e-3), "bad", Plain(), AuxK(), 1e30, d_sae=64), last]


def run(dataset, folder, name, split="batch", stop=None, resume=None, bank=members, **more):
    snapshots = Snapshots()
    callbacks = [snapshots] if stop is None else [snapshots, StopAt(stop)]
    strategy = BankDDP(split=split, process_group_backend="gloo")
    trainer, module, data = build(dataset, bank(), callbacks=callbacks, strategy=strategy, devices=2, **more)
    trainer.fit(module, data, ckpt_path=resume and folder / f"{resume}.ckpt", weights_only=True if resume else None)
    optimiser = module.optimizers().optimizer
    found = {
        "state": state(module),
        "seen": snapshots.seen,
        "steps": trainer.global_step,
        "stopped": [member.stopped for member in module.bank],
        "with_state": [any(p in optimiser.state for p in group["params"]) for group in optimiser.param_groups],
    }
    if stop is not None:
        trainer.save_checkpoint(folder / f"{name}.ckpt")
    trainer.validate(module, data, verbose=False)
    torch.save({**found, "validated": module.validated_rows()}, folder / f"{name}-{trainer.global_rank}.pt")


if __name__ == "__main__":
    place = Path(sys.argv[1]), Path(sys.argv[2])
    run(*place, "batch", parts=2)
    run(*place, "members", split="members")
    run(*place, "batch-17", stop=17)
    run(*place, "members-17", split="members", stop=17)
    run(*place, "batch-on", resume="one-17-parts-4", parts=4)
    run(*place, "members-on", split="members", resume="one-17")
    run(*place, "batch-bad", steps=12, bank=diverging)
    run(*place, "members-bad", split="members", steps=12, bank=diverging)
