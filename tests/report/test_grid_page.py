import multiprocessing
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest

from hyperfocal.classify.grid_layout import LABEL_LAYOUT
from hyperfocal.errors import RunError
from hyperfocal.grid.reading import read_grid
from hyperfocal.grid.search import run_grid
from hyperfocal.grid.store import PLAN, write_plan
from hyperfocal.report.blocks import Bullets, Chart, Folded, Table
from hyperfocal.report.grid_page import grid_page, write_grid_report
from hyperfocal.report.page import bundle
from report_cases import grid, grid_job


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return grid(tmp_path_factory.mktemp("grid"))


def section(page, anchor):
    return next(each for each in page.sections if each.anchor == anchor)


def lines(page, anchor):
    blocks = list(section(page, anchor).blocks)
    blocks += [inner for block in blocks if isinstance(block, Folded) for inner in block.blocks]
    return [line for block in blocks if isinstance(block, Bullets) for line in block.lines]


def test_the_page_of_a_finished_grid(finished):
    reading = read_grid(finished)
    page = grid_page(reading, LABEL_LAYOUT)
    assert reading.winner in page.headline
    charts = [block for block in section(page, "map").blocks if isinstance(block, Chart)]
    assert [chart.title for chart in charts] == ["Class-weight cap by focal gamma", "Differences from the baseline"]
    assert list(charts[0].choices) == ["half.macro_f1", "tuned.macro_f1", "macro_ap"]
    [table] = [block for block in section(page, "ranked").blocks if isinstance(block, Table)]
    assert {row[0].text for row in table.rows} == set(reading.results)
    assert len(table.rows) == 4
    assert section(page, "remaining").blocks[0].text == "Nothing: every planned training has ended."
    assert write_grid_report(reading, LABEL_LAYOUT).stat().st_size < 3e6


def test_the_heat_map_has_a_cell_for_each_point_and_metric(finished):
    page = grid_page(read_grid(finished), LABEL_LAYOUT)
    spec = section(page, "map").blocks[0].spec
    [rows] = spec["datasets"].values()
    assert len(rows) == 4 * 3
    assert {(row["down"], row["across"]) for row in rows} == {
        (cap, gamma) for cap in ("none", "7") for gamma in ("none", "2")
    }
    baseline = [row for row in rows if row["change"] == "baseline"]
    assert {(row["name"], row["percent"]) for row in baseline} == {("no_cap_no_focal", 0.0)}


def test_a_grid_that_runs_says_what_remains(tmp_path):
    job, points = grid_job(tmp_path)
    run_grid(job, points[:4], "no_cap_no_focal")
    _, store = job.prepare(points)
    write_plan(job.out, points, "no_cap_no_focal", job.by, store.fingerprint)
    assert store.claim(points[4])
    assert store.claim(points[5])
    store.fail(points[5], "boom <script>\nmore")
    reading = read_grid(job.out)
    assert reading.running == [(points[4].name, points[4].seed)]
    assert len(reading.missing) == len(points) - 5
    page = grid_page(reading, LABEL_LAYOUT)
    assert page.headline.startswith("So far, ")
    said = lines(page, "remaining")
    assert f"{points[4].name}, seed {points[4].seed} (running)" in said
    assert f"{points[5].name}, seed {points[5].seed}: boom <script>\nmore" in said


def test_a_grid_without_a_result_has_a_page(tmp_path):
    job, points = grid_job(tmp_path)
    _, store = job.prepare(points)
    write_plan(job.out, points, "no_cap_no_focal", job.by, store.fingerprint)
    reading = read_grid(job.out)
    assert grid_page(reading, LABEL_LAYOUT).headline == "No point of this grid has a result yet."
    assert write_grid_report(reading, LABEL_LAYOUT).is_file()


def test_a_grid_of_an_earlier_version_has_no_plan(finished, tmp_path):
    (tmp_path / "grid.sqlite").write_bytes((finished / "grid.sqlite").read_bytes())
    old, new = read_grid(tmp_path), read_grid(finished)
    assert (old.winner, old.baseline, old.planned) == (new.winner, "no_cap_no_focal", False)
    assert "an earlier version wrote" in section(grid_page(old, LABEL_LAYOUT), "remaining").blocks[0].text


def test_what_is_no_grid_or_a_damaged_one_is_refused(finished, tmp_path):
    with pytest.raises(RunError, match=r"holds no grid: grid\.sqlite is missing"):
        read_grid(tmp_path)
    (tmp_path / "grid.sqlite").write_bytes((finished / "grid.sqlite").read_bytes())
    (tmp_path / PLAN).write_text('{"points": [3]}')
    with pytest.raises(RunError, match=r"plan\.json is damaged"):
        read_grid(tmp_path)
    (tmp_path / PLAN).unlink()
    (tmp_path / "test.json").write_text("{}")
    with pytest.raises(RunError, match=r"test\.json is damaged"):
        grid_page(read_grid(tmp_path), LABEL_LAYOUT)
    (tmp_path / "grid.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RunError, match="the store is damaged"):
        read_grid(tmp_path)


def read_as_nobody(folder, out):
    """Write the report of a grid as a user who may write nothing there."""
    os.environ["HYPERFOCAL_CACHE"] = str(folder / "cache")
    if os.getuid() == 0:
        os.setuid(65534)
    with pytest.raises(PermissionError):
        (folder / "grid" / "mine").touch()
    with pytest.raises(RunError, match=r"cannot write .*report\.html: .*Permission denied"):
        write_grid_report(read_grid(folder / "grid"), LABEL_LAYOUT)
    write_grid_report(read_grid(folder / "grid"), LABEL_LAYOUT, out / "page.html")


def test_a_grid_that_may_only_be_read_has_a_report_elsewhere(finished):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder, out = Path(name), Path(name) / "out"
        (folder / "grid").mkdir()
        out.mkdir()
        for file in ("grid.sqlite", "plan.json"):
            shutil.copyfile(finished / file, folder / "grid" / file)
        bundle(folder / "cache")  # the charts' script, which the reader cannot make
        for path in (folder / "cache", *(folder / "cache").rglob("*")):
            os.chown(path, 65534 if os.getuid() == 0 else -1, -1)
        for path, mode in ((folder, 0o755), (out, 0o777), (folder / "grid", 0o555)):
            path.chmod(mode)
        reader = multiprocessing.get_context("forkserver").Process(target=read_as_nobody, args=(folder, out))
        reader.start()
        reader.join(120)
        assert reader.exitcode == 0
        assert (out / "page.html").stat().st_size > 100_000
        assert sorted(path.name for path in (folder / "grid").iterdir()) == ["grid.sqlite", "plan.json"]


def test_reading_opens_the_store_read_only_and_renames_nothing(finished, tmp_path, monkeypatch):
    (tmp_path / "grid.sqlite").write_bytes((finished / "grid.sqlite").read_bytes())
    opened, connect = [], sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **options: opened.append(name) or connect(name, **options))
    read_grid(tmp_path)
    assert opened
    assert all(name.endswith("grid.sqlite?mode=ro") for name in opened)
    (tmp_path / "grid.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(RunError, match=r"the store is damaged .*run the grid again, which puts it aside"):
        read_grid(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.sqlite"]
