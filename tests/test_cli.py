"""The command line: help, flags in any position, and each wrong input as a short message that names the remedy."""

import json
import os
import re
import shutil
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
    assert shown.code == 0
    for item in ("Keys, with their defaults:", "layer=", "Examples:", f"saev {verb}", "--cfg job"):
        assert item in shown.out, shown.out
    assert max(map(len, shown.out.splitlines())) < 140


def examples():
    """The examples of every verb's help, with directories and files that are not there."""
    for verb in STAGES:
        lines = (ROOT / "conf" / f"{verb}.yaml").read_text().splitlines()
        yield from (line.removeprefix("# $ saev ") for line in lines if line.startswith("# $ "))


@pytest.mark.parametrize("example", [*examples()])
def test_the_examples_of_the_help_compose(cli, example):
    """Guards against an example with a key that is not there any more; `last` has nothing to resume here."""
    first = [re.sub(r"=([^\[,]+),.*", r"=\1", item) for item in example.split() if item != "-m"]  # of the swept values
    shown = cli(*first, "--cfg", "job")
    assert shown.code == 0 or "no interrupted run" in shown.err, shown.text


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


SHOWN = (["--help"], *([verb, "--help"] for verb in ("train", *TOOLS)))  # the other stages print as train does


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("line", "completed"),
    [("saev tr", "train"), ("saev train sae=b", "sae=batchtopk"), ("saev show cho", "choice."), ("saev doc", "doctor")],
)
def test_the_shell_completes_verbs_groups_and_keys(line, completed, cli, monkeypatch):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    assert completed in cli("-sc", "query=bash").out.split()


def test_completion_is_installed_by_a_script_that_bash_accepts(cli):
    script = "eval \"$1\"; COMP_LINE='saev eval' COMP_POINT=9; _saev_completion; echo ${COMPREPLY[@]}"
    done = subprocess.run(
        ["bash", "-c", script, "-", cli("-sc", "install=bash").out], capture_output=True, text=True, env=with_saev()
    )
    assert done.stdout.split() == ["evaluate"], done.stderr
    assert cli("-sc", "uninstall=zsh").out == "compdef -d saev\n" and cli("-sc", "install=fish").code == 1


def with_saev() -> dict[str, str]:
    return os.environ | {"PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_what_is_typed():
    """In an interactive zsh: a verb gets a space after it; a key ends in `=` without one, and nothing else is printed."""
    script = """zmodload zsh/zpty; zpty z zsh -f -i
        zpty -w z 'PS1=; eval "$(saev -sc install=zsh)"; echo REA""DY'; zpty -r z out '*READY*'
        zpty -w -n z $'saev eval\\t'; zpty -r z out '*saev evaluate*'; print -r -- ${(V)out}; zpty -w -n z $'\\x15'
        zpty -w -n z $'saev train k=4 n_tok\\t5'; zpty -r z out '*ens=*5*'; print -r -- ${(V)out}; zpty -d z"""
    done = subprocess.run(
        ["zsh", "-f", "-c", script],
        capture_output=True,
        text=True,
        env=with_saev(),
        timeout=120,
        stdin=subprocess.DEVNULL,
    )
    assert "ens=5" in done.stdout and "not found" not in done.stdout, done.stdout


# --- unknown things


def test_unknown_verb(cli):
    shown = cli("trian", "k=8")
    assert shown.code == 1 and "'trian'" in shown.err and "Did you mean `train`?" in shown.err


@pytest.mark.parametrize("typed", [["kk=16"], ["-m", "kk=8,16"], ["+kk=16"]])
def test_an_unknown_key_is_one_line_with_the_close_one(cli, typed, tmp_path):
    shown = cli("train", *typed)
    assert shown.code == 1 and shown.err == f"error: {typed[-1]}: there is no key kk. Did you mean k?\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["lr=fast"], "error: lr=fast: value 'fast' of type 'str' could not be converted to Float.\n"),
        (["n_tokens=-1"], "error: n_tokens=-1: must be at least 1.\n"),
        (["kmeans"], "error: kmeans: is no key=value; give baseline=kmeans.\n"),
        (["nothing"], "error: nothing: is no key=value; give key=value.\n"),
        (["images.root=/a(b"], "error: images.root=/a(b: cannot be read as key=value; quote a value with special characters "
         "twice: 'images.root=\"/a(b\"'\n"),
        (["variants=[[sae=topk,k=8]]"], "error: variants=[[sae=topk,k=8]]: cannot be read as key=value; quote a value with special "
         "characters twice: 'variants=[[\"sae=topk\",\"k=8\"]]'\n"),
    ],
)  # fmt: skip
def test_a_user_error_is_one_line_and_leaves_no_folder(cli, typed, said, tmp_path):
    shown = cli("train", *typed)
    assert shown.code == 1 and shown.text == said
    assert not list((tmp_path / "outputs").glob("*/*/*"))


@pytest.mark.slow
def test_an_existing_path_needs_no_quotes(cli, tmp_path):
    """Guards against LexerNoViableAltException for names that people and cameras give."""
    folder = tmp_path / "Übung, (1)=日本 'x'"
    folder.mkdir()
    shown = cli("train", "vit=micro", "images=folder", f"images.root={folder}", *TINY)
    assert shown.code == 1 and f"images.root={folder}" in shown.err and "no images" in shown.err, shown.err


def test_outputs_where_nothing_can_be_written(cli, monkeypatch):
    monkeypatch.setenv("SAEV_OUTPUTS", "/proc/x")
    shown = cli("train")
    assert shown.code == 1 and shown.err.startswith("error: SAEV_OUTPUTS=/proc/x: ") and shown.err.count("\n") == 1


def test_a_full_disk_is_named_with_what_to_do(tmp_path):
    """An error that hides the cause behind two others, as torch and Lightning raise it."""
    from saev.config.messages import message

    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    try:
        try:
            raise OSError(28, "No space left on device", "/disk/file")
        except OSError as full:
            raise RuntimeError("unexpected pos 64 vs 0") from full
    except RuntimeError as error:
        text = message(error, [], tmp_path)
    assert text == (
        f"the disk of {tmp_path} is full. What was finished before is complete: make room, then resume with ckpt_path={tmp_path}."
    ).replace(f"disk of {tmp_path}", "disk of /disk/file")
    assert message(RuntimeError("a bug"), [], tmp_path) is None


@pytest.mark.parametrize("verb", ["encode", "evaluate", "probe", "show"])
def test_a_mistyped_directory_with_an_equals_sign_is_not_there(cli, verb):
    shown = cli(verb, "saes/k=8")
    assert shown.code == 1 and "saes/k=8 is not there" in shown.err


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
    "a target L0 above d_sae": (
        ["dataset={tiny}", "layer=1", "sae=jumprelu", "l0_target=100", "d_sae=32"],
        ["l0_target=100", "d_sae=32"],
    ),
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
