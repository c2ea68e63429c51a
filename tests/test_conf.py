"""Every YAML under conf/ is found, explained, composed, and where it shapes training, trained with for two steps."""

import copy
import functools
import inspect
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from conftest import ROOT, TINY
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from saev.cli import STAGES
from saev.config import schema
from saev.nn.initialise import CLUSTERED
from saev.nn.settings import Init
from saev.runs.planning import PER_SAE
from saev.settings import choices

CONF = ROOT / "conf"
FILES = {str(path.relative_to(CONF)): path for path in sorted(CONF.rglob("*.yaml")) if "local" not in path.parts}
ROOTS = [name.removesuffix(".yaml") for name in FILES if "/" not in name]
OPTIONS = [name.removesuffix(".yaml").rpartition("/")[::2] for name in FILES if "/" in name]
EXPERIMENTS = [option for group, option in OPTIONS if group == "experiment"]


def options(group: str) -> list[str]:
    return [option for g, option in OPTIONS if g == group]


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path))


@functools.cache
def hydras(root: str, *overrides: str) -> DictConfig:
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(root, list(overrides), return_hydra_config=True)


def composed(root: str, *overrides: str) -> DictConfig:
    """The configuration that a job has: everything interpolates, `hydra:` too."""
    cfg = copy.deepcopy(hydras(root, *overrides))
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = cfg.hydra.run.dir
        cfg.hydra.runtime.cwd = str(ROOT)
        cfg.hydra.job.name = "test"
        HydraConfig.instance().set_config(cfg)
        del cfg["hydra"]
    return cfg


def targets(node: object, at: str = "") -> Iterator[tuple[str, dict]]:
    """Every (key, mapping) below a node that names what it builds."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield at, node
        for key, value in node.items():
            yield from targets(value, f"{at}.{key}" if at else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from targets(value, f"{at}.{number}")


def check_targets(cfg: DictConfig) -> None:
    """Each `_target_` is there and takes the keys beside it."""
    plain = OmegaConf.to_container(cfg, resolve=True)
    found = list(targets(plain))
    without = {"linear_probe", "latent_topk", "choice", "n_clusters"}  # saev probe, encode, show and map build none
    assert found or without & {*plain}
    for key, node in found:
        target = instantiate({"_target_": "hydra.utils.get_object", "path": node["_target_"]})
        arguments = {name: value for name, value in node.items() if not re.fullmatch(r"_\w+_", name)}
        try:
            inspect.signature(target).bind_partial(**arguments)
        except TypeError as error:
            raise AssertionError(f"{key}: {node['_target_']} {error}") from error


# --- every file


def test_there_is_a_root_for_every_stage():
    assert {*STAGES} <= {*ROOTS}


@pytest.mark.parametrize("name", FILES)
def test_a_file_explains_itself(name):
    text = FILES[name].read_text()
    comments = [line for line in re.findall(r"#\s*(.*)", text) if line and not line.startswith("@package")]
    assert any(len(comment.split()) >= 2 for comment in comments), f"conf/{name} has no explaining comment"


@pytest.mark.parametrize("root", ROOTS)
def test_a_root_composes_and_its_targets_are_there(root):
    check_targets(composed(root))


def root_of(group: str, option: str = "") -> str:
    """A root whose defaults have the group; of an experiment, that of its verb."""
    if group == "experiment" and "override /traits:" in FILES[f"experiment/{option}.yaml"].read_text():
        return "traits"
    return next((root for root in ["train", *ROOTS] if group in groups_of(root)), "train")  # hydra's own groups


@functools.cache
def groups_of(root: str) -> set[str]:
    """The groups among a root's defaults."""
    entries = OmegaConf.load(FILES[f"{root}.yaml"]).get("defaults", [])
    return {str(key).split("@")[0] for entry in entries if isinstance(entry, DictConfig) for key in entry}


def together() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(root, overrides) that choose every option once: of each group of a root one at a time."""
    groups: dict[str, dict[str, list[str]]] = {}
    for group, option in OPTIONS:
        if group != "hydra":
            groups.setdefault(root_of(group, option), {}).setdefault(group, []).append(f"{group}={option}")
    for root, options_of in groups.items():
        for overrides in itertools.zip_longest(*options_of.values()):
            yield root, tuple(filter(None, overrides))


@pytest.mark.parametrize(("root", "overrides"), [*together()])
def test_options_compose_and_their_targets_are_there(root, overrides):
    check_targets(composed(root, *overrides))


def test_the_hydra_folder_is_used():
    used = "\n".join(path.read_text() for name, path in FILES.items() if "/" not in name)
    assert all(f"hydra: {option}" in used for option in options("hydra"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_fixes_what_a_study_needs(experiment):
    root = root_of("experiment", experiment)
    cfg = composed(root, f"experiment={experiment}")
    assert FILES[f"experiment/{experiment}.yaml"].read_text().startswith("# @package _global_\n")
    missing = OmegaConf.missing_keys(cfg)
    assert not missing, missing
    for key in ("vit", "images", *(("traits",) if root == "traits" else ("sae", "objective", "auxk"))):
        assert instantiate(cfg[key]) is not None


@pytest.mark.slow
@pytest.mark.parametrize("group", ["vit", "images"])
def test_names_of_backbones_and_image_sets_can_be_directories(group):
    for option in options(group):
        needed = ["vit.arch=ViT-B-16"] if "arch: null" in FILES[f"{group}/{option}.yaml"].read_text() else []
        built = instantiate(composed("train", f"{group}={option}", *needed)[group])
        assert isinstance(built.name, str) and "/" not in built.name


def test_shared_parts_do_not_depend_on_the_settings_of_one_sae():
    """A callback that reads ${k} would be another one for each member, and the sweeper would not know."""
    per_sae = re.compile(r"\$\{(?:" + "|".join(PER_SAE) + r")[.}]")
    allowed = re.compile(r"^(sae|objective|auxk|baseline)/")
    faults = [name for name, path in FILES.items() if per_sae.search(path.read_text()) and not allowed.match(name)]
    assert not faults and per_sae.search("k: ${k}") and per_sae.search("${sae.k}") and not per_sae.search("${kk}")


def test_every_per_sae_key_is_a_key_of_train():
    assert {*PER_SAE} <= {*composed("train")}


# --- two steps of everything that shapes training


def saes(directory: Path) -> pl.DataFrame:
    (results,) = directory.glob("outputs/train/**/results.parquet")
    return pl.read_parquet(results)


@pytest.mark.slow
def test_every_architecture_with_every_objective_takes_two_steps(cli, tiny, tmp_path):
    combinations = [*itertools.product(options("sae"), options("objective"), options("auxk"))]
    variants = ",".join(f'["sae={sae}","objective={objective}","auxk={auxk}"]' for sae, objective, auxk in combinations)
    shown = cli("train", f"dataset={tiny}", "layer=1", *TINY, "d_sae=64", f"variants=[{variants}]", "logger=none")
    assert shown.code == 0, shown.text
    table = saes(tmp_path)
    assert len(table) == len(combinations) and not table["failed"].any()
    assert set(zip(table["sae"], table["objective"], strict=True)) == {(s, o) for s, o, _ in combinations}
    assert torch.isfinite(torch.tensor(table["nmse"].to_list())).all()


@pytest.mark.slow
def test_every_start_with_every_decoder_takes_two_steps(cli, tiny, tmp_path):
    """As far as they go together: archetypal atoms start from centroids."""
    starts = [("free", init) for init in choices(Init)] + [("archetypal", init) for init in CLUSTERED]
    assert {decoder for decoder, _ in starts} == {*options("decoder")}
    variants = ",".join(f'["decoder={decoder}","init={init}"]' for decoder, init in starts)
    shown = cli(
        "train", f"dataset={tiny}", "layer=1", *TINY, f"variants=[{variants}]", "sae=topk", "k=4", "logger=none"
    )
    assert shown.code == 0, shown.text
    table = saes(tmp_path)
    assert list(zip(table["decoder"], table["init"], strict=True)) == starts and not table["failed"].any()


@pytest.mark.slow
def test_a_start_that_wants_more_tokens_than_there_are_is_refused_at_once(cli, tiny):
    shown = cli("train", f"dataset={tiny}", "layer=1", *TINY, "experiment=none", "init=kmeans", "d_sae=600")
    assert shown.code == 1 and "init=kmeans needs 600 centroids, there are 576 training tokens" in shown.text
    shown = cli("train", f"dataset={tiny}", "layer=1", *TINY, "experiment=none", "decoder=archetypal")
    assert shown.code == 1 and "add init=archetypal" in shown.text


@pytest.mark.slow
@pytest.mark.parametrize("sae", [["sae=topk", "k=4"], ["sae=jumprelu", "objective=matryoshka"]])
def test_nulls_are_trained_beside_any_sae_and_named(sae, cli, tiny, tmp_path):
    shown = cli("train", f"dataset={tiny}", "layer=1", *TINY, "experiment=nulls", *sae, "d_sae=64", "-m", "seed=0,1")
    assert shown.code == 0, shown.text
    (results,) = tmp_path.glob("outputs/train/*/*/results.parquet")
    table = pl.read_parquet(results).filter(pl.col("seed") == 1)
    frozen = {"trained": "none", "decoder_frozen": "decoder", "encoder_frozen": "encoder", "soft_frozen": "soft"}
    rows = {name: ("data", freeze) for name, freeze in (frozen | {"untrained": "all"}).items()}
    rows |= {f"{name}_random": ("random", freeze) for name, (_, freeze) in rows.items() if name != "trained"}
    rows["random_vectors"] = ("tokens", "all")
    assert {f"{name},seed=1": of for name, of in rows.items()} == {
        row["member"]: (row["init"], row["freeze"]) for row in table.iter_rows(named=True)
    }
    assert not table["failed"].any() and set(table["sae"]) == {sae[0].partition("=")[2]}


@pytest.mark.slow
def test_an_archetypal_sae_has_nulls_of_its_own(cli, tiny, tmp_path):
    command = ["train", f"dataset={tiny}", "layer=1", *TINY, "sae=topk", "k=4", "d_sae=32"]
    shown = cli(*command, "experiment=nulls", "decoder=archetypal")
    assert shown.code == 1 and "experiment=nulls_archetypal" in shown.text
    shown = cli(*command, "experiment=nulls_archetypal")
    assert shown.code == 0, shown.text
    table = saes(tmp_path)
    assert {*table.filter(pl.col("decoder") == "archetypal")["label"]} == {
        "trained", "decoder_frozen", "encoder_frozen", "untrained",
    }  # fmt: skip
    assert not table["failed"].any() and table["label"].to_list() == table["member"].to_list()


SHARED = [(g, o) for g, o in OPTIONS if g in ("logger", "callbacks", "trainer", "optimiser", "datamodule", "debug")]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), SHARED, ids=["/".join(option) for option in SHARED])
def test_an_option_of_the_job_takes_two_steps(group, option, cli, tiny, tmp_path, monkeypatch):
    if (group, option) == ("trainer", "gpu") and not torch.cuda.is_available():
        pytest.skip("trainer=gpu needs a GPU")
    if (group, option) == ("trainer", "ddp"):
        pytest.skip("trainer=ddp starts processes: tests/training")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb_cache"))
    short = [item for item in TINY if not (group == "trainer" and item.startswith("trainer="))]
    shown = cli("train", "experiment=relu_dinov2", f"dataset={tiny}", "layer=1", f"{group}={option}", *short)
    assert shown.code == 0, shown.text
    assert saes(tmp_path)["train_tokens"].to_list() == [128]
