"""Images decoded in processes are those that threads decode, and their errors too."""

import pickle
import shutil
import signal

import numpy as np
import pytest
import torch
from vits.micro_recordings import N, contents, recording

from saev.images import FolderImages
from saev.vits import MicroVit
from saev.vits.decoding_processes import DecodingProcesses, pickled_error
from saev.vits.image_loader import ImageLoader

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mixed(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("mixed") / "photos"
    shutil.copytree(photos, root)
    (root / "owl" / "broken.jpg").write_bytes(b"no picture")
    return root


def loader_of(root, on_error="skip"):
    images, backbone = FolderImages(root=str(root)), MicroVit().load()
    return ImageLoader(images, np.arange(N + 1), backbone.transform, backbone.shape, {"patches": 16}, None, on_error)


class Odd(Exception):
    """Cannot be read from a pickle: `__init__` takes two arguments."""

    def __init__(self, path, line):
        super().__init__(f"{path}, line {line}")


def test_errors_that_cannot_be_pickled_are_told():
    error, _ = pickle.loads(pickled_error(Odd("a.jpg", 3)))
    assert type(error) is RuntimeError and str(error) == "Odd: a.jpg, line 3"
    error, _ = pickle.loads(pickled_error(ValueError("broken")))
    assert type(error) is ValueError and str(error) == "broken"


def test_images_and_errors_are_those_of_the_loader(mixed):
    skipping, stopping = loader_of(mixed), loader_of(mixed, "stop")
    processes = DecodingProcesses(stopping, 1)
    try:
        for index in range(N + 1):
            expected = skipping(index)
            if expected.error:
                with pytest.raises(ValueError, match=r"broken\.jpg.*record\.on_error=skip"):
                    processes(index)
            else:
                image = processes(index)
                assert image.row == expected.row and image.grid == expected.grid
                assert torch.equal(image.pixels, expected.pixels)
        process = processes.processes[0]
        process.send_signal(signal.SIGKILL)
        with pytest.raises(RuntimeError, match=r"decoding process ended with code -9: lower record\.n_workers"):
            processes(0)
    finally:
        processes.close()
    assert process.poll() is not None


@pytest.mark.parametrize("vit", [MicroVit(), MicroVit(resize="flex", n_patches=25)])
def test_a_recording_is_the_same(mixed, tmp_path, vit):
    whole = recording(mixed, tmp_path / "threads", vit=vit).run(False)
    other = recording(mixed, tmp_path / "processes", vit=vit, decoding="processes")
    assert other.directory().name == whole.name
    assert contents(other.run(False)) == contents(whole)


def test_images_of_a_script_are_refused(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(FolderImages, "__module__", "__main__")
    with pytest.raises(
        ValueError, match=r"record\.decoding=processes: FolderImages is defined .*record\.decoding=threads"
    ):
        recording(photos, tmp_path, decoding="processes").check()
