"""The frame of all pages: valid HTML, and in a real browser marks, enlarged photos, search, themes and small screens."""

import base64
import shutil
from pathlib import Path

import numpy as np
import pytest
from validating import assert_valid
from visuals import test_map_page, test_report
from visuals.conftest import GRID, LAYER, Photos, identity_sae

from saev.visuals.pictures import as_bytes, map_bytes
from saev.visuals.report import write_report
from saev.visuals.settings import Choice

EVERY = Choice(commonest=0.0, images=1, weakest=0.0)
in_browser = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")


def report(path: Path, store, rows=(), images=None) -> str:
    """The page of an SAE whose codes are relu(x)."""
    names = {"one": {1: "eye <spot>"}}
    return write_report(
        path, rows, {"one": identity_sae()}, store=store, layer=LAYER, images=images, choice=EVERY, names=names,
        config="k: 3", credits=["by <them>"], files={"results": path}, date="today",
    ).read_text()  # fmt: skip


def test_a_map_decodes_to_its_codes():
    codes = np.array([[0, 1e-6, 3], [np.nan, 8, 2]], np.float32)
    decoded = np.frombuffer(base64.b64decode(map_bytes(codes, 8.0)), np.uint8).reshape(2, 3)
    assert decoded.tolist() == [[0, 1, 96], [0, 255, 64]]
    assert map_bytes(np.zeros((2, 2), np.float32), 8.0) == "" and as_bytes(codes * 0, 0.0).sum() == 0


ROWS = ({**test_report.ROW, "member": "one"}, test_report.BROKEN)


@pytest.mark.slow
@pytest.mark.parametrize(("rows", "images"), [((), None), (ROWS, Photos())], ids=["show", "report"])
def test_reports_are_valid(tmp_path, store, rows, images):
    assert_valid(report(tmp_path / "report.html", store, rows, images))


@pytest.mark.slow
def test_maps_are_valid(tmp_path, store):
    assert_valid(test_map_page.written(tmp_path / "map.html", store, Photos()))


@pytest.mark.slow
@in_browser
def test_photos_are_marked_enlarged_and_searched_by_keyboard(tmp_path, store, values):
    from explore.browser import browsing

    report(tmp_path / "report.html", store, images=Photos())
    with browsing(f"file://{tmp_path / 'report.html'}", tmp_path / "profile") as browser:
        browser.until("document.querySelectorAll('.marks canvas').length")
        view = browser.js(
            "globalThis.view = document.querySelector('.latent[data-text^=\"1 \"] .view'); view.className"
        )
        codes = np.maximum(values[..., 1:, 1], 0)  # of latent 1 on patches
        alpha = browser.js(
            "[...view.querySelector('canvas').getContext('2d').getImageData(0, 0, 4, 3).data].filter((_, i) => i % 4 === 3)"
        )
        expected = 255 * 0.56 * (1 - np.sqrt(codes[int(view.split("p")[-1])] / codes.max()))
        assert GRID == (3, 4) and np.abs(np.array(alpha) - expected).max() < 10  # a byte is coarse near 0
        n_strong = (codes[int(view.split("p")[-1])] > codes.max() / 2).sum()
        n_lines = browser.js("view.querySelector('path.light').getAttribute('d').split('M').length - 1")
        assert n_strong and n_lines <= 4 * n_strong and n_lines % 2 == 0

        browser.js("view.focus()")
        browser.press("Enter")
        browser.until("document.querySelector('dialog').open && !!document.querySelector('dialog canvas')")
        assert "Latent 1 (eye <spot>)" in browser.js("document.querySelector('dialog .about').textContent")
        first = browser.js("document.querySelector('dialog .view').title")
        browser.press("ArrowRight")
        assert browser.js("document.querySelector('dialog .view').title") != first
        browser.press("ArrowLeft")
        browser.press("ArrowRight")
        browser.press("Escape")
        browser.until("document.activeElement === view.closest('figure').nextElementSibling.querySelector('.view')")

        visible = "[...document.querySelectorAll('.latent')].filter(one => !one.hidden).length"
        n = browser.js(visible)
        browser.js("document.querySelector('[type=search]').focus()")
        browser.type("SPOT")
        assert n > 1 and browser.js(visible) == 1
        assert browser.js("document.querySelector('output').textContent") == f"1 of {n} latents"
        browser.click("one.matches('[data-plain]')")
        assert browser.js("getComputedStyle(view.querySelector('.marks')).visibility") == "hidden"
        assert browser.js(
            "[...document.querySelectorAll('nav a')].every(one => document.querySelector(one.getAttribute('href')))"
        )
        assert not browser.errors

        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        browser.call("Page.reload")
        browser.until("document.readyState === 'complete' && !document.documentElement.classList.contains('js')")
        assert browser.js("document.querySelectorAll('.marks').length") == 0
        assert "webp" in browser.js("getComputedStyle(document.querySelector('.view')).backgroundImage")
        assert browser.js("document.querySelector('figcaption').getClientRects().length")


@pytest.mark.slow
@in_browser
def test_pages_fit_a_phone_and_are_dark_where_that_is_preferred(tmp_path, store):
    from explore.browser import browsing

    report(tmp_path / "report.html", store, [{**test_report.ROW, "member": "one"}], Photos())
    test_map_page.written(tmp_path / "map.html", store, Photos())
    with browsing("about:blank", tmp_path / "profile") as browser:
        browser.call("Emulation.setDeviceMetricsOverride", width=420, height=800, deviceScaleFactor=2, mobile=True)
        browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        for page in ("report", "map"):
            browser.call("Page.navigate", url=f"file://{tmp_path / page}.html")
            browser.until("document.readyState === 'complete' && !!document.querySelector('h1')")
            assert browser.js("document.documentElement.scrollWidth") == 420
            assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(23, 25, 29)"
            assert "gradient" in browser.js(
                "getComputedStyle(document.querySelector('.ramp, .colours')).backgroundImage"
            )
        assert not browser.errors
