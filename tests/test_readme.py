"""The commands and Python blocks of README.md and docs/ work: cheap commands run, expensive ones are composed."""

import os
import re
import shlex

import numpy as np
import pytest
from conftest import ROOT, TINY, topk_run
from PIL import Image

from saev.checkpoint import save_dictionary
from saev.cli import STAGES, TOOLS
from saev.nn import SparseAutoencoder, TopK

README = (ROOT / "README.md").read_text()
PAGES = [README, *(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = [block for page in PAGES for block in re.findall(r"^```(\w+)\n(.*?)^```", page, re.M | re.S)]
LAUNCHER = ("hydra/launcher=", "hydra.launcher.")
EXTENDING = (ROOT / "docs" / "extending.md").read_text()  # its blocks are files: tests/test_extending.py
PYTHON = [text for language, text in BLOCKS if language == "python" and text not in EXTENDING]


def commands() -> list[str]:
    """Every command of the bash blocks: continued lines joined, comments dropped."""
    lines = "\n".join(text for language, text in BLOCKS if language in ("bash", "sh", "console")).replace("\\\n", " ")
    stripped = [re.sub(r"(?:^|\s)#.*", "", line).strip().removeprefix("$ ") for line in lines.splitlines()]
    return list(dict.fromkeys(line for line in stripped if line))


def saev_arguments(words: list[str]) -> list[str] | None:
    """The arguments of `saev` where the command is one of ours, however it is spelled."""
    words = words[1:] if words[0] == "srun" else words
    if words[:2] == ["uv", "run"]:
        words = words[3:] if words[2] == "--no-sync" else words[2:]
    if words[:2] == ["python", "train.py"]:
        return ["train", *words[2:]]
    return words[1:] if words[:1] == ["saev"] else None


def shortened(verb: str, words: list[str], tiny) -> list[str]:
    """The command on the tiny recording, on one CPU, with what it sweeps over left as it is."""
    few = TINY if verb == "train" else ("batch_size=64", "passes=1", "n_latents=4,8")
    ours = {item.split("=")[0]: item for item in (f"dataset={tiny}", "layer=1", *few)}
    words = [word for word in words if not word.startswith(("trainer.", *LAUNCHER))]
    swept = {word.split("=")[0] for word in words if "," in word} - {"layer", "dataset", "n_latents"}
    keys = {key for key in ours if key not in swept}
    layers = ["layer=1,2"] if any(word.startswith("layer=") and "," in word for word in words) else []
    return (
        [word for word in words if word.split("=")[0] not in keys]
        + [ours[key] for key in keys if not (layers and key == "layer")]
        + layers
    )


def test_the_two_commands_of_a_newcomer_are_there():
    assert {"uv run python train.py", "uv run pytest"} <= {*commands()}
    assert "uv run pytest" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_a_command_works(command, cli, tiny, tmp_path, monkeypatch):
    words = shlex.split(command)
    if words[0] == "export":
        assert all(re.fullmatch(r"[A-Z_]+=\S*", word) for word in words[1:])
        return
    arguments = saev_arguments(words)
    if arguments is None:
        return check_other(words)
    if arguments[:1] == ["annotate"]:
        folder = save_dictionary(SparseAutoencoder(4, 1024, TopK(2)), tmp_path / "k=2")
        assert cli("annotate", str(folder), *arguments[2:]).code == 0
        return
    if arguments[:1] == ["explore"]:  # it serves until it is stopped: tests/explore start it
        assert cli("explore", "--help").code == 0
        keys = [word for word in arguments if "=" in word]
        assert cli("show", *keys, "--cfg", "job", "--resolve").code == 0  # which image sets both verbs know
        return
    if arguments[:1] and arguments[0] in TOOLS:
        monkeypatch.setenv("SAEV_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("saev.stages.doctor.MIN_FREE_GB", 0)
        if arguments == ["status"]:  # of a sweep
            assert cli(*topk_run(tiny, "-m", "k=2,4")).code == 0
        shown = cli(arguments[0], *([str(tiny)] if len(arguments) > 1 else []))
        assert shown.code == 0, shown.text
        return None
    if not arguments or arguments[0].startswith("-"):
        assert cli(*arguments).code == 0
        return None
    verb, *rest = arguments
    assert verb in STAGES
    if launcher := [word for word in rest if word.startswith(LAUNCHER)]:
        assert cli(verb, *launcher, "--cfg", "hydra").code == 0  # the jobs themselves: tests/slurm
    if "-m" in rest or "--multirun" in rest:  # planned and trained for real, on the tiny recording
        shown = cli(verb, *shortened(verb, rest, tiny))
    elif any(word.startswith("ckpt_path=") for word in rest):
        shown = cli(verb, *[word for word in rest if not word.startswith("ckpt_path=")], "--cfg", "job")
    else:
        shown = cli(verb, *rest, "--cfg", "job", "--resolve") if not {"--cfg", "--help"} & {*rest} else cli(verb, *rest)
    assert shown.code == 0, shown.text
    return None


def check_other(words: list[str]) -> None:
    """Commands of other tools: what they name is there."""
    if words[:2] == ["uv", "run"]:
        words = words[4:] if words[2] == "--group" else words[2:]
    tool, *rest = words
    assert tool in (
        "git",
        "cd",
        "uv",
        "pytest",
        "python",
        "pip",
        "trap",
        "tensorboard",
        "wandb",
        ".ci/run",
        "pre-commit",
        "sphinx-build",
    ), words
    for word in rest:
        if word.endswith(".py") or (
            word.startswith(("tests", "docs", "examples", "benchmarks")) and "_build" not in word
        ):
            assert (ROOT / word).exists(), f"README names {word}, which is not there"


@pytest.fixture
def photos(tmp_path):
    """A folder of 80 small images."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(80):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_a_python_block_runs(number, tiny_run, tiny, photos, tmp_path, monkeypatch):
    """On a small backbone and few tokens, with the saved SAE of a short training run."""
    code = PYTHON[number]
    for shown, small in (
        (r"""(["'])outputs/train/[^"']*/saes/[^"']*\1""", repr(str(tiny_run / "saes" / "sae=relu,sparsity=1e-2"))),
        (r"""(?<!activations, )(["'])outputs/activations/[^"']*\1""", repr(str(tiny))),
        (r"""(["'])/path/to/photos\1""", repr(str(photos))),
        (r"saev\.vits\.TimmVit\([^)]*\)", "saev.vits.MicroVit(img_size=128, d_model=64)"),
        (r"layer=8", "layer=1"),
        (r"layers=\[8\]", "layers=[1]"),
        (r"n_tokens=[\d_]+", "n_tokens=8192"),
        (r"randn\(100_000, 128\)", "randn(20_000, 16)"),
    ):
        code = re.sub(shown, small, code)
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"README.md, Python block {number}", "exec"), {"__name__": "page", "dataset": tiny})


def test_the_notebook_blocks_are_short():
    section = README.partition("## In a notebook")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```python\n(.*?)^```", section, re.M | re.S)
    assert len(blocks) == 2 and all(len(block.splitlines()) <= 15 for block in blocks)


def test_links_to_files_lead_somewhere():
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", README) if not re.match(r"\w+:|#", link)]
    assert not [link for link in links if not os.path.exists(ROOT / link)]
