"""Copies to and from a GPU: the same values as without them, by streams that do nothing here and by those of a GPU."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from vits.micro_recordings import contents, recording

from saev.shards import ActivationStore
from saev.vits.backbone import Backbone
from saev.vits.transfers import Transfers, narrow, within


class NoStream:
    """Stands for a stream and an event; notes what is done with it."""

    log: list[str]

    def __init__(self, device=None):
        self.log = LOG
        LOG.append("new")

    def __getattr__(self, name):
        return lambda *args: LOG.append(name)


LOG: list[str] = []


@pytest.fixture
def on_gpu(monkeypatch) -> Transfers:
    """Transfers of a GPU, on a CPU."""
    for name in ("Stream", "Event"):
        monkeypatch.setattr(torch.cuda, name, NoStream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", NoStream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: LOG.append("record_stream"))
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, pin_memory=False, make=make, **knobs: make(*args, **knobs))
    transfers = Transfers(torch.device("cpu"))
    transfers.on_gpu, transfers.uploading, transfers.downloading = True, NoStream(), NoStream()
    LOG.clear()
    return transfers


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
def test_values_are_those_that_a_cpu_narrows(on_gpu, given):
    rng = torch.Generator().manual_seed(0)
    acts = {layer: torch.randn(2, 5, 8, generator=rng).to(given)[:, 1:] for layer in (1, 3)}
    if given != torch.float16:
        acts[3][1, 2, 3] = 65536  # in bfloat16 the next value after float16's largest
    for dtype in (torch.float16, torch.float32):
        expected = Transfers(torch.device("cpu")).download(acts, dtype).arrays()
        arrays = on_gpu.download(acts, dtype).arrays()
        for layer, values in expected.items():
            assert arrays[layer].dtype == values.dtype and np.array_equal(arrays[layer], values)
            big = layer == 3 and given != torch.float16
            assert values.dtype == (np.float16 if dtype == torch.float16 and not big else np.float32)
    assert LOG.index("wait_stream") < LOG.index("record") < LOG.index("synchronize")


def test_what_fits():
    x = torch.tensor([1.0, -65504.0])
    for value, fits in ((0.0, True), (65505.0, False), (-7e4, False), (float("nan"), False), (float("inf"), False)):
        assert bool(within(torch.cat([x, torch.tensor([value])]), torch.float16)) == fits
    assert narrow(torch.tensor([7e4]), torch.float16).dtype == torch.float32


def test_images_are_stacked(on_gpu):
    images = [torch.randn(3, 4, 6) for _ in range(3)]
    for transfers in (on_gpu, Transfers(torch.device("cpu"))):
        assert torch.equal(transfers.upload(images).wait(), torch.stack(images))
    assert LOG.count("wait_event") == 1


@pytest.mark.gpu
def test_a_recording_on_a_gpu_resumes_with_the_same_bytes(photos, tmp_path, monkeypatch):
    whole = recording(photos, tmp_path / "whole", device="cuda").run(False)
    calls, forward = [], Backbone.forward

    def failing(self, *args):
        calls.append(1)
        if len(calls) > 6:
            raise KeyboardInterrupt
        return forward(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "forward", failing)
        with pytest.raises(KeyboardInterrupt):
            recording(photos, tmp_path / "stopped", device="cuda").run(False)
    again = recording(photos, tmp_path / "stopped", device="cuda", n_workers=5, decoding="processes")
    assert contents(again.run(False)) == contents(whole)


@pytest.mark.gpu
def test_a_gpu_computes_what_a_cpu_does(photos, tmp_path):
    cpu = ActivationStore(recording(photos, tmp_path / "cpu").run(False))
    for name, knobs in {"float32": {"autocast": False}, "half": {}, "compiled": {"compile": True}}.items():
        gpu = ActivationStore(recording(photos, tmp_path / name, device="cuda", **knobs).run(False))
        for image in range(len(cpu.examples)):
            tolerance = 2e-3 if name == "float32" else 5e-2
            np.testing.assert_allclose(gpu.read(3, image), cpu.read(3, image), atol=tolerance)


@pytest.mark.gpu
def test_an_overflow_on_a_gpu_is_named(photos, tmp_path, monkeypatch):
    forward = Backbone.forward

    def spoilt(self, *args):
        acts = forward(self, *args)
        acts[3][0, 5, 7] = 1e5
        return acts

    monkeypatch.setattr(Backbone, "forward", spoilt)
    with pytest.raises(ValueError, match=r"layer-03 of '.*png' reaches 1e\+05.*record\.dtype=float32"):
        recording(photos, tmp_path, device="cuda", autocast=False).run(False)
