"""The explorer in a real browser: refused without the token; points, rows, photos, patches and names are clicked."""

import shutil
import time

import pytest

from saev import annotations
from saev.explore import server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium"),
]


def text(content: str) -> str:
    return f"!one.children.length && one.textContent.trim() === {content!r}"


def has(content: str) -> str:
    return f"shown(one => !one.children.length && one.textContent.includes({content!r})).length"


def test_views_lead_to_each_other_by_clicks(outputs, tmp_path):
    from explore.browser import browsing

    folder = shutil.copytree(outputs.dictionary, tmp_path / "out" / "train" / "run" / "saes" / "k=4").parents[3]
    shutil.copytree(outputs.root / "probe", folder / "probe")
    (folder / "train" / "run" / "results.parquet").write_bytes(
        (outputs.root / "train" / "run" / "results.parquet").read_bytes()
    )
    session = outputs.session()
    session = type(session)((folder,), session.codes, session.activations, session.images, device="cpu")
    with server.serving(session) as running:
        with browsing(running.address.partition("?")[0], tmp_path / "without") as browser:
            browser.until("location.pathname.includes('/auth/login')")
            assert not browser.js("shown(one => one.tagName === 'MARIMO-TABLE').length")
        with browsing(running.address, tmp_path / "with") as browser:
            browser.until(f"shown(one => {text('Pareto-optimal only')}).length")
            point = "one.matches('path[aria-roledescription=point]') && one.ariaLabel.includes('name: k=4;')"
            browser.until(f"shown(one => {point}).length")
            time.sleep(1)  # cells that the page's own first values start
            browser.click(point)
            browser.until(has("40 of 40 latents"))
            browser.click("one.tagName === 'INPUT' && one.placeholder.startsWith('number')")
            browser.type("beak")
            browser.until(has("1 of 40 latents"))
            browser.until("shown(one => one.matches('.saev h4')).length === 1")
            browser.click(text("Latent 5"))
            browser.until("shown(one => one.matches('.saev td') && one.textContent === 'not beak').length")
            browser.click("one.matches('.saev .photo')")
            browser.click("one.matches('.saev .large')", at=0.6)
            browser.until("shown(one => one.matches('.saev h4') && one.textContent.startsWith('Patch 3, 3')).length")
            browser.press("ArrowRight")  # the focus is on the photo
            browser.until("shown(one => one.matches('.saev h4') && one.textContent.startsWith('Patch 3, 4')).length")
            latent = browser.js("shown(one => one.matches('.saev .item b'))[0].textContent")
            browser.click("one.matches('.saev .item .entry')")
            browser.until("shown(one => one.matches('.saev .entry.on')).length")
            browser.click("one.matches('.saev .item .open')")
            browser.until(f"shown(one => one.matches('.saev h4') && one.textContent === 'Latent {latent}').length")
            browser.click("one.tagName === 'INPUT' && one.type === 'text'", 1)  # after the latent's number
            browser.type("eye spot")
            browser.click(text("annotate"))
            browser.until("shown(one => one.matches('.saev td') && one.textContent === 'eye spot').length")
            assert annotations.names(folder / "train" / "run" / "saes" / "k=4") == {int(latent): "eye spot"}
            assert not browser.errors


def test_a_photo_is_uploaded_and_two_dictionaries_are_compared(photographed, recorded, tmp_path):
    from explore.browser import browsing

    shutil.copy(recorded.album.images.folder / recorded.codes.images["path"][0], tmp_path / "mine.png")
    with server.serving(photographed) as running, browsing(running.address, tmp_path / "profile") as browser:
        browser.until("shown(one => one.matches('tbody [role=checkbox]')).length === 2")
        time.sleep(1)
        browser.click("one.matches('tbody [role=checkbox]')", 1)
        browser.until(has("16,384 of 16,384 latents"))
        browser.click("one.tagName === 'INPUT' && one.placeholder.startsWith('number')")
        browser.type("12345")
        browser.until(has("1 of 16,384 latents"))
        browser.click("one.matches('tbody [role=checkbox]')")
        browser.until("shown(one => one.matches('.saev h4') && one.textContent === 'Latent 12345').length")
        browser.click(text("Image"))
        browser.until("shown(one => one.matches('.saev .large')).length")
        browser.upload(tmp_path / "mine.png")
        browser.until("shown(one => one.matches('.saev small') && one.textContent === 'mine.png').length")
        browser.click("one.matches('.saev .error .open')")
        browser.until(f"shown(one => {text('hide its map')}).length")
        browser.click(text("Compare"))
        browser.until(has("Choose a second dictionary."))
        browser.click("one.matches('[data-testid=marimo-plugin-searchable-dropdown] button')")
        browser.click("one.matches('[role=option]')")
        browser.until(has("latents of the first have a partner in the second"))
        assert browser.js("shown(one => one.matches('.saev .sides h4')).length") == 2
        browser.click("one.matches('.saev .sides h4 button')", 1)
        browser.until("shown(one => one.matches('.saev .wide h4') && one.textContent.startsWith('Latent ')).length")
        browser.until(has("0, layer 2"))  # the second dictionary is open
        assert not browser.errors
