"""bench.html: verdicts and differences, names that break between words, and figures."""

import base64
import re

import polars as pl

from saev.dictionary_bench.measures import MEASURES
from saev.dictionary_bench.page import write_bench_page
from saev.dictionary_bench.shown import bench_tables, left_out, verdict_lines, verdicts

MEMBERS = ("trained,seed=0", "decoder_frozen_random,seed=0", "<kmeans>")
NAMES = ("nmse", "preservation", "coalitions", "dead")


def row(member: str, name: str, value: float, **numbers) -> dict:
    empty = dict.fromkeys(("low", "high", "null", "diff", "diff_low", "diff_high", "diff_above_null", "p", "p_holm"))
    return {"member": member, "measure": name, "value": value, "n": 3, "reason": None, **empty, **numbers}


def page(tmp_path, measures: list[dict]) -> str:
    results = pl.DataFrame({"member": MEMBERS, "dataset": ["data"] * 3, "n_images": [9] * 3, "layer": [4] * 3,
                            "tokens": ["patches", "patches", "all"]})  # fmt: skip
    table = pl.DataFrame(measures, infer_schema_length=None)
    return write_bench_page(tmp_path / "bench.html", results, table, pl.DataFrame(), MEMBERS[:1]).read_text()


def differing(member: str) -> list[dict]:
    """Better in NMSE, worse in preservation by an interval without p, not shown in coalitions, dead without an interval."""
    return [
        row(member, "nmse", 0.2, null=1.0, diff=-0.1, diff_low=-0.2, diff_high=-0.05, p=0.001, p_holm=0.004),
        row(member, "preservation", 0.8, null=0.1, diff=-0.1, diff_low=-0.2, diff_high=-0.05),
        row(member, "coalitions", 0.5, null=0.1, diff=0.1, diff_low=0.05, diff_high=0.2, p=0.05, p_holm=0.1),
        row(member, "dead", 0.5, diff=0.1),
    ]


def test_verdicts_and_differences_by_p(tmp_path):
    (one,) = verdicts(differing("a"))
    assert one == {"member": "a", "better": ["NMSE"], "worse": ["preserved"], "not shown": ["coalition F1"]}
    # better, but less so than a null that differs as much
    of_null = row(
        "a", "coalitions", 0.9, low=0.8, null=0.7, diff=0.2, diff_low=0.1, diff_high=0.3, diff_above_null=-0.1
    )
    assert verdicts([of_null])[0]["not shown"] == ["coalition F1"]
    assert verdicts([{**of_null, "diff_above_null": 0.1}])[0]["better"] == ["coalition F1"]
    measures = [row(MEMBERS[0], name, 0.3, null=0.1 if name != "dead" else None) for name in NAMES]
    text = page(tmp_path, measures + [one for member in MEMBERS[1:] for one in differing(member)])
    before, _, folded = text.partition("further differences")
    assert before.count('<td class="text">NMSE</td>') == 2 and "6 further differences" in text
    assert folded.count('<td class="text">preserved</td>') == 2 and "NMSE</td>" not in folded
    assert 'data-value="-0.1">-0.100</td>' in before and 'data-value="0.004">0.004</td>' in before
    assert "<dd>patches, all</dd>" in text


def test_names_break_between_words_and_are_escaped(tmp_path):
    text = page(tmp_path, [row(member, name, 0.5, null=0.1) for member in MEMBERS for name in NAMES])
    assert "decoder_<wbr>frozen_<wbr>random,<wbr>seed=0" in text and "&lt;kmeans&gt;" in text and "<kmeans>" not in text
    assert "Is it better" not in text  # nothing is compared


def test_labels_of_the_radar_are_beyond_its_rim(tmp_path):
    text = page(tmp_path, [row(m, name, 0.5, null=0.1) for m in MEMBERS for name in MEASURES if MEASURES[name].better])
    svg = base64.b64decode(re.search(r"data:image/svg\+xml;base64,([^\"]+)", text)[1]).decode()
    texts = re.findall(r">([^<>]+)</t", svg)
    assert {"monosemantic,", "top 16", "NMSE", "null, mean of all"} <= {one.strip() for one in texts}


def test_the_terminal_shows_as_many_dictionaries_as_fit_and_says_what_is_missing():
    missing = row(MEMBERS[2], "morans_i", None, reason="no valid map")
    measures = pl.DataFrame([*differing("a"), *differing("b"), *differing("c"), row("a", "morans_i", 0.1), missing],
                            infer_schema_length=None)  # fmt: skip
    assert [len(table.columns) for table in bench_tables(measures, ["a", "b", "c"], 60)] == [3, 2]
    assert left_out(measures) == {"no valid map": ["Moran's I of <kmeans>"]}
    assert verdict_lines(measures, "x")[0] == "a against x: better in NMSE; worse in preserved"
