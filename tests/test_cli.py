"""The command line: help, flags in any position, and each wrong input as a short message that names the remedy."""

import json
import os
import subprocess
import sys
import time

import polars as pl
import pytest
from conftest import ROOT, TINY, mostly_slow
from PIL import Image

from saev.cli import STAGES, TOOLS
from saev.config.command_line import split_flags


def runs(tmp_path):
    return sorted(path.parent for path in (tmp_path / "outputs").glob("train/**/saes"))


# --- help


def test_help_lists_the_stages_in_order(cli):
    shown = cli("--help")
    assert shown.code == 0 and cli().out == shown.out
    places = [shown.out.index(f". {stage} ") for stage in STAGES]
    assert places == sorted(places)
    for about in (*STAGES.values(), *TOOLS.values()):
        assert about in shown.out


@pytest.mark.parametrize("verb", mostly_slow(STAGES))
def test_help_of_a_stage_lists_what_can_be_set(cli, verb):
    shown = cli(verb, "--help")
    assert shown.code == 0 and "vit: " in shown.out and "Override anything in the config" in shown.out


def test_configuration_is_printed_with_the_flag_anywhere(cli):
    outputs = [cli("train", *order) for order in (["--cfg", "job", "lr=0.25"], ["lr=0.25", "--cfg", "job"])]
    assert outputs[0].code == 0 and "lr: 0.25" in outputs[0].out and outputs[0].out == outputs[1].out


def test_info(cli):
    shown = cli("train", "experiment=relu_dinov2", "--info", "defaults")
    assert shown.code == 0 and "experiment" in shown.out


QUICK = {
    "saev --help": ["--help"],
    "a stage's help": ["train", "--help"],
    "its configuration": ["train", "--cfg", "job"],
    "its defaults": ["train", "--info", "defaults"],
    "an unknown override": ["train", "bogus=1"],
    "an unknown verb": ["trian"],
}


@pytest.mark.parametrize("case", mostly_slow(QUICK))
def test_answers_that_need_no_tensors_do_not_wait_for_torch(case, run_python):
    script = (
        "import sys\nfrom saev.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
        "    print('HEAVY', sorted({'torch', 'lightning', 'timm', 'open_clip', 'polars', 'wandb'} & {*sys.modules}))"
    )
    assert run_python("-c", script, *QUICK[case]).out.splitlines()[-1] == "HEAVY []"


SHOWN = (["--help"], *([verb, "--help"] for verb in (*STAGES, *TOOLS)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "unbuffered"), [*((one, "") for one in SHOWN), (["--help"], "1"), (["train", "--cfg", "job"], "1")]
)
def test_a_reader_that_has_seen_enough_is_no_error(typed, unbuffered):
    """As `| head` at its earliest: gone before the first word. Unbuffered the first word meets it, else the last flush."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from saev.cli import main; main()", *typed], cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered}, stdout=writing, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_named_launcher_launches_a_single_run_too(cli, tiny, tmp_path):
    """Guards against `hydra/launcher=slurm` that trains on the login node because -m was not typed."""
    shown = cli("train", "experiment=none", f"dataset={tiny}", "layer=1", *TINY, "hydra/launcher=basic")
    assert shown.code == 0 and "1 SAE in 1 job" in shown.text, shown.text
    assert list((tmp_path / "outputs" / "train").glob("*/*_sweep/0/results.parquet"))


def test_flags_apart_keeps_values_with_their_flags_and_the_order_of_the_rest():
    typed = ["experiment=x", "-m", "k=1,2", "--cfg", "job", "lr=1", "-cd", "more"]
    assert split_flags(typed) == (["-m", "--cfg", "job", "-cd", "more"], ["experiment=x", "k=1,2", "lr=1"])
    assert split_flags(["k=1", "--info", "defaults"]) == (["--info", "defaults"], ["k=1"])
    assert split_flags(["--info", "k=1"]) == (["--info"], ["k=1"])
    assert split_flags([]) == ([], []) and split_flags(["a=1", "--cfg"]) == (["--cfg"], ["a=1"])


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("experiment=matr", "experiment=matryoshka_dinov3"),
        ("-m sae=batch", "sae=batchtopk"),
        ("hydra/launcher=slurm_", "hydra/launcher=slurm_detached"),
    ],
)
def test_the_shell_completes(typed, completed, cli, monkeypatch):
    line = f"python train.py {typed}"
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert completed in cli("train", "-sc", "query=bash").out.split()


# --- unknown things


def test_unknown_verb(cli):
    shown = cli("trian", "k=8")
    assert shown.code == 1 and "'trian'" in shown.err and "Did you mean `train`?" in shown.err


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("spasity=1e-4", "sparsity"), ("datamodule.val_fractions=0.2", "val_fraction"), ("experimnt=none", "experiment")],
)
def test_unknown_override(cli, typed, meant):
    shown = cli("train", typed)
    assert shown.code == 1 and "Did you mean" in shown.err and meant in shown.err.split("Did you mean")[1]
    assert "Traceback" not in shown.text


def test_unknown_option_lists_the_options(cli):
    shown = cli("train", "vit=dinov33_vitl16")
    assert shown.code == 1 and "dinov3_vitl16" in shown.text and "Traceback" not in shown.text


# --- wrong input: (arguments, what the message must say)

WRONG = {
    "no such dataset": (["dataset=/nowhere/at/all"], ["dataset=/nowhere/at/all", "saev record"]),
    "layer out of range": (["dataset={tiny}", "layer=9"], ["layer=9", "[1, 2]"]),
    "k with relu": (["dataset={tiny}", "layer=1", "sae=relu", "k=8", "sparsity=1e-3"], ["k=8", "sae=relu", "topk"]),
    "sparsity with topk": (["dataset={tiny}", "layer=1", "sae=topk", "sparsity=1"], ["sparsity=1", "sae=topk", "relu"]),
    "batch larger than the dataset": (["dataset={tiny}", "layer=1", "batch_size=100000"], ["batch_size=100000", "640"]),
    "k larger than d_sae": (["dataset={tiny}", "layer=1", "sae=topk", "k=100", "d_sae=32"], ["k=100", "32"]),
    "not a number": (["lr=fast"], ["fast", "lr"]),
    "tokens that were not recorded": (["dataset={tiny}", "layer=1", "tokens=words"], ["tokens=words", "patches"]),
    "unknown normalisation": (["dataset={tiny}", "layer=1", "normalise=l2"], ["normalise=l2", "scalar"]),
    "unwritable output": (["dataset={tiny}", "layer=1", "hydra.run.dir={file}/run"], ["{file}/run", "hydra.run.dir"]),
    "images folder missing": (["vit=micro", "images=folder", "images.root=/nowhere"], ["/nowhere", "images.root"]),
    "no checkpoint to go on from": (["ckpt_path=last"], ["ckpt_path", "no interrupted run"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_a_message_with_the_remedy(case, cli, tiny, tmp_path):
    (tmp_path / "file").write_text("a file, where no folder can be made")
    places = {"tiny": tiny, "file": tmp_path / "file"}
    arguments, said = WRONG[case]
    start = time.perf_counter()
    shown = cli("train", *(a.format(**places) for a in ["experiment=relu_dinov2", *TINY, *arguments]))
    seconds = time.perf_counter() - start
    assert shown.code == 1
    for text in said:
        assert text.format(**places) in shown.err, shown.err
    assert "Traceback" not in shown.text and seconds < 20
    assert not runs(tmp_path)


def test_an_incomplete_recording_is_refused(cli, tmp_path):
    from recordings import record

    manifest = record(tmp_path / "data") / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"complete": False}))
    shown = cli("train", "experiment=relu_dinov2", *TINY, f"dataset={tmp_path / 'data'}", "layer=1")
    assert shown.code == 1 and "incomplete" in shown.err and "saev record" in shown.err


# --- the command of the card


@pytest.mark.slow
@pytest.mark.parametrize("there", ["no images", "no weights"])
def test_without_its_data_the_ready_study_stops_and_names_both_remedies(there, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("IMAGENET_ROOT", raising=False)
    if there == "no weights":
        (tmp_path / "images" / "a").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "images" / "a" / "1.png")
        monkeypatch.setenv("IMAGENET_ROOT", str(tmp_path / "images"))
    start = time.perf_counter()
    shown = cli("train", "experiment=matryoshka_dinov3", "-m", "sparsity=1e-4,2e-4")
    assert shown.code == 1 and time.perf_counter() - start < 30
    assert "Traceback" not in shown.text and not runs(tmp_path)
    for remedy in ("vit.checkpoint=", "choose another vit", *(["images.root="] if there == "no images" else [])):
        assert remedy in shown.err, shown.err


@pytest.mark.slow
def test_with_data_the_ready_study_trains_both_saes_in_one_pass(cli, tiny, tmp_path):
    shown = cli(
        "train", "experiment=matryoshka_dinov3", f"dataset={tiny}", "layer=1", *TINY, "-m", "sparsity=1e-4,2e-4"
    )
    assert shown.code == 0, shown.text
    (run,) = runs(tmp_path)
    assert sorted(pl.read_parquet(run / "results.parquet")["sparsity"]) == [1e-4, 2e-4]
    members = [path.name.removeprefix("sparsity=") for path in (run / "saes").iterdir()]
    assert sorted(map(float, members)) == [1e-4, 2e-4]
    assert "2 SAEs in 1 job" in shown.text


@pytest.mark.slow
def test_a_shared_setting_makes_a_job_of_each_value(cli, tiny, tmp_path):
    shown = cli("train", "experiment=relu_dinov2", f"dataset={tiny}", *TINY, "sae=topk", "-m", "k=2,4", "layer=1,2")
    assert shown.code == 0, shown.text
    tables = [pl.read_parquet(run / "results.parquet") for run in runs(tmp_path)]
    assert [sorted(table["k"]) for table in tables] == [[2, 4], [2, 4]]
    assert sorted(table["layer"][0] for table in tables) == [1, 2]


def test_train_py_is_saev_train(run_python):
    shown = run_python("train.py", "experiment=relu_dinov2", "--cfg", "job")
    assert shown.code == 0 and "layer: 22" in shown.out
    assert (ROOT / "train.py").read_text().count("\n") < 12 and sys.version_info >= (3, 11)
