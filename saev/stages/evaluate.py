"""saev evaluate: dictionaries -> a row of metrics each; prints the table and the files."""

import logging
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from saev.config.build import build
from saev.evaluation.evaluating import Evaluation, evaluate
from saev.evaluation.settings import EvaluateSettings
from saev.progress import print_line, terminal
from saev.runs.planning import key_of
from saev.runs.tables import print_files, relative
from saev.visuals.columns import STABILITY
from saev.visuals.tables import evaluation_table, verdicts

log = logging.getLogger(__name__)
OF_SPLICING = ("images", "vit", "splice_images", "splice_batch", "references", "head")


def run(cfg: DictConfig) -> Evaluation:
    """Evaluate the named dictionaries; results.parquet, results.csv and a figure in the run's directory."""
    settings = build(EvaluateSettings, cfg)
    if not cfg.splice and HydraConfig.initialized():
        idle = [override for override in HydraConfig.get().overrides.task if key_of(override) in OF_SPLICING]
        if idle:
            log.warning("%s: no effect without splice=true", ", ".join(idle))
    images, vit = (instantiate(cfg.images), instantiate(cfg.vit)) if cfg.splice else (None, None)
    evaluation = evaluate(
        list(cfg.dictionaries), cfg.dataset, settings, layer=cfg.layer, images=images, vit=vit,
        directory=cfg.paths.run_dir, activations=cfg.paths.activations, progress=True,
    )  # fmt: skip
    rows = evaluation.results.to_dicts()
    terminal().print(evaluation_table(rows))
    for line in verdicts(rows, settings.against or "", "nmse", "NMSE", lower_is_better=True):
        print_line(terminal(), line)
    if evaluation.stability is not None:
        terminal().print(evaluation_table(evaluation.stability.dictionaries.to_dicts(), STABILITY))
    shown = " ".join(str(relative(Path(one))) for one in cfg.dictionaries)
    print_files(evaluation.files, f"saev show {shown} images=<the set that was recorded>")
    return evaluation
