"""One of two processes that fit probes together: python probe_process.py DATASET FOLDER, with Lightning's variables set
and tests/ on the path. Each leaves `<rank>.pt` in FOLDER.
"""

import sys
from pathlib import Path

import torch
from training.banks import state
from training.probes import build

from saev.training.linear.module import ProbeDDP

if __name__ == "__main__":
    strategy = ProbeDDP(process_group_backend="gloo")
    trainer, module, data = build(sys.argv[1], strategy=strategy, devices=2, parts=2)
    trainer.fit(module, data)
    steps = trainer.global_step
    module.restore_best()
    trainer.validate(module, data, verbose=False)
    found = {"state": state(module), "rows": module.rows, "steps": steps}
    torch.save(found, Path(sys.argv[2]) / f"{trainer.global_rank}.pt")
