"""A disk that is full: commands whose outputs are on a file system of some kilobytes end in a line with what is safe and how to resume."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from training.probes import dictionary, record_classes

import saev

pytestmark = pytest.mark.slow
BATCHES = ("batch_size=64", "n_tokens=1280", "d_sae=512", "log_every=5", "val_every=100", "report=false")
TRAIN = ("train", "experiment=none", "trainer=cpu", "logger=none", *BATCHES, "callbacks.checkpoint.every_n_steps=")
FIT = ("fit", "baseline=kmeans", "n_latents=256", "passes=4", "device=cpu", "save_every_s=0", "batch_size=64")
PROBE = ("probe", "bootstrap=50", "device=cpu", "batch_size=100", "save_every_s=0")


@pytest.fixture
def disk(tmp_path):
    """`disk(n)`: an empty file system of n kilobytes."""
    root = tmp_path / "disk"
    root.mkdir()

    def of_size(kilobytes: int) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", root], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted: {done.stderr.strip()}")
        return root

    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` to make a small file system with")
    yield of_size
    subprocess.run(["umount", root], capture_output=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A recording with labels and a dictionary."""
    root = tmp_path_factory.mktemp("full")
    record_classes(root / "data")
    saev.save_dictionary(dictionary(), root / "saes" / "untrained")
    return root


@pytest.mark.parametrize(
    ("command", "kilobytes", "remedy"),
    [
        ((*TRAIN[:-1], f"{TRAIN[-1]}5"), 160, "repeat the command"),  # the first checkpoint
        ((*TRAIN[:-1], f"{TRAIN[-1]}5"), 400, "resume with ckpt_path="),  # the second one
        ((*TRAIN[:-1], f"{TRAIN[-1]}15"), 280, "resume with ckpt_path="),  # the dictionary
        (FIT, 60, "repeat the command"),
        (FIT, 120, "resume with ckpt_path="),
        (PROBE, 120, "repeat the command with hydra.run.dir="),
    ],
)
def test_a_command_names_what_is_safe_and_resumes_with_more_room(
    cli, disk, place, tiny, monkeypatch, command, kilobytes, remedy
):
    root = disk(kilobytes)
    monkeypatch.setenv("SAEV_OUTPUTS", str(root))
    data = (str(place), f"dataset={place / 'data'}") if command[0] == "probe" else (f"dataset={tiny}",)
    command = (command[0], *data, "layer=1", *command[1:])
    shown = cli(*command)
    assert shown.code == 1 and "Traceback" not in shown.text and "During handling" not in shown.text, shown.err
    (line,) = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    safe = r"What was finished before is complete: make room, then"
    said = re.fullmatch(rf"error: the disk of {root}/\S+ is full\. {safe} ({remedy}\S*)\.", line)
    assert said and shown.err.rstrip().endswith(line), shown.err
    assert not [path for path in root.rglob("*") if ".tmp" in path.name]
    if said[1] == "repeat the command":
        return
    subprocess.run(["mount", "-o", "remount,size=8m", root], check=True)
    resumed = cli(*command, said[1].split()[-1])
    assert resumed.code == 0 and ("resum" in resumed.text), resumed.text
