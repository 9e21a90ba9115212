import shutil

from command_cases import TINY, done, refused
from hyperfocal.cli import report as run_page


def test_fit_writes_a_report_and_says_where(folder):
    assert (folder / "run" / "report.html").stat().st_size < 3e6


def test_report_writes_it_again(folder, tmp_path):
    said = done("report", folder / "run", "--out", tmp_path / "page.html")
    assert said == f"Report: {tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_that_is_neither_run_nor_grid(tmp_path):
    expected = f"error: {tmp_path}: holds neither a run (config.toml) nor a grid (grid.sqlite). Give the folder that"
    assert expected in refused("report", tmp_path)
    assert "no such folder" in refused("report", tmp_path / "none")


def test_a_damaged_run(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text("{")
    assert "metrics.json is damaged" in refused("report", tmp_path / "run")


def test_a_report_that_fails_loses_no_run(folder, tmp_path, monkeypatch):
    def fail(_):
        raise ZeroDivisionError("a bug of ours")

    texts = ("--text", "title", "--features", "ngrams")
    with monkeypatch.context() as patch:
        patch.setattr(run_page, "run_page", fail)
        said = done("classify", "fit", folder / "train.jsonl", "--out", tmp_path / "run", *texts, *TINY)
    assert "warning: no report was written (ZeroDivisionError: a bug of ours). All else is saved" in said
    assert not (tmp_path / "run" / "report.html").exists()
    assert done("report", tmp_path / "run") == f"Report: {tmp_path / 'run' / 'report.html'}\n"


def test_the_help_teaches():
    said = " ".join(done("report", "--help").split())
    assert "hyperfocal report grid --out grid.html" in said
    assert "needs no data" in said
