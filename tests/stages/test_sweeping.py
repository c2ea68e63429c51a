"""A sweep from the command line: its results in one place, failures that cost the others nothing, and going on."""

import json
import signal

import polars as pl
import pytest
from conftest import TINY, topk_run
from omegaconf import OmegaConf

import saev
from saev.locks import exclusive

SWEEP = ("train", "experiment=none", *TINY, "sae=topk", "-m", "k=2,4", "layer=1,2")
UNCHECKED = "hydra.sweeper.check=false"  # a third of the time: jobs and members are not composed before launching


def command(tiny, *more):
    return (*SWEEP, f"dataset={tiny}", *more)


def sweeps(tmp_path):
    return sorted(path.parent for path in (tmp_path / "outputs" / "train").glob("*/*/sweep.json"))


@pytest.mark.slow
def test_all_rows_come_together_and_a_second_run_leaves_them(cli, tiny, tmp_path):
    words = [word.replace("report=false", "report=true") for word in command(tiny)]
    first = cli(*words)
    assert first.code == 0 and "4 SAEs in 2 jobs: layer=1 x2, layer=2 x2" in first.text, first.text
    (sweep,) = sweeps(tmp_path)
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0_layer=1", "1_layer=2"]
    table = pl.read_parquet(sweep / "results.parquet")
    assert list(table.select("job", "layer", "k").iter_rows()) == [
        ("0_layer=1", 1, 2), ("0_layer=1", 1, 4), ("1_layer=2", 2, 2), ("1_layer=2", 2, 4)
    ]  # fmt: skip
    assert pl.read_csv(sweep / "results.csv").shape == table.shape
    page = (sweep / "report.html").read_text().replace("<wbr>", "")
    assert (sweep / "frontier.png").read_bytes()[1:4] == b"PNG" and "1_layer=2/k=4" in page
    for job, member in table.select("job", "member").iter_rows():
        assert saev.load(sweep / job / "saes" / member).d_model == 16
        assert list((sweep / job / "tensorboard" / member).glob("events.*"))
    assert "0_layer=1/k=2" in first.out and "2 finished" in first.out

    again = cli(*words)
    assert again.code == 0 and "finished already: 0_layer=1, 1_layer=2" in again.text
    assert "training 2 SAEs" not in again.text and "0_layer=1/k=2" in again.out
    assert sweeps(tmp_path) == [sweep]

    anew = cli(*command(tiny, "hydra.sweeper.rerun=true"))
    assert anew.code == 0 and len(sweeps(tmp_path)) == 2

    other = cli(*command(tiny, f"hydra.sweep.dir={sweep}", "lr=0.5"))
    assert other.code == 1 and "it holds a sweep over other configurations" in other.err


@pytest.mark.slow
def test_a_failed_job_is_listed_and_the_others_results_stay(cli, tiny, tmp_path):
    """Guards against a sweep that ends silently with code 0, and against one failure that hides the rest."""
    failing = topk_run(tiny, "k=2", "init=random", "clip=1e30")
    done = cli(*failing, "-m", "warmup=0,1", "lr=1e30", "hydra.sweeper.check=false", "n_tokens=1280", "log_every=1")
    (sweep,) = sweeps(tmp_path)
    assert done.code == 1 and "2 of 2 jobs failed" in done.err and "every SAE has diverged" in done.out
    assert not (sweep / "results.parquet").exists()
    plan = json.loads((sweep / "sweep.json").read_text())
    assert list(plan["jobs"]) == ["0_warmup=0", "1_warmup=1"]

    shown = cli("status", str(sweep))
    assert shown.code == 1 and "2 failed" in shown.out and f"saev train resume_sweep={sweep}" in shown.out
    assert cli("status").out == shown.out  # the newest


@pytest.mark.slow
def test_a_sweep_of_baselines_is_resumed_by_its_own_verb(cli, tiny, tmp_path):
    few = (f"dataset={tiny}", "layer=1", "batch_size=50", "hydra.sweeper.check=false")
    done = cli("fit", *few, "-m", "n_latents=100000")
    (sweep,) = (path.parent for path in (tmp_path / "outputs" / "fit").glob("*/*/sweep.json"))
    assert done.code == 1 and done.text.count(f"saev fit resume_sweep={sweep}") == 2, done.text
    wrong = cli("train", f"resume_sweep={sweep}")
    assert wrong.code == 1 and f"it is a sweep of `saev fit`: saev fit resume_sweep={sweep}" in wrong.err


@pytest.fixture
def interrupted(cli, tiny, tmp_path, monkeypatch):
    """A sweep that Ctrl-C ended during its first job, after a checkpoint."""
    from callbacks import Checkpoint

    def press(self, trainer, *_):
        if trainer.global_step == 8:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoint, "on_train_batch_start", press)
    done = cli(*command(tiny, "n_tokens=640", "val_every=5", UNCHECKED))
    monkeypatch.undo()
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "outputs"))
    (sweep,) = sweeps(tmp_path)
    assert done.code == 128 + signal.SIGINT and "1 interrupted, 1 not started" in done.out, done.text
    return sweep


@pytest.mark.slow
@pytest.mark.parametrize("way", ["resume_sweep=last", "resume_sweep=<directory>", "the same command"])
def test_an_interrupted_sweep_resumes(way, interrupted, cli, tiny, tmp_path):
    same = way == "the same command"
    arguments = (
        command(tiny, "n_tokens=640", "val_every=5", UNCHECKED)
        if same
        else ("train", way.replace("<directory>", str(interrupted)))
    )
    done = cli(*arguments)
    assert done.code == 0, done.text
    assert "resuming from" in done.text and sweeps(tmp_path) == [interrupted]
    table = pl.read_parquet(interrupted / "results.parquet")
    assert table["job"].to_list() == ["0_layer=1"] * 2 + ["1_layer=2"] * 2
    assert table["train_tokens"].n_unique() == 1
    for more in ((), (f"paths.outputs={tmp_path}/outputs",)):  # which says where to look
        shown = cli("train", "resume_sweep=last", *more)
        assert shown.code == 1 and "settings of the sweep" not in shown.err, "nothing is left"


@pytest.mark.slow
def test_a_mistake_in_one_variant_is_named_before_anything_is_launched(cli, tiny, tmp_path):
    shown = cli(*command(tiny)[:-1], f"dataset={tiny}", "sae=topk", "k=2,65")
    assert shown.code == 1 and "nothing was launched" in shown.err and "k=65 is more than d_sae=64" in shown.err
    assert not sweeps(tmp_path)
    shown = cli("train", "experiment=none", *TINY, f"dataset={tiny}", "layer=1", "-m", "sae=gated,relu", "k=2")
    assert shown.code == 1 and "k=2 has no effect as sae=gated has no k, as sae=relu has no k: drop it" in shown.err
    shown = cli(*command(tiny, "layer=1,9"))
    assert shown.code == 1 and "layer=9: " in shown.err and "[1, 2]" in shown.err


@pytest.mark.slow
def test_groups_are_split_by_number_and_by_memory(cli, tiny):
    for limit in ("max_members=1", "memory_gib=1e-6"):
        shown = cli(*topk_run(tiny, "-m", "k=2,4", f"hydra.sweeper.{limit}", "hydra.sweeper.rerun=true"))
        assert shown.code == 0 and "2 SAEs in 2 jobs: k=2 x1, k=4 x1" in shown.text, shown.text


@pytest.mark.slow
def test_limits_apply_when_a_sweep_is_resumed(cli, tiny, tmp_path):
    """Guards against a group that was too large for memory and stays so however often the user asks for smaller ones."""
    fails = topk_run(tiny, "k=2", "clip=1e30", "val_every=100", "-m", "lr=1e30,1e31")  # no checkpoint to resume from
    assert cli(*fails).code == 1
    shown = cli(*fails, "hydra.sweeper.max_members=1")
    (sweep,) = sweeps(tmp_path)
    assert shown.code == 1 and "2 of 2 jobs failed" in shown.err, shown.text
    assert list(json.loads((sweep / "sweep.json").read_text())["jobs"]) == ["0-0", "0-1"]


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "++"])
def test_a_directory_keeps_its_own_sweep(prefix, cli, tiny, tmp_path):
    """Guards against one sweep's results being taken for another's."""
    own = topk_run(tiny, UNCHECKED, f"{prefix}hydra.sweep.dir={tmp_path}/own")
    assert cli(*own, "-m", "k=2").code == 0
    other = cli(*own, "-m", "k=4")
    assert other.code == 1 and "it holds a sweep over other configurations" in other.err
    anew = cli(*own, "-m", "k=2", "hydra.sweeper.rerun=true")
    assert anew.code == 1 and "choose another hydra.sweep.dir" in anew.err
    (tmp_path / "own" / "sweep.json").unlink()
    assert "it holds runs, but no plan" in cli(*own, "-m", "k=4").err


@pytest.mark.slow
def test_two_commands_do_not_launch_one_sweep_at_once(cli, tiny, tmp_path):
    done = cli(*command(tiny, UNCHECKED))
    (sweep,) = sweeps(tmp_path)
    with exclusive(sweep / ".sweep.lock"):
        shown = cli(*command(tiny, UNCHECKED))
    assert done.code == 0 and shown.code == 1 and "another process launches this sweep" in shown.err


@pytest.mark.slow
def test_a_sweep_resumes_elsewhere_and_with_another_launcher(interrupted, cli, tiny, tmp_path, monkeypatch):
    """Guards against a plan that holds in one working directory, or with the launcher's own keys, alone."""
    commands = OmegaConf.load(interrupted / "multirun.yaml")
    commands.hydra.overrides.hydra += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1"]
    OmegaConf.save(commands, interrupted / "multirun.yaml")
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "elsewhere"))
    refused = cli("train", f"resume_sweep={interrupted}", "lr=1")
    assert refused.code == 1 and "without lr=1" in refused.err
    done = cli("train", f"resume_sweep={interrupted}", "hydra/launcher=basic")
    assert done.code == 0 and "2 finished" in done.out, done.text


def test_an_empty_range_is_named(cli, tiny):
    shown = cli("train", "experiment=none", *TINY, f"dataset={tiny}", "-m", "k=range(8,8)")
    assert shown.code == 1 and "k=range(8,8)" in shown.err and "matches nothing" in shown.err


def test_a_checkpoint_and_a_launcher_do_not_go_together(cli, tmp_path):
    shown = cli("train", f"ckpt_path={tmp_path}", "hydra/launcher=basic")
    assert shown.code == 1 and "resume one run at a time" in shown.err


@pytest.mark.slow
def test_the_basic_sweeper_is_hydras_own(cli, tiny, tmp_path):
    shown = cli(*topk_run(tiny, "-m", "k=2,4", "hydra/sweeper=basic"))
    assert shown.code == 0, shown.text
    runs = sorted((tmp_path / "outputs" / "train").glob("*/*_sweep/*/results.parquet"))
    assert [path.parent.name for path in runs] == ["0", "1"] and not sweeps(tmp_path)


def test_status_of_what_is_not_there(cli, tmp_path):
    err = cli("status").err
    assert "no run or sweep below" in err and "saev status <directory>" in err
    assert "there is no such directory" in cli("status", str(tmp_path / "nowhere")).err
