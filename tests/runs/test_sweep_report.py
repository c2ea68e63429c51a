"""report.html of a sweep: the rows of all jobs, their states, and links to the jobs' own reports."""

import json
import re

import pytest
from validating import assert_valid

from saev.runs import sweep_summary
from saev.runs.ledger import JobState, Sweep, job_states
from saev.runs.planning import Job
from saev.runs.sweep_summary import collect, summarise, summarise_if_last, write_summary
from saev.runs.tables import write_table

ROW = {"sae": "topk", "objective": "plain", "decoder": "free", "d_sae": 64, "dataset": "tiny", "layer": 1, "tokens": "patches",
       "n_tokens": 100, "dead": 0.1, "failed": False}  # fmt: skip
PROVENANCE = {"dataset_fingerprint": "f", "layer": 1, "token_roles": "patches", "ignore_labels": [], "held_out": {}}


def finish(run, ks, **settings):
    """A finished job with a report."""
    rows = [{"member": f"k={k}", "k": k, "l0": float(k), "nmse": 1 / k, **ROW, **settings} for k in ks]
    for row in rows:
        config = run / "saes" / row["member"] / "config.json"
        config.parent.mkdir(parents=True)
        about = {"schema": 1, "kind": "sae", "provenance": PROVENANCE, "d_model": 16, "n_latents": 64}
        config.write_text(json.dumps(about))
    lines = [{"split": "train", "member": f"k={k}", "tokens": t, "z_mse": 1 / t, "l0": k} for k in ks for t in (10, 20)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "report.html").write_text("a page")
    write_table(run, "results", rows)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.setenv("SAEV_OUTPUTS", str(tmp_path / "outputs"))
    plan = Sweep(
        "f", {"0_lr=0.1": Job(["lr=0.1"], [["k=2"], ["k=4"]]), "1_lr=0.2": Job(["lr=0.2"], [["k=2"], ["k=4"]])}
    )
    plan.save(tmp_path)
    finish(tmp_path / "0_lr=0.1", (2, 4), lr=0.1)
    return plan


@pytest.mark.slow
def test_the_page_has_all_jobs_and_links_to_their_reports(sweep, tmp_path, capsys):
    (tmp_path / "1_lr=0.2").mkdir()
    (tmp_path / "1_lr=0.2" / "error.txt").write_text("ValueError: <too> large\n")
    summarise(tmp_path, sweep, {})
    assert f"report:  {tmp_path / 'report.html'}" in capsys.readouterr().out
    page = (tmp_path / "report.html").read_text().replace("<wbr>", "")
    assert page.count('<a href="0_lr%3D0.1/report.html">') == 3, "of two SAEs and of the job"
    assert "0_lr=0.1/k=2" in page and "failed: ValueError: &lt;too&gt; large" in page and "1 finished, 1 failed" in page
    assert "1_lr%3D0.2" not in page
    assert_valid(page)

    finish(tmp_path / "1_lr=0.2", (2, 4), lr=0.2)
    summarise(tmp_path, sweep, {})
    page = (tmp_path / "report.html").read_text().replace("<wbr>", "")
    assert page.count('/report.html"') == 6 and "2 finished" in page and "failed:" not in page
    assert page.count('alt="Training curve"') == 2


def test_jobs_without_reports_have_none_of_their_sweep(sweep, tmp_path):
    for report in (False, True):
        (tmp_path / "0_lr=0.1" / "config.yaml").write_text(f"report: {str(report).lower()}\n")
        states = job_states(tmp_path, sweep.jobs, ask_slurm=False)
        files = write_summary(tmp_path, sweep, collect(tmp_path, sweep, states), states)
        assert ("report" in files) == report == (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_the_last_job_writes_the_page_and_no_other(sweep, tmp_path):
    summarise_if_last(tmp_path / "0_lr=0.1")
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "results.parquet").exists()
    finish(tmp_path / "1_lr=0.2", (2, 4), lr=0.2)
    summarise_if_last(tmp_path / "1_lr=0.2")
    assert (
        "1_lr=0.2/k=4" in (tmp_path / "report.html").read_text().replace("<wbr>", "")
        and (tmp_path / "results.csv").is_file()
    )
    summarise_if_last(tmp_path / "outputs")  # a run that is in no sweep


def test_an_error_of_the_page_costs_no_results(sweep, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sweep_summary, "write_sweep_page", lambda *_, **__: 1 / 0)
    states = job_states(tmp_path, sweep.jobs)
    files = write_summary(tmp_path, sweep, collect(tmp_path, sweep, states), states)
    assert "report" not in files and (tmp_path / "results.csv").is_file() and "its results are complete" in caplog.text


def test_baselines_stand_beside_saes_of_the_same_tokens_alone(sweep, tmp_path):
    fit = tmp_path / "outputs" / "fit" / "day" / "run"
    finish(fit, (2, 4), baseline="pca", sae=None)
    states = {folder: JobState("finished") for folder in sweep.jobs}
    finish(tmp_path / "1_lr=0.2", (2, 4), lr=0.2)
    write_summary(tmp_path, sweep, collect(tmp_path, sweep, states), states)
    page = (tmp_path / "report.html").read_text().replace("<wbr>", "")
    assert re.findall(r'PCA \(<a href="([^"]+)">day/run</a>', page) == ["outputs/fit/day/run"]
    rows = collect(tmp_path, sweep, states)
    assert sweep_summary.baselines_of(tmp_path, [rows[0], {**rows[1], "layer": 2}]) == []
