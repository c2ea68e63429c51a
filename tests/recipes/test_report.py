"""report.html of a run: at validations, after a stop and at the end; its numbers are those of results.csv."""

import csv
import io
import re
import signal

import polars as pl
import pytest
from recordings import record

import saev
from callbacks import Checkpoint, Page
from saev.training.settings import ProbeSample, TrainSettings
from saev.visuals.columns import COLUMNS

SETTINGS = TrainSettings(batch_size=64, warmup=0, log_every=1, val_every=4)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return record(tmp_path_factory.mktemp("probe") / "data", n_examples=60, labels=True, layers=(1, 2))


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


def members():
    auxk = saev.AuxK(dead_tokens=64)
    return [
        saev.Member(saev.TopK(4), "sae=topk,k=4", auxk=auxk, d_sae=64),
        saev.Member(saev.ReLU(1e-2), "sae=relu,sparsity=1e-2", auxk=auxk, d_sae=64),
    ]


def cells(page):
    """The table of results on a page: name -> heading -> text."""
    table = page[page.index('<h2 id="results">') :]
    table = table[table.index("<table>") : table.index("</table>")]
    head, *rows = re.findall(r"<tr.*?</tr>", table, re.DOTALL)
    headings = re.findall(r"<th[^>]*>(.*?)</th>", head)
    values = [[re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]
    return {name: dict(zip(headings[1:], of, strict=True)) for name, *of in values}


@pytest.mark.slow
def test_the_numbers_of_the_report_are_those_of_the_csv(labelled, outputs, tmp_path):
    saev.fit(labelled, 1, {"pca": saev.baselines.PCA((2, 8))}, directory=outputs / "fit" / "day" / "same")
    saev.fit(labelled, 2, {"kmeans": saev.baselines.KMeans(4)}, directory=outputs / "fit" / "day" / "other-layer")
    settings = TrainSettings(**{**vars(SETTINGS), "probe": ProbeSample("train", 30, 300)})
    bank = saev.train(labelled, 1, members(), n_tokens=512, settings=settings, directory=tmp_path / "run")
    page = bank.files["report"].read_text()
    shown, rows = cells(page), list(csv.DictReader(io.StringIO((tmp_path / "run" / "results.csv").read_text())))
    assert [*shown] == [row["member"] for row in rows] == ["sae=topk,k=4", "sae=relu,sparsity=1e-2"]
    numbers = [{key: float(value) for key, value in row.items() if re.fullmatch(r"-?[\d.e-]+", value)} for row in rows]
    for row, of in zip(numbers, shown.values(), strict=True):
        assert of == {column.label: column.text(row) for column in COLUMNS}
        assert {"R", "mAP", "NMSE"} <= {*of} and "–" not in of.values()
    assert page.count('alt="Training curve"') == 4, "error, L0, R and mAP"
    assert 'PCA (<a href="../outputs/fit/day/same">day/same</a>)' in page and "other-layer" not in page
    assert "Training is at step" not in page and 'id="latents"' in page


@pytest.mark.slow
def test_a_page_is_written_at_validations_and_its_error_costs_nothing(tiny, outputs, tmp_path, monkeypatch, caplog):
    pages, write = [], Page.on_validation_end

    def look(self, trainer, module):
        self.not_before = 0.0
        write(self, trainer, module)
        if (tmp_path / "run" / "report.html").is_file():
            pages.append((tmp_path / "run" / "report.html").read_text())

    monkeypatch.setattr(Page, "on_validation_end", look)
    bank = saev.train(tiny, 1, members(), n_tokens=512, settings=SETTINGS, directory=tmp_path / "run")
    assert "Training is at step 4 of 8. The numbers are those of the validation at step 4;" in pages[0]
    assert "Training is at step 8 of 8. The numbers are those of the validation at step 8;" in pages[1]
    assert 'id="latents"' not in pages[1] and "Training is at step" not in bank.files["report"].read_text()
    final = bank.results.select("member", "nmse").rows()
    assert {name: of["NMSE"] for name, of in cells(pages[1]).items()} == {
        name: COLUMNS[0].text({"nmse": x}) for name, x in final
    }

    def fail(*_, **__):
        raise RuntimeError("no page")

    monkeypatch.setattr("saev.recipes.report.write_report", fail)
    again = saev.train(tiny, 1, members(), n_tokens=512, settings=SETTINGS, directory=tmp_path / "failing")
    assert again.results["nmse"].is_finite().all() and "report" not in again.files
    assert caplog.text.count("the training goes on") == 2 and "results and dictionaries are complete" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("step", [6, 2])
def test_a_stopped_run_has_a_page_that_says_so(step, tiny, outputs, tmp_path, monkeypatch):
    def press(self, trainer, *_):
        if trainer.global_step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Checkpoint, "on_train_batch_start", press)
    with pytest.raises(SystemExit):
        saev.train(tiny, 1, members(), n_tokens=512, settings=SETTINGS, directory=tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert f"Training stopped at step {step + 1} of 8; resume with: ckpt_path={tmp_path / 'run'}." in page
    if step > 4:
        assert "those of the validation at step 4;" in page and [*cells(page)] == [m.name for m in members()]
    else:
        assert "There was no validation yet;" in page and 'id="results"' not in page
    assert 'alt="Training curve"' in page
    monkeypatch.undo()
    bank = saev.train(tiny, 1, members(), n_tokens=512, settings=SETTINGS, directory=tmp_path / "run")
    assert "stopped at step" not in bank.files["report"].read_text()


def test_without_a_report_none_is_written(tiny, tmp_path):
    settings = TrainSettings(**{**vars(SETTINGS), "report": False})
    saev.train(tiny, 1, members(), n_tokens=512, settings=settings, directory=tmp_path / "run")
    assert not (tmp_path / "run" / "report.html").exists()
    assert pl.read_parquet(tmp_path / "run" / "results.parquet").height == 2
