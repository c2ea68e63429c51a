"""Rounded weights give the same bits under autocast; compiled blocks are the blocks."""

from functools import partial

import pytest
import torch
from conftest import mostly_slow
from vits.micro_recordings import contents, recording

from saev.vits import MicroVit, OpenClipVit, TimmCnn, TimmVit
from saev.vits.faster_forward import round_weights

VITS = {
    "micro": MicroVit(registers=2),
    "flex": MicroVit(resize="flex", n_patches=25),
    "eva": TimmVit(arch="eva02_tiny_patch14_224", img_size=28, random_weights=True),
    "dinov3": TimmVit(arch="vit_small_patch16_dinov3", img_size=32, random_weights=True),
    "open_clip": OpenClipVit(arch="ViT-B-32", random_weights=True),
}


@pytest.mark.parametrize("name", mostly_slow(list(VITS)))
def test_rounded_weights_give_the_same_bits(name):
    plain, rounded = VITS[name].load(), VITS[name].load()
    # on a CPU, nn.MultiheadAttention of open_clip does not look for autocast, and computes in float32
    possible = name != "open_clip"
    assert round_weights(rounded, [1], "resid_post", torch.bfloat16) == possible
    expected = {torch.bfloat16, torch.float32} if possible else {torch.float32}
    assert {p.dtype for p in rounded.parameters()} == expected, "norms, positions and gates stay"
    images = torch.randn(3, 3, *(plain.image_size or (24, 40)))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(plain(images, [1])[1], rounded(images, [1])[1])


def test_weights_used_in_float32_are_left_alone():
    backbone = MicroVit().load()
    linear = backbone.anatomy.blocks[0].mlp.fc1
    backbone.anatomy.blocks[0].register_forward_hook(lambda module, inputs, output: output + linear.weight.sum())
    before = linear.weight.clone()
    assert not round_weights(backbone, [1], "resid_post", torch.bfloat16)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32} and torch.equal(linear.weight, before)


def test_compiled_blocks_record_the_same(photos, tmp_path, monkeypatch):
    whole = recording(photos, tmp_path / "eager").run(False)
    compiled = []
    trace = partial(torch.compile, backend="eager")  # the default backend takes a minute here
    monkeypatch.setattr(torch, "compile", lambda forward, **knobs: compiled.append(knobs) or trace(forward, **knobs))
    assert contents(recording(photos, tmp_path / "compiled", compile=True).run(False)) == contents(whole)
    assert compiled == [{"dynamic": False}] * 4


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"hook": "mlp"}, r"record\.compile=true joins attention and MLP, record\.hook=mlp"),
        (
            {"vit": MicroVit(resize="flex")},
            r"record\.compile=true.*vit\.resize=flex has many; use record\.compile=false",
        ),
        (
            {"vit": TimmCnn(arch="convnext_atto", random_weights=True)},
            r"record\.compile=true: convnext_atto.* has stages",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(photos, tmp_path, knobs, says):
    with pytest.raises(ValueError, match=says):
        recording(photos, tmp_path, layers=[1], compile=True, **knobs).check()
