"""The published recipes run as commands on the published data, for one epoch: all they name is there, and it learns."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperfocal.cli import main

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
COURSES = DATA / "mooccubex"
RECIPES = {  # recipe -> arguments, and what one epoch reaches at least: some two thirds of what it did reach
    "mooccubex_challenge": (["train.csv.gz"], "map@3", 0.012),
    "mooccubex": (
        [
            "interactions_train.csv.gz",
            *("--valid", "interactions_valid_history.csv.gz", "--valid-truth", "valid_truth.csv.gz"),
        ],
        "map@3",
        0.05,
    ),
    "beauty": (["sequences.txt.gz"], "ndcg@10", 0.006),
}
FOLDERS = {"mooccubex_challenge": COURSES / "challenge_format", "mooccubex": COURSES, "beauty": DATA / "beauty"}


@pytest.mark.slow
@pytest.mark.skipif(not COURSES.is_dir(), reason="the data of the README's results is not beside the project")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_for_next_items(name, tmp_path):
    files, metric, least = RECIPES[name]
    arguments = [part if part.startswith("--") else str(FOLDERS[name] / part) for part in files]
    recipe = ROOT / "recipes" / f"{name}.toml"
    run = tmp_path / "run"
    arguments += ["--recipe", str(recipe), "--out", str(run), "--minutes", "0.01"]  # ends after an epoch
    result = CliRunner().invoke(main, ["recommend", "fit", *arguments])
    assert result.exit_code == 0, result.output
    epochs = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert len(epochs) == 1
    assert epochs[0][metric] > least
    assert json.loads((run / "metrics.json").read_text())["model"] == "blend"
