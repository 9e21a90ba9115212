"""`recommend grid`: what it trains, keeps and says, and what it refuses before any training."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import polars as pl
import pytest

from command_cases import done, invoke, names_below, process, refused
from hyperfocal.cli.grid import parse_axis
from hyperfocal.machine import count_cores

TINY = ("model.embedding_width=8", "model.layers=1", "train.epochs=2", "train.patience=0", "train.threads=1")
BASE = ("--history", 4, "--next", 2, *(part for text in TINY for part in ("--set", text)))
TWO = ("--encoders", "mean,markov", "--losses", "softmax", "--seeds", "1")
NAMES = ["markov", "mean softmax"]


def log(users, name):
    """Return users who go round a circle of 12 items."""
    rows = [(f"{name}{user}", f"i{(user + step + step % 2) % 12}", step) for user in range(users) for step in range(7)]
    return pl.DataFrame(rows, schema=["student", "course", "place"], orient="row")


def trained(result):
    """Return the points that were trained, from the plain lines on stderr: "[1/2] NAME seed 0: ..."."""
    return sorted(line.split("] ")[1].split(" seed ")[0] for line in result.stderr.splitlines() if " seed " in line)


def table(path):
    """Return the rows of a grid's table, best first."""
    return json.loads((path / "table.json").read_text())


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Return a folder with log.csv, and test.csv with truth.csv."""
    folder = tmp_path_factory.mktemp("logs")
    log(40, "user").write_csv(folder / "log.csv")
    tested = log(20, "test")
    tested.filter(pl.col("place") < 5).write_csv(folder / "test.csv")
    tested.filter(pl.col("place") >= 5).write_csv(folder / "truth.csv")
    return folder


@pytest.fixture(scope="module")
def grid(logs):
    """Return the folder of a grid of two points, with test scored, and what its command printed."""
    out = logs / "grid"
    arguments = ("--test", logs / "test.csv", "--test-truth", logs / "truth.csv", "--out", out, *TWO, *BASE)
    return out, invoke("recommend", "grid", logs / "log.csv", *arguments)


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
        assert "all points are compared on 4 validation users." in " ".join(shown.split())
        assert "2 points, best first by map@2" in shown
        assert "The metric that decides" not in shown  # nothing was tested on so few
        assert "Test, 20 users" in shown
        assert f"hyperfocal recommend predict {out / 'winner'} HISTORY" in " ".join(after.split())

    def test_the_table_in_files(self, grid):
        out, _ = grid
        records = table(out)
        assert sorted(row["configuration"] for row in records) == NAMES
        reached = [row["map@2"] for row in records]
        assert reached == sorted(reached, reverse=True)
        assert [row["configuration"] for row in records if row["baseline"]] == ["mean softmax"]
        assert {"map@2.change_percent", "recall@10", "tail.map@2.adjusted_p", "head.map@2", "seconds"} <= records[
            0
        ].keys()
        assert (out / "table.csv").read_text().count("\n") == 3
        text = (out / "table.md").read_text()
        assert f"| **{records[0]['configuration']}** ★ " in text
        assert " map@2 | " in text
        assert " recall@10 | head map | med. map | tail map | " in text

    def test_the_same_command_trains_nothing_and_says_the_same(self, grid, logs):
        out, first = grid
        before = {name: (out / name).stat().st_mtime_ns for name in ("winner/model.safetensors", "test.json")}
        arguments = ("--test", logs / "test.csv", "--test-truth", logs / "truth.csv", "--out", out, *TWO, *BASE)
        again = invoke("recommend", "grid", logs / "log.csv", *arguments)
        assert trained(again) == []
        assert again.stdout == first.stdout
        assert {name: (out / name).stat().st_mtime_ns for name in before} == before

    def test_winner_and_baseline_predict_as_runs_of_fit(self, grid, logs, tmp_path):
        for role in ("winner", "baseline"):
            out = tmp_path / f"{role}.csv"
            done("recommend", "predict", grid[0] / role, logs / "test.csv", "--out", out)
            assert len(pl.read_csv(out)) == 40
        metrics = json.loads(
            done(
                "recommend", "evaluate", grid[0] / "winner", logs / "test.csv", "--truth", logs / "truth.csv", "--json"
            )
        )
        assert metrics == json.loads((grid[0] / "test.json").read_text())["winner"]

    def test_a_larger_grid_trains_only_what_is_new(self, logs, mine):
        arguments = (
            "--encoders",
            "mean,markov",
            "--losses",
            "softmax,focal",
            "--axis",
            "loss.gamma=0,2.5",
            "--seeds",
            "1",
            *BASE,
        )
        result = invoke("recommend", "grid", logs / "log.csv", *arguments, "--out", mine, "--baseline", "markov")
        assert trained(result) == ["mean focal loss.gamma=0", "mean focal loss.gamma=2.5"]
        assert [row["configuration"] for row in table(mine) if row["baseline"]] == ["markov"]

    def test_test_is_looked_at_once(self, logs, mine):
        before = (mine / "test.json").read_bytes()
        arguments = ("--test", logs / "test.csv", "--out", mine, *TWO, *BASE)  # its last items in place of the truth
        result = invoke("recommend", "grid", logs / "log.csv", *arguments)
        assert result.exit_code == 2
        assert "test was scored already" in result.stderr
        assert (mine / "test.json").read_bytes() == before

    def test_a_recipe_seeds_and_a_point_that_fails(self, logs, tmp_path):
        recipe = tmp_path / "grid.toml"
        recipe.write_text(
            '[train]\nepochs = 2\nbatch_size = 16\n[grid]\nseeds = 2\nbaseline = {"model.name" = "mean"}\n'
            '"model.name" = ["mean", "transformer"]\n"model.heads" = [3]\n'
        )
        arguments = ("--recipe", recipe, "--out", tmp_path / "grid", *BASE)
        result = invoke("recommend", "grid", logs / "log.csv", *arguments)
        assert result.exit_code == 0, result.output
        assert trained(result) == ["mean"] * 2 + ["transformer model.heads=3"] * 2
        assert "Failed: transformer model.heads=3 seed 0: ConfigError: model.embedding_width" in result.stdout.replace(
            "\n", " "
        )
        assert trained(invoke("recommend", "grid", logs / "log.csv", *arguments)) == []
        again = invoke("recommend", "grid", logs / "log.csv", *arguments, "--retry")
        assert trained(again) == ["transformer model.heads=3"] * 2


class TestProcesses:
    """As a user works: with workers where there are cores, and Ctrl-C."""

    @pytest.mark.parametrize("run", [invoke, pytest.param(process, marks=pytest.mark.slow)])
    def test_workers_reach_the_same(self, grid, logs, tmp_path, forks, run):
        command = ("recommend", "grid", logs / "log.csv", *TWO, *BASE, "--out", tmp_path / "grid")
        result = run(*command, "--workers", min(2, count_cores()))
        assert trained(result) == NAMES
        mine, theirs = (
            {row["configuration"]: row["map@2"] for row in table(out)} for out in (tmp_path / "grid", grid[0])
        )
        assert mine == theirs

    def test_ctrl_c_ends_with_130_and_gives_the_point_back(self, logs, tmp_path):
        store = tmp_path / "grid" / "grid.sqlite"
        arguments = (*TWO, *BASE, "--set", "train.epochs=100000", "--out", tmp_path / "grid")
        command = [sys.executable, "-m", "hyperfocal", "recommend", "grid", logs / "log.csv", *map(str, arguments)]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not (store.exists() and rows_of(store, "claims")):
            time.sleep(0.05)
            assert running.poll() is None, running.communicate()
        running.send_signal(signal.SIGINT)
        said, errors = running.communicate(timeout=60)
        assert running.returncode in (130, -signal.SIGINT), errors
        assert said == ""
        assert " ".join(errors.split()).endswith(f"The same command continues the grid in {tmp_path / 'grid'}.")
        assert "Traceback" not in errors
        assert rows_of(store, "claims") == rows_of(store, "results") == 0


def rows_of(store, name):
    """Return how many rows a table of a store has."""
    with closing(sqlite3.connect(store, timeout=30)) as db:
        return db.execute(f"SELECT count(*) FROM {name}").fetchone()[0]


class TestRefusedBeforeAnyTraining:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                (),
                "an empty grid. Give --encoders, --losses or --axis, or --recipe FILE with a section [grid]",
            ),
            (("--encoders", ","), "model.name = [] makes an empty grid"),
            (("--encoders", "gruu"), "model.name = 'gruu' is not allowed. Expected one of transformer, gru"),
            (("--encoders", "gru,gru"), "'gru': the same point named twice"),
            (("--losses", "bce", "--axis", "loss.gamma=1,2"), "train the same. Leave one out"),
            (("--losses", "bce", "--axis", "loss.gama=1,2"), "Did you mean 'gamma'?"),
            (("--losses", "bce", "--axis", "loss.gamma"), "--axis 'loss.gamma': expected SECTION.KEY=V1,V2"),
            (("--losses", "bce", "--axis", "loss.name=focal"), "loss.name has its values already"),
            (("--axis", "data.history=2,3"), "data.history cannot vary: points are compared on the same users"),
            ((*TWO, "--seeds", 0), "seeds = 0 is not allowed"),
            ((*TWO, "--baseline", "mean"), "baseline = 'mean' is no point. Did you mean"),
            ((*TWO, "--by", "map@3"), "no metric that chooses a winner. Did you mean 'map@2'?"),
            ((*TWO, "--workers", count_cores() + 1), f"is not allowed. Expected 1 to {count_cores()}, the cores"),
            ((*TWO, "--set", "loss.gama=2"), "Did you mean 'gamma'?"),
            ((*TWO, "--test", "nowhere.csv"), "nowhere.csv: no such file"),
            ((*TWO, "--valid", "nowhere.csv"), "nowhere.csv: no such file"),
            ((*TWO, "--item", "lesson"), "lesson"),
            (("--recipe", "nowhere.toml"), "nowhere.toml: no such file"),
        ],
    )
    def test_nothing_is_written(self, logs, tmp_path, arguments, message):
        said = refused("recommend", "grid", logs / "log.csv", "--out", tmp_path / "grid", *BASE, *arguments)
        assert message in said
        assert names_below(tmp_path) == []

    def test_files_that_do_not_fit(self, logs, tmp_path):
        command = ("recommend", "grid", logs / "log.csv", "--out", tmp_path / "grid", *TWO, *BASE)
        assert "give --test too" in refused(*command, "--test-truth", logs / "truth.csv")
        assert "give --valid too" in refused(*command, "--valid-truth", logs / "truth.csv")
        assert "40 users are in training or validation too" in refused(*command, "--test", logs / "log.csv")
        assert names_below(tmp_path) == []

    def test_a_recipe_with_a_grid_and_flags(self, logs, tmp_path):
        recipe = tmp_path / "grid.toml"
        recipe.write_text('[grid]\n"model.name" = ["mean"]\n')
        said = refused("recommend", "grid", logs / "log.csv", "--recipe", recipe, "--out", tmp_path / "grid", *TWO)
        assert "holds a grid. Give it to `recommend grid`" in said

    def test_no_grid_where_a_run_is(self, grid, logs, tmp_path):
        run = shutil.copytree(grid[0] / "winner", tmp_path / "run")
        before = names_below(run)
        said = refused("recommend", "grid", logs / "log.csv", "--out", run, *TWO, *BASE)
        assert f"grid {run}: holds a run of `fit`" in said
        assert names_below(run) == before

    def test_another_grid_in_the_folder_is_left_alone(self, logs, mine):
        before = (mine / "grid.sqlite").read_bytes(), names_below(mine)
        command = ("recommend", "grid", logs / "log.csv", "--out", mine, *TWO, *BASE)
        assert "other settings (there -> now): train.epochs: 2 -> 3" in refused(*command, "--set", "train.epochs=3")
        assert "other data (there -> now): users: 36 -> 18" in refused(
            "recommend", "grid", logs / "test.csv", "--out", mine, *TWO, *BASE
        )
        assert ((mine / "grid.sqlite").read_bytes(), names_below(mine)) == before

    def test_a_damaged_store_is_kept_aside(self, logs, mine):
        (mine / "grid.sqlite").write_bytes(b"no database " * 100)
        said = refused("recommend", "grid", logs / "log.csv", "--out", mine, *TWO, *BASE)
        assert f"It is kept as {mine / 'grid.sqlite.damaged-1'}" in said


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0,2,3.5", [0, 2, 3.5]),
        ("none, 0.25", ["none", 0.25]),
        ("learned,rotary", ["learned", "rotary"]),
        ("[100, 50],[50]", [[100, 50], [50]]),
        ("", []),
    ],
)
def test_values_of_an_axis(text, values):
    assert parse_axis(text) == values
