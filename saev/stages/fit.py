"""saev fit: activations -> baselines, in the directories and with the numbers that SAEs have."""

import logging
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from saev.config import checks
from saev.config.baselines import PlannedFit, plan_fitters
from saev.config.values import check_values
from saev.runs.directory import check_same, open_run, recorded_failure, results_of
from saev.runs.ledger import CHECKPOINT
from saev.runs.memory import Size, member_size

log = logging.getLogger(__name__)
SPEED = (
    "device",
    "save_every_s",
    "datamodule.readers",
    "datamodule.depth",
)  # these may change when a run is gone on with
RENAMED = {"l1": "l1_penalty"}  # settings, in tables that have a metric of that name


def run(cfg: DictConfig) -> dict[str, float]:
    """Fit the configured baselines; the held-out NMSE of each dictionary."""
    directory = Path(cfg.paths.run_dir)
    check_values(cfg)
    configuration: Any = OmegaConf.to_container(cfg, resolve=False)
    check_same(directory, configuration, SPEED)
    if (done := results_of(directory)) is not None:
        log.info("finished already: %s", directory)
        return done
    with recorded_failure(directory):
        planned, recording, _ = prepare(cfg)

        from saev.runs.signals import answer_slurm

        answer_slurm()
        with open_run(directory, configuration, may_differ=SPEED):
            return fit(cfg, planned, recording, directory)


def prepare(cfg: DictConfig, here: bool = True) -> tuple[list[PlannedFit], Any, checks.Facts]:
    """Everything that can be refused before anything slow starts; ValueError names the key, the value and the remedy.

    `here`: the job runs on this machine, so its device counts.
    """
    from saev.device import check_device

    check_values(cfg)
    if here:
        check_device(str(cfg.device), "device")
    if cfg.datamodule.n_tokens is not None:
        raise ValueError(
            f"datamodule.n_tokens={cfg.datamodule.n_tokens} has no effect: baselines take whole passes; drop it, or fit on fewer "
            "tokens by subset_tokens."
        )
    planned = plan_fitters(cfg)
    recording = instantiate(cfg.record) if cfg.dataset is None else None
    return planned, recording, checks.data_facts(cfg, recording)


def examine(cfg: DictConfig, here: bool) -> list[Size]:
    """The size of each baseline of a job; ValueError where the job would be refused."""
    planned, _, facts = prepare(cfg, here)
    return [
        member_size(facts.d_model, int(p.settings.get("n_latents", facts.d_model)), cfg.batch_size) for p in planned
    ]


def fit(cfg: DictConfig, planned: list[PlannedFit], recording: Any, directory: Path) -> dict[str, float]:
    """Make all passes, save the dictionaries and measure them on the held-out images."""
    from saev.checkpoint import save_dictionary
    from saev.device import resolve_device
    from saev.evaluation.measuring import measure
    from saev.nn.normalise import Normaliser
    from saev.recipes.fitting_passes import Passes
    from saev.recipes.train import provenance
    from saev.runs.tables import print_files, write_table
    from saev.shards.selected_tokens import Selection
    from saev.visuals.evaluation_table import evaluation_table

    data = instantiate(cfg.datamodule, _partial_=True)(recording=recording)
    data.prepare_data()
    data.setup("fit")
    normaliser = Normaliser.fit(data.store.moments(data.layer, data.tokens), cfg.normalise)
    device = resolve_device(cfg.device)
    fitters = {plan.name: plan.fitter for plan in planned}
    passes = Passes(
        fitters, data, normaliser, device, directory / CHECKPOINT, directory / "metrics.jsonl", cfg.save_every_s
    )
    log.info("run directory: %s", directory)
    log.info("fitting %s on %d tokens of %d images", "; ".join(fitters), passes.plan.n_tokens, len(data.train_examples))
    passes.start()
    passes.run()
    members, settings = {}, {}
    for plan in planned:
        for part, made in plan.fitter.dictionaries().items():
            name = ",".join(text for text in (plan.name, part) if text)
            own = {**plan.settings, **plan.arguments, **made.settings()}
            settings[name] = {RENAMED.get(key, key): value for key, value in own.items()}
            members[name] = made.to(device).eval()
    measured = measure(
        members, Selection(data.store, data.layer, data.val_examples, data.tokens, tuple(data.ignore_labels)),
        min(cfg.batch_size, 4096), device, correlation_latents=0, progress=True,
    )  # fmt: skip
    rows = []
    about = {**provenance(cfg, data), "tokens": passes.plan.n_tokens}
    for name, made in members.items():
        numbers = {key: value for key, value in measured[name].items() if not isinstance(value, list)}
        save_dictionary(
            made, directory / "saes" / name, hyperparameters=settings[name], provenance=about, metrics=numbers
        )
        row = {"member": name, **settings[name], "d_sae": made.n_latents, "layer": data.layer, **measured[name]}
        rows.append({**row, "train_tokens": passes.plan.n_tokens, "failed": False})
    write_table(directory, "results", rows)
    console = Console()
    console.print(evaluation_table(rows))
    print_files({"results": directory / "results.csv", "dictionaries": directory / "saes"})
    return {row["member"]: row["nmse"] for row in rows}
