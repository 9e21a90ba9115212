from pathlib import Path

import pytest

from hyperfocal.config.classify import ClassifySettings, TextTrainSettings
from hyperfocal.errors import ConfigError
from hyperfocal.grid.axes import expand, read_grid_recipe
from hyperfocal.grid.points import baseline_name

BASE = ClassifySettings()
RECIPE = Path(__file__).parents[2] / "recipes" / "caps_and_gammas.toml"


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


def test_the_recipe_of_the_story():
    base, axes, seeds, baseline = read_grid_recipe(RECIPE)
    assert (base, seeds, baseline) == (BASE, 3, "no_cap_no_focal")
    names = [point.name for point in expand(base, axes, seeds)]
    assert (len(names), len(set(names))) == (36, 12)
    assert {"cap_7.0_focal_g3", "cap_6.0_no_focal", "no_cap_focal_g2", "no_cap_no_focal"} <= set(names)


def test_a_recipe_of_any_settings(recipe):
    path = recipe(
        'seed = 4\n[train]\nepochs = 3\n[features]\n[grid]\nseeds = 2\n"head.width" = [8, 9]\n'
        'loss.name = ["bce", "asymmetric"]\nbaseline = {head.width = 9, "loss.name" = "bce"}\n'
    )
    base, axes, seeds, baseline = read_grid_recipe(path, {"train.epochs": 5})
    assert base == ClassifySettings(seed=4, train=TextTrainSettings(epochs=5))
    assert (axes, seeds) == ({"head.width": [8, 9], "loss.name": ["bce", "asymmetric"]}, 2)
    assert baseline_name(expand(base, axes, seeds), baseline) == "head.width=9 loss.name=bce"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no section [grid]"),
        ("grid = 3", "no section [grid]"),
        ("[grid]", "[grid]: an empty grid"),
        ("[grid]\nseeds = 3", "[grid]: an empty grid"),
        ("[grid]\nseeds = 0\ncaps = [7]\ngammas = [2]", "[grid]: seeds = 0 is not allowed"),
        ("[grid]\nloss.gama = [2]", "[grid]: unknown key 'loss.gama'. Did you mean 'gamma'?"),
        ("[grid]\nsedes = [2]", "[grid]: unknown key 'sedes'. Did you mean 'seeds'?"),
        ("[grid]\nhead.width = 8", "[grid]: head.width = 8 is not a list"),
        ("[grid]\nhead.width = [8]\nbaseline = 'x'", "[grid]: baseline = 'x' is no point"),
        ("[grid]\nhead.width = [8]\n[trian]", ": unknown key 'trian'. Did you mean 'train'?"),
        ("[train]\nepochs = 0\n[grid]\nhead.width = [8]", ": train.epochs = 0 is not allowed"),
        ("[grid", "not readable as TOML"),
    ],
)
def test_a_recipe_that_is_refused(recipe, text, message):
    path = recipe(text)
    with pytest.raises(ConfigError) as caught:
        read_grid_recipe(path)
    assert str(caught.value).startswith(f"recipe {path}")
    assert message in str(caught.value)


def test_a_recipe_that_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_grid_recipe(tmp_path / "none.toml")
