import time

import pytest

from saev.vits import OpenClipVit, TimmVit, hub

OFFLINE_ARCHES = [
    TimmVit(name="dinov3_vits16", arch="vit_small_patch16_dinov3.lvd1689m"),
    OpenClipVit(name="clip_vitb16", arch="ViT-B-16-quickgelu", pretrained="openai"),
    OpenClipVit(name="bioclip2", arch="ViT-L-14", pretrained="hf-hub:imageomics/bioclip-2"),
]


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    look = huggingface_hub.try_to_load_from_cache
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda r, f: look(r, f, cache_dir=tmp_path))
    return tmp_path


@pytest.mark.parametrize("vit", OFFLINE_ARCHES, ids=lambda vit: vit.name)
@pytest.mark.parametrize("reason", ["offline", "unreachable", "silent"])
def test_no_hub_names_both_remedies_within_seconds(empty_cache, monkeypatch, vit, reason):
    import huggingface_hub

    vit.shape()  # imports timm or open_clip, which is not what is timed
    silent = reason == "silent"
    monkeypatch.setattr(hub, "PATIENCE_S", 0.2)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", reason == "offline")

    def answer(url, timeout):
        time.sleep(1.5 if silent else 0)
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    start = time.monotonic()
    with pytest.raises(ValueError, match=rf"vit={vit.name}.*vit\.checkpoint=/path.*another vit"):
        vit.check()
    assert time.monotonic() - start < 3


def test_cached_weights_need_no_hub(empty_cache, monkeypatch):
    import huggingface_hub

    folder = empty_cache / "models--timm--vit_small_patch16_dinov3.lvd1689m"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc" / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", None)
    OFFLINE_ARCHES[0].check()


def test_a_hub_that_has_the_file_is_enough(empty_cache, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url, timeout: "found")
    for vit in OFFLINE_ARCHES:
        vit.check()


def test_urls_are_checked_too():
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:9.*vit\.checkpoint"):
        hub.check_url("http://127.0.0.1:9/weights.pth", "old")
