"""`classify grid` and `demo classify`: what they train, keep and say, and what they refuse before any training."""

import csv
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from command_cases import TINY, done, invoke, names_below, process, refused, rows, write
from hyperfocal.machine import count_cores

ROOT = Path(__file__).parents[2]
STORY = ROOT / "recipes" / "caps_and_gammas.toml"
BASE = ("--text", "title", "--text", "body", "--set", "features.kind=ngrams", *TINY)
FOUR = ("--caps", "none,6", "--gammas", "none,2", "--seeds", "1")
NAMES = ["cap_6.0_focal_g2", "cap_6.0_no_focal", "no_cap_focal_g2", "no_cap_no_focal"]


def trained(result):
    """Return the points that were trained, from the plain lines on stderr: "[1/4] NAME seed 0: ..."."""
    return sorted(line.split("] ")[1].split(" seed ")[0] for line in result.stderr.splitlines() if " seed " in line)


def table(path):
    """Return the configurations of a grid's table, best first."""
    return [row["configuration"] for row in json.loads((path / "table.json").read_text())]


def starred(text):
    """Return the configurations with a star in a printed table."""
    return [line.split()[1] for line in text.splitlines() if line.startswith("* ") and not line.startswith("* the ")]


def rows_of(store, name):
    """Return how many rows a table of a store has."""
    with closing(sqlite3.connect(store, timeout=30)) as db:
        return db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]


@pytest.fixture(scope="module")
def grid(folder):
    """Return the folder of a grid of four points, with test scored, and what its command printed."""
    out = folder / "grid"
    arguments = ("--test", folder / "test.jsonl", "--out", out, *FOUR, *BASE)
    return out, invoke("classify", "grid", folder / "train.jsonl", *arguments)


@pytest.fixture
def mine(grid, tmp_path):
    """Return a copy of that folder, to spoil."""
    return shutil.copytree(grid[0], tmp_path / "grid")


class TestGrid:
    def test_the_screen(self, grid):
        out, result = grid
        assert result.exit_code == 0, result.output
        assert trained(result) == NAMES
        shown, _, after = result.stdout.partition("Table:")
        assert max(map(len, shown.splitlines())) <= 80
        assert "4 points, best first by macro-F1 with tuned thresholds" in shown
        assert "Test, 40 documents" in shown
        assert f"hyperfocal classify predict {out / 'winner'} DOCS" in " ".join(after.split())

    def test_the_table_in_three_files(self, grid):
        out, result = grid
        records = json.loads((out / "table.json").read_text())
        assert sorted(row["configuration"] for row in records) == NAMES
        reached = [row["tuned.macro_f1"] for row in records]
        assert reached == sorted(reached, reverse=True)
        assert [row["winner"] for row in records] == [True, False, False, False]
        assert [row["configuration"] for row in records if row["baseline"]] == ["no_cap_no_focal"]
        with (out / "table.csv").open() as file:
            assert [row["configuration"] for row in csv.DictReader(file)] == table(out)
        lines = (out / "table.md").read_text().splitlines()
        assert [line for line in lines if line.startswith(f"| **{table(out)[0]}** ★ ")]
        assert starred(result.stdout)[0] == table(out)[0]

    def test_the_same_command_trains_nothing_and_says_the_same(self, grid, folder):
        out, first = grid
        before = {name: (out / name).stat().st_mtime_ns for name in ("winner/model.safetensors", "test.json")}
        arguments = ("--test", folder / "test.jsonl", "--out", out, *FOUR, *BASE)
        again = invoke("classify", "grid", folder / "train.jsonl", *arguments)
        assert trained(again) == []
        assert again.stdout == first.stdout
        assert {name: (out / name).stat().st_mtime_ns for name in before} == before

    def test_a_larger_grid_trains_only_what_is_new(self, folder, mine):
        arguments = ("--caps", "none,6,7", "--gammas", "none,2", "--seeds", "1", "--out", mine, *BASE)
        result = invoke("classify", "grid", folder / "train.jsonl", *arguments)
        assert trained(result) == ["cap_7.0_focal_g2", "cap_7.0_no_focal"]
        assert len(table(mine)) == 6

    def test_the_winner_predicts_as_a_run_of_fit(self, grid, folder, tmp_path):
        winner, out = grid[0] / "winner", tmp_path / "p.jsonl"
        done("classify", "predict", winner, folder / "test.jsonl", "--out", out)
        assert len(out.read_text().splitlines()) == 40
        metrics = json.loads(done("classify", "evaluate", winner, folder / "test.jsonl", "--json"))
        kept = json.loads((grid[0] / "test.json").read_text())
        assert metrics["values"] == kept["winner"]["values"]

    def test_test_is_scored_once(self, folder, mine):
        other = write(mine.parent / "other.jsonl", rows(40, seed=2))
        before = (mine / "test.json").read_bytes()
        arguments = ("--test", other, "--out", mine, *FOUR, *BASE)
        result = invoke("classify", "grid", folder / "train.jsonl", *arguments)
        assert result.exit_code == 2
        assert "test was scored already" in result.stderr
        assert (mine / "test.json").read_bytes() == before

    def test_seeds_and_another_baseline(self, folder, tmp_path):
        arguments = ("--caps", "none,6", "--seeds", 2, "--baseline", "cap_6.0_no_focal", "--out", tmp_path / "grid")
        result = invoke("classify", "grid", folder / "train.jsonl", *arguments, *BASE)
        assert trained(result) == ["cap_6.0_no_focal"] * 2 + ["no_cap_no_focal"] * 2
        assert "2 points, 2 seeds each" in result.stdout
        records = json.loads((tmp_path / "grid" / "table.json").read_text())
        assert [row["configuration"] for row in records if row["baseline"]] == ["cap_6.0_no_focal"]

    def test_the_recipe_of_the_story(self, folder, tmp_path):
        arguments = ("--recipe", STORY, "--seeds", "1", "--out", tmp_path / "grid", *BASE)
        result = invoke("classify", "grid", folder / "train.jsonl", *arguments)
        assert result.exit_code == 0, result.output
        assert len(trained(result)) == 12
        assert {"cap_7.0_focal_g3", "cap_6.0_no_focal", "no_cap_no_focal"} <= set(table(tmp_path / "grid"))
        assert max(map(len, result.stdout.partition("Table:")[0].splitlines())) <= 80

    def test_without_an_encoder_it_says_so(self, folder, tmp_path, no_encoder):
        arguments = ("--caps", "none", "--seeds", "1", "--out", tmp_path / "grid", "--text", "title", *TINY)
        said = done("classify", "grid", folder / "train.jsonl", *arguments)
        assert "No sentence encoder is installed" in said

    def test_a_point_that_fails_is_kept_and_stops_no_other(self, folder, tmp_path):
        recipe = tmp_path / "grid.toml"
        recipe.write_text('[grid]\nseeds = 1\n"train.learning_rate" = [0.001, 1e30]\n')
        arguments = ("--recipe", recipe, "--out", tmp_path / "grid", *BASE, "--set", "train.batch_size=16")
        result = invoke("classify", "grid", folder / "train.jsonl", *arguments)
        assert result.exit_code == 0, result.output
        assert "train.learning_rate=1e+30 seed 0: failed: " in result.stderr
        assert "Failed: train.learning_rate=1e+30" in " ".join(result.stdout.split())
        again = invoke("classify", "grid", folder / "train.jsonl", *arguments)
        assert trained(again) == []
        retried = invoke("classify", "grid", folder / "train.jsonl", *arguments, "--retry")
        assert trained(retried) == ["train.learning_rate=1e+30"]

    def test_search(self, folder, tmp_path):
        arguments = ("--search", "optuna", "--trials", 3, "--out", tmp_path / "grid", *BASE)
        first, again = (invoke("classify", "grid", folder / "train.jsonl", *arguments) for _ in range(2))
        assert first.exit_code == 0, first.output
        names = trained(first)
        assert names[0] == "baseline"
        assert [name[:8] for name in names[1:]] == ["trial_01", "trial_02", "trial_03"]
        assert sorted(table(tmp_path / "grid")) == names
        assert trained(again) == []
        assert again.stdout == first.stdout


class TestWithoutWeights:
    def test_off_is_none(self, folder, mine):
        """So the grid of `none` has all of its points already."""
        arguments = ("--caps", "off,6", "--gammas", "none,2", "--seeds", "1", "--out", mine, *BASE)
        result = invoke("classify", "grid", folder / "train.jsonl", *arguments)
        assert result.exit_code == 0, result.output
        assert trained(result) == []
        assert sorted(table(mine)) == NAMES

    def test_help_says_what_none_and_off_are(self):
        fit, grid = (" ".join(done("classify", command, "--help").split()) for command in ("fit", "grid"))
        assert "off: no class weights, none: weights without a cap" in fit
        assert "none or off: no class weights, --cap off of fit" in grid


class TestProcesses:
    """As a user works: with workers where there are cores, and Ctrl-C."""

    @pytest.mark.parametrize("run", [invoke, pytest.param(process, marks=pytest.mark.slow)])
    def test_workers_and_the_same_command_without(self, folder, tmp_path, forks, run):
        command = ("classify", "grid", folder / "train.jsonl", *FOUR, *BASE, "--out", tmp_path / "grid")
        first = run(*command, "--workers", min(2, count_cores()))
        assert trained(first) == NAMES
        told = [row.split()[0] for row in first.stderr.splitlines() if row.startswith("[")]
        assert sorted(told) == [f"[{n}/4]" for n in (1, 2, 3, 4)]
        assert "\x1b" not in first.stdout + first.stderr
        assert starred(first.stdout)[0] == table(tmp_path / "grid")[0]
        again = invoke(*command)
        assert trained(again) == []
        assert again.stdout.split("Table:")[0] == first.stdout.split("Table:")[0]

    def test_ctrl_c_ends_with_130_and_gives_the_point_back(self, folder, tmp_path):
        store = tmp_path / "grid" / "grid.sqlite"
        arguments = (
            "--caps",
            "none,6",
            "--seeds",
            "1",
            "--out",
            tmp_path / "grid",
            *BASE,
            "--set",
            "train.epochs=100000",
        )
        command = [sys.executable, "-m", "hyperfocal", "classify", "grid", folder / "train.jsonl", *arguments]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (store.exists() and rows_of(store, "claims")):
            time.sleep(0.05)
            assert running.poll() is None, running.communicate()
        running.send_signal(signal.SIGINT)
        said, errors = running.communicate(timeout=60)
        assert running.returncode in (130, -signal.SIGINT), errors  # a shell sees 130 for both: Python remembers if an
        assert said == ""  # exec, as of an import, was cut off by it
        assert " ".join(errors.split()).endswith(f"The same command continues the grid in {tmp_path / 'grid'}.")
        assert "Traceback" not in errors
        assert rows_of(store, "claims") == rows_of(store, "results") == 0
        assert names_below(tmp_path / "grid") == ["grid.sqlite", "plan.json"]

    def test_a_search_that_is_stopped_has_a_plan_for_its_report(self, folder, tmp_path):
        out = tmp_path / "grid"
        arguments = ("--search", "optuna", "--trials", "9", "--out", out, *BASE, "--set", "train.epochs=40")
        command = [sys.executable, "-m", "hyperfocal", "classify", "grid", folder / "train.jsonl", *arguments]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        plan = {"points": []}
        while len(plan["points"]) < 2:  # the baseline is done, and the first trials are proposed
            time.sleep(0.05)
            assert running.poll() is None, running.communicate()
            plan = json.loads((out / "plan.json").read_text()) if (out / "plan.json").exists() else plan
        running.send_signal(signal.SIGINT)
        assert "Traceback" not in running.communicate(timeout=60)[1]
        assert plan["points"][0]["name"] == plan["baseline"] == "baseline"
        assert plan["unproposed"] == 5  # of nine trials, after a batch of four
        said = done("report", out, "--out", tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "Trials that the search has not proposed yet: 5. Run the same command again to continue." in page, said
        assert "So far, " in page


class TestRefusedBeforeAnyTraining:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "an empty grid. Give --caps or --gammas, or --recipe FILE with a section [grid]"),
            (("--caps", ""), "--caps: an empty grid"),
            (("--caps", "none", "--gammas", ","), "--gammas: an empty grid"),
            (
                ("--caps", "none,0.5"),
                "--caps: '0.5' is not allowed. Expected a number from 1 to 1,000,000, or none or off",
            ),
            (("--caps", "-6"), "--caps: '-6' is not allowed"),
            (("--caps", "nan"), "--caps: 'nan' is not allowed"),
            (("--gammas", "6"), "--gammas: '6' is not allowed. Expected a number from 0 to 5, or none"),
            (("--caps", "6,7,6.0"), "--caps: 6 is given twice: the same point named twice"),
            (("--gammas", "none,none"), "--gammas: none is given twice"),
            (("--gammas", "none,0"), "train the same. Leave one out"),
            ((*FOUR, "--seeds", 0), "seeds = 0 is not allowed"),
            ((*FOUR, "--baseline", "cap_6_no_focal"), "Did you mean 'cap_6.0_no_focal'?"),
            ((*FOUR, "--by", "tuned.macrof1"), "Did you mean 'tuned.macro_f1'?"),
            ((*FOUR, "--by", "tuned.labels_per_document"), "no metric that chooses a winner"),
            ((*FOUR, "--workers", 0), "--workers 0 is not allowed. Expected 1 to"),
            ((*FOUR, "--workers", count_cores() + 1), f"is not allowed. Expected 1 to {count_cores()}, the cores"),
            ((*FOUR, "--set", "loss.gama=2"), "Did you mean 'gamma'?"),
            ((*FOUR, "--test", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
            ((*FOUR, "--valid", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
            (("--recipe", "nowhere.toml"), "nowhere.toml: no such file"),
            (("--recipe", ROOT / "recipes" / "debtags.toml"), "no section [grid]"),
            (("--search", "optuna", "--trials", 0), "--trials 0 is not allowed. Expected 1 or more"),
            (("--search", "optuna", *FOUR), "Leave --caps, --gammas, --seeds and --baseline out"),
            (("--search", "optuna", "--baseline", "trial_01_bce"), "Leave --caps, --gammas, --seeds and --baseline"),
        ],
    )
    def test_nothing_is_written(self, folder, tmp_path, arguments, message):
        said = refused("classify", "grid", folder / "train.jsonl", "--out", tmp_path / "grid", *BASE, *arguments)
        assert message in said
        assert names_below(tmp_path) == []

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[grid]\n", "empty grid"),
            ("[grid]\ncaps = []\ngammas = [2]\n", "empty grid"),
            ("[grid]\ncaps = [6]\n", "caps without gammas"),
            ('[grid]\n"loss.gama" = [1]\n', "gama"),
            ('[grid]\n"data.text" = [["title"], ["body"]]\n', "data"),
            ("[grid\n", "not readable as TOML"),
        ],
    )
    def test_a_recipe_that_is_wrong(self, folder, tmp_path, text, message):
        recipe = tmp_path / "grid.toml"
        recipe.write_text(text)
        arguments = ("--recipe", recipe, "--out", tmp_path / "grid", *BASE)
        said = refused("classify", "grid", folder / "train.jsonl", *arguments)
        assert f"recipe {recipe}" in said
        assert message in said.replace(str(tmp_path), "")
        assert names_below(tmp_path) == ["grid.toml"]

    @pytest.mark.parametrize(
        ("change", "group", "message"),
        [
            ({"id": "0-7"}, (), "test: 1 of its 40 documents are in training too, first '0-7'"),
            ({"family": "7"}, ("--group", "family"), "test: 1 of its 40 groups are in training too, first '7'"),
        ],
    )
    def test_test_documents_that_were_trained_on(self, tmp_path, change, group, message):
        train = write(tmp_path / "train.jsonl", [{**row, "family": str(n)} for n, row in enumerate(rows())])
        first, *others = [{**row, "family": f"test {n}"} for n, row in enumerate(rows(40, seed=1))]
        test = write(tmp_path / "test.jsonl", [first | change, *others])
        said = refused("classify", "grid", train, "--test", test, "--out", tmp_path / "grid", *FOUR, *BASE, *group)
        assert message in said
        assert names_below(tmp_path) == ["test.jsonl", "train.jsonl"]

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ({"labels": []}, "column 'labels' has no label in any of 40 rows"),
            ({"labels": ["new"]}, "test documents: not one of 40 has a label that training has"),
            ({}, "no column 'labels', from which this run reads the labels"),
        ],
    )
    def test_test_documents_that_cannot_be_scored(self, folder, tmp_path, labels, message):
        documents = [{key: row[key] for key in ("id", "title", "body")} | labels for row in rows(40, seed=1)]
        test = write(tmp_path / "test.jsonl", documents)
        arguments = ("--test", test, "--out", tmp_path / "grid", *FOUR, *BASE)
        assert message in refused("classify", "grid", folder / "train.jsonl", *arguments)
        assert names_below(tmp_path) == ["test.jsonl"]

    def test_documents_that_are_wrong(self, folder, tmp_path):
        bad = tmp_path / "bad.jsonl"
        bad.write_text('{"id": "1", "title": "a", "body": "b", "labels": ["sport"]}\n{"id"\n')
        for files in ((bad,), (folder / "train.jsonl", "--valid", bad), (folder / "train.jsonl", "--test", bad)):
            said = refused("classify", "grid", *files, "--out", tmp_path / "grid", *FOUR, *BASE)
            assert f"{bad}: not readable" in said
            assert "line 2" in said
        assert names_below(tmp_path) == ["bad.jsonl"]


class TestARunInTheFolder:
    """A grid and a run do not mix: either is refused where the other is, and what is there stays."""

    def test_no_grid_where_a_run_is(self, folder, tmp_path):
        run = shutil.copytree(folder / "run", tmp_path / "run")
        before = names_below(run)
        said = refused("classify", "grid", folder / "train.jsonl", "--out", run, *FOUR, *BASE)
        assert f"grid {run}: holds a run of `fit` (config.toml, data.json). Choose another --out" in said
        assert names_below(run) == before

    @pytest.mark.parametrize("more", [(), ("--resume",), ("--overwrite",)])
    def test_no_run_where_a_grid_is(self, folder, mine, more):
        before = names_below(mine)
        said = refused("classify", "fit", folder / "train.jsonl", "--out", mine, *BASE, *more)
        assert "it holds other files (baseline) and no run. Choose another folder" in said
        assert names_below(mine) == before


class TestAnotherGridInTheFolder:
    def again(self, folder, out, *arguments, train="train.jsonl"):
        return refused("classify", "grid", folder / train, "--out", out, *FOUR, *BASE, *arguments)

    def test_other_settings_are_shown_and_it_is_left_alone(self, folder, mine):
        before = (mine / "grid.sqlite").read_bytes(), names_below(mine)
        said = self.again(folder, mine, "--set", "train.epochs=3")
        assert "holds a grid of other settings (there -> now): train.epochs: 2 -> 3" in said
        assert ((mine / "grid.sqlite").read_bytes(), names_below(mine)) == before

    def test_other_data_is_shown_and_it_is_left_alone(self, folder, mine):
        before = (mine / "grid.sqlite").read_bytes(), names_below(mine)
        said = self.again(folder, mine, train="test.jsonl")
        assert "holds a grid of other data (there -> now): documents: 102 -> 34" in said
        assert ((mine / "grid.sqlite").read_bytes(), names_below(mine)) == before

    @pytest.mark.parametrize("content", [b"", b"no database " * 100])
    def test_a_damaged_store_is_kept_aside(self, folder, mine, content):
        (mine / "grid.sqlite").write_bytes(content)
        said = self.again(folder, mine)
        assert "the store is damaged" in said
        assert f"It is kept as {mine / 'grid.sqlite.damaged-1'}" in said
        assert (mine / "grid.sqlite.damaged-1").read_bytes() == content

    def test_a_result_that_was_changed_is_damage(self, folder, mine):
        with closing(sqlite3.connect(mine / "grid.sqlite")) as db, db:
            db.execute("UPDATE results SET numbers = replace(numbers, '0', '1')")
        assert "does not match its checksum" in self.again(folder, mine)
        assert (mine / "grid.sqlite.damaged-1").exists()

    def test_a_database_of_another_program_is_left_alone(self, folder, tmp_path):
        with closing(sqlite3.connect(tmp_path / "grid.sqlite")) as db, db:
            db.execute("CREATE TABLE mine (x)")
        before = (tmp_path / "grid.sqlite").read_bytes()
        assert "another program" in self.again(folder, tmp_path)
        assert (tmp_path / "grid.sqlite").read_bytes() == before

    def test_out_is_a_file(self, folder, tmp_path):
        (tmp_path / "mine.txt").write_text("x")
        assert "mine.txt" in self.again(folder, tmp_path / "mine.txt")
        assert (tmp_path / "mine.txt").read_text() == "x"


class TestDemo:
    @pytest.mark.slow
    def test_it_tells_the_whole_story(self, tmp_path):
        arguments = ("--out", tmp_path / "demo", "--documents", 1_000, "--workers", 1)
        result = invoke("demo", "classify", *arguments)
        assert result.exit_code == 0, result.output
        assert len(trained(result)) == 4
        shown = result.stdout.partition("Data: ")[0]
        assert max(map(len, shown.splitlines())) <= 80
        assert "4 points, best first" in shown
        assert "Test, 150 documents" in shown
        assert starred(shown)[0] == table(tmp_path / "demo" / "grid")[0]
        done("classify", "evaluate", tmp_path / "demo" / "grid" / "winner", tmp_path / "demo" / "data" / "test.jsonl")

    @pytest.mark.parametrize("option", [("--out", "mine"), ("--seed", "1"), ("--users", "500")])
    def test_options_of_the_other_demo_are_refused(self, tmp_path, monkeypatch, option):
        monkeypatch.chdir(tmp_path)
        said = refused("demo", *option, "classify", "--documents", 999)
        assert f"demo: {option[0]} is given before `classify`, which ignores it there" in said
        assert "hyperfocal demo classify --out FOLDER" in said
        assert names_below(tmp_path) == []

    def test_it_takes_no_folder_of_somebody_else(self, tmp_path):
        (tmp_path / "mine.txt").write_text("x")
        assert "Choose another folder" in refused("demo", "classify", "--out", tmp_path, "--workers", 1)
        assert names_below(tmp_path) == ["mine.txt"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--workers", 0), "--workers 0 is not allowed"),
            (("--documents", 999), "documents is 999. Allowed: at least 1,000"),
            (("--seed", -1), "seed = -1 is not allowed"),
        ],
    )
    def test_wrong_numbers_write_no_data(self, tmp_path, arguments, message):
        result = invoke("demo", "classify", "--out", tmp_path / "demo", *arguments)
        assert result.exit_code == 2, result.output
        assert message in result.stderr
        assert not list(tmp_path.rglob("*.jsonl"))
