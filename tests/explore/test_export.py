"""The exported page: what is chosen, what it holds, and that it works from a file."""

import json
import re
import shutil

import polars as pl
import pytest
from validating import assert_valid

from saev.explore import cards
from saev.explore.export import as_json, default_images, default_latents, numbers, write_page


def data_of(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def test_numbers_and_ranges_are_chosen_once_each():
    assert numbers("latents", "7, 3-5,4", range(40)) == [7, 3, 4, 5]
    assert numbers("images", "0-1000", [0, 2, 9]) == [0, 2, 9]
    for text, said in (
        ("7,x", "give numbers and ranges"),
        ("40", "there is none; they are 0 to 39"),
        ("5-3", "there is none"),
        ("", "give"),
    ):
        with pytest.raises(ValueError, match=said):
            numbers("latents", text, range(40))


def test_latents_of_the_page_are_named_ones_the_best_and_then_some_of_all(opened):
    table = opened.latents
    chosen = default_latents(table, 6)
    assert chosen[:2] == [5, 3], "the best for a class and for a trait"
    assert len(chosen) == 6 and 39 not in chosen
    all_of_chance = table.with_columns(p_family=pl.when(pl.col("latent") == 17).then(0.06), trait_gain=pl.lit(-0.1))
    assert default_latents(all_of_chance, 2)[0] == 5 and 17 not in default_latents(all_of_chance, 3)
    named = table.with_columns(name=pl.when(pl.col("latent") == 38).then(pl.lit("stripe")))
    assert default_latents(named, 6)[0] == 38 and len(default_latents(named, 6)) == 6
    assert default_images(opened, 5) == [0, 9, 19, 29, 39]


def test_the_page_holds_the_cards_and_every_photo_once(opened, tmp_path):
    path = write_page(opened, tmp_path / "new" / "page.html", [3, 5], [7, 0], "title </script>", "Credits of photos")
    page = path.read_text()
    data = data_of(page)
    assert [row[0] for row in data["rows"]] == [3, 5] and {*data["images"]} == {"7", "0"}
    expected = cards.image_card(opened, 7)
    assert (
        data["images"]["7"]["codes"] == expected["codes"]
        and data["photos"][data["images"]["7"]["src"]] == expected["src"]
    )
    used = {cell["src"] for card in data["latents"].values() for cells in card["rows"].values() for cell in cells}
    assert used | {card["src"] for card in data["images"].values()} == {*data["photos"]}
    assert {*expected["about"]} <= {*data["about"]} and "title &lt;/script&gt;" in page and "Credits of photos" in page
    assert "http" not in page.replace("http://www.w3.org", ""), "it loads nothing"


@pytest.mark.slow
def test_the_page_is_valid(opened, tmp_path):
    assert_valid(write_page(opened, tmp_path / "page.html", [3, 5], [7, 0], "one page").read_text())


def test_the_json_ends_no_script_and_has_null_for_numbers_that_are_not_finite():
    assert as_json({"a": ["</script>", float("nan"), 1.5, True]}) == '{"a":["\\u003c/script>",null,1.5,true]}'


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_the_page_works_from_a_file(opened, tmp_path):
    from explore.browser import browsing

    path = write_page(opened, tmp_path / "page.html", [3, 5, 39], [7, 0], "one page")
    with browsing(path.as_uri(), tmp_path / "profile") as browser:
        browser.call(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )
        browser.until("shown(one => one.matches('.rows tbody tr')).length === 3")
        browser.click("one.matches('.controls input[type=search]')")
        browser.type("beak")
        browser.until("shown(one => one.matches('.rows tbody tr')).length === 1")
        browser.click("one.matches('.rows tbody a')")
        browser.until("shown(one => one.matches('.saev td') && one.textContent === 'not beak').length")
        assert browser.js("shown(one => one.matches('.saev .photo:disabled')).length") > 0, (
            "images that are not on the page"
        )
        browser.click("one.matches('.views a')", 2)
        browser.until("shown(one => one.matches('.saev .large img') && one.complete && one.clientHeight > 100).length")
        browser.click("one.matches('.saev .large')", at=0.6)
        browser.until("shown(one => one.matches('.saev h4') && one.textContent.startsWith('Patch 3, 3')).length")
        assert browser.js("location.hash") == "#image"
        browser.js("location.hash = 'latent=39'")
        browser.until("shown(one => one.textContent === 'It fires on none of these images.').length")
        assert not browser.errors
