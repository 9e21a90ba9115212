import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from hyperfocal.config.classify import ClassifySettings, HeadSettings, TextLossSettings, TextTrainSettings
from hyperfocal.config.recipes import resolve
from hyperfocal.errors import ConfigError
from hyperfocal.grid.points import (
    Point,
    baseline_name,
    caps_and_gammas,
    expand,
    flatten,
    normalised,
    parse_values,
    read_grid_recipe,
)

BASE = ClassifySettings()
RECIPE = Path(__file__).parents[2] / "recipes" / "caps_and_gammas.toml"


def with_(**overrides: object) -> ClassifySettings:
    return resolve(ClassifySettings, overrides={key.replace("__", "."): value for key, value in overrides.items()})


def key(settings: ClassifySettings, data: str = "d", seed: int = 0) -> str:
    return Point("any", seed, settings).key(data)


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "grid.toml"
        path.write_text(text)
        return path

    return write


# Keys


def test_the_key_is_the_checksum_of_sorted_json():
    flat = flatten(msgspec.to_builtins(BASE))
    for left_out in ("seed", "train.threads", "train.checkpoint_seconds", "train.refit"):
        del flat[left_out]
    content = {"data": "d", "seed": 3, "settings": flat}
    text = json.dumps(dict(sorted(content.items())) | {"settings": dict(sorted(flat.items()))})
    assert key(BASE, seed=3) == hashlib.sha256(text.encode()).hexdigest()


def test_the_key_is_the_same_in_another_process():
    code = (
        "from hyperfocal.grid.points import *\n"
        "print(*[p.key('d') for p in caps_and_gammas(ClassifySettings(), [None, 7.0], [None, 3.0], 2)])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [p.key("d") for p in caps_and_gammas(BASE, [None, 7.0], [None, 3.0], 2)]


def test_every_setting_that_is_read_changes_the_key():
    focal = with_(loss__name="focal", loss__alpha=0.5, loss__cap=7, train__optimizer="sgd")
    changed = [
        with_(**(flatten_focal | change))
        for flatten_focal in [{"loss__name": "focal", "loss__alpha": 0.5, "loss__cap": 7, "train__optimizer": "sgd"}]
        for change in (
            {"loss__gamma": 3}, {"loss__alpha": "none"}, {"loss__weights": "balanced"}, {"loss__cap": "none"},
            {"head__width": 8}, {"train__momentum": 0.5}, {"train__epochs": 1}, {"data__text": ["a"]},
            {"decide__shrinkage": 1},
        )
    ]  # fmt: skip
    keys = {key(focal), key(focal, data="e"), key(focal, seed=1), *map(key, changed)}
    assert len(keys) == 3 + len(changed)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"train__threads": 2, "train__checkpoint_seconds": 0}),
        ({}, {"loss__gamma": 4, "loss__alpha": 0.25, "loss__weights": "balanced", "train__momentum": 0.1}),
        ({}, {"loss__name": "focal", "loss__gamma": 0}),
        ({"head__name": "linear"}, {"head__name": "linear", "head__width": 7, "head__dropout": 0.1}),
        ({"loss__name": "softmax"}, {"loss__name": "softmax", "loss__gamma": 1}),
        ({"loss__cap": 7}, {"loss__cap": 7.0}),
    ],
)
def test_equal_trainings_have_one_key(first, second):
    assert key(with_(**first)) == key(with_(**second))


def test_an_integer_in_place_of_a_float_is_the_same():
    assert key(ClassifySettings(loss=TextLossSettings(cap=7))) == key(with_(loss__cap=7.0))


def test_the_name_is_not_in_the_key():
    assert Point("a", 0, BASE).key("d") == Point("b", 0, BASE).key("d")


def test_normalised_leaves_what_is_read():
    settings = with_(loss__name="focal", loss__gamma=3, loss__cap=7, train__threads=2)
    assert normalised(settings) == settings
    assert normalised(with_(loss__gamma=3)) == BASE


# The story


def test_the_story():
    points = caps_and_gammas(BASE, [None, 6, 7], [None, 2, 2.5], seeds=1)
    assert [point.name for point in points] == [
        "no_cap_no_focal", "no_cap_focal_g2", "no_cap_focal_g2.5",
        "cap_6.0_no_focal", "cap_6.0_focal_g2", "cap_6.0_focal_g2.5",
        "cap_7.0_no_focal", "cap_7.0_focal_g2", "cap_7.0_focal_g2.5",
    ]  # fmt: skip
    assert points[0].settings == BASE
    assert points[3].settings.loss == TextLossSettings(name="bce", cap=6.0)
    assert points[8].settings.loss == TextLossSettings(name="focal", gamma=2.5, cap=7.0)


def test_the_base_is_kept_but_for_cap_and_loss():
    base = with_(loss__name="asymmetric", loss__gamma=4, loss__weights="balanced", loss__cap=3, head__width=9, seed=5)
    points = caps_and_gammas(base, [None, 7], [None, 3], seeds=2)
    assert [point.seed for point in points] == [5, 6] * 4
    assert all(point.settings.seed == point.seed for point in points)
    assert all(point.settings.head == HeadSettings(width=9) for point in points)
    assert points[0].settings.loss == TextLossSettings()  # weights are not read without a cap
    assert points[-1].settings.loss == TextLossSettings(name="focal", gamma=3, weights="balanced", cap=7)


def test_the_twelve_points_have_keys_of_their_own():
    points = caps_and_gammas(BASE, [None, 6, 7, 8], [None, 2, 3], seeds=3)
    assert len({point.key("d") for point in points}) == len(points) == 36


def test_gamma_0_trains_as_no_focal():
    with pytest.raises(ConfigError, match="grid: 'no_cap_no_focal' and 'no_cap_focal_g0' train the same"):
        caps_and_gammas(BASE, [None], [None, 0], 1)
    assert len(caps_and_gammas(with_(loss__alpha=0.25), [None], [None, 0], 1)) == 2  # alpha weighs, bce does not


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("none,6,7,8", "caps", [None, 6, 7, 8]),
        (" none , 1 ", "caps", [None, 1]),
        ("0,5,2.5", "gammas", [0, 5, 2.5]),
        ("1e1,", "caps", [10]),
    ],
)
def test_values_of_a_flag(text, kind, values):
    assert parse_values(text, kind) == values


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("none,0.5", "caps", "--caps: '0.5' is not allowed. Expected a number from 1, or none"),
        ("-7", "caps", "--caps: '-7' is not allowed"),
        ("inf", "caps", "--caps: 'inf' is not allowed"),
        ("nan", "gammas", "--gammas: 'nan' is not allowed. Expected a number from 0 to 5, or none"),
        ("6", "gammas", "--gammas: '6' is not allowed"),
        ("-1", "gammas", "--gammas: '-1' is not allowed"),
        ("two", "gammas", "--gammas: 'two' is not allowed"),
        ("", "caps", "--caps: an empty grid. Give at least one value, as --caps none,3"),
        (" , ", "gammas", "--gammas: an empty grid"),
        ("6,7,6.0", "caps", "--caps: 6 stands there twice: the same point named twice"),
        ("none,none", "gammas", "--gammas: none stands there twice"),
    ],
)
def test_values_that_are_refused(text, kind, message):
    with pytest.raises(ConfigError) as caught:
        parse_values(text, kind)
    assert message in str(caught.value)


# Any grid


def test_every_combination_in_order():
    points = expand(BASE, {"loss.name": ["focal"], "loss.gamma": [2, 3.5], "head.width": [256, 512]}, seeds=2)
    assert [point.name for point in points[::2]] == [
        f"loss.name=focal loss.gamma={gamma} head.width={width}"
        for gamma, width in itertools.product(("2", "3.5"), (256, 512))
    ]
    assert points[-1].settings == with_(loss__name="focal", loss__gamma=3.5, head__width=512, seed=1)


def test_the_story_beside_another_axis():
    points = expand(BASE, {"head.width": [8], "gammas": ["none", 3], "caps": [7]}, seeds=1)
    assert [point.name for point in points] == ["cap_7.0_no_focal head.width=8", "cap_7.0_focal_g3 head.width=8"]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "grid: an empty grid. Give caps and gammas, or a setting and its values"),
        ({"head.width": []}, "grid: head.width = [] makes an empty grid"),
        ({"head.width": 8}, "grid: head.width = 8 is no list. Expected its values, as [8]"),
        ({"loss.gama": [1]}, "grid: unknown key 'loss.gama'. Did you mean 'gamma'?"),
        ({"lss.gamma": [1]}, "grid: unknown key 'lss'. Did you mean 'loss'?"),
        ({"capps": [1]}, "grid: unknown key 'capps'. Did you mean 'caps'? Allowed: caps, gammas, seeds, baseline, and"),
        ({"loss": [1]}, "grid: unknown key 'loss'."),
        ({"head.width": [8, 0]}, "grid: head.width = 0 is not allowed. Expected int >= 1"),
        ({"head.width": [8, None]}, "grid: head.width = None is no value"),
        ({"loss.name": ["focl"]}, "grid: loss.name = 'focl' is not allowed. Expected one of bce, focal"),
        ({"head.width": [8, 8]}, "grid: 'head.width=8': the same point named twice"),
        ({"head.dropout": [0, 0.0]}, "grid: 'head.dropout=0': the same point named twice"),
        ({"loss.gamma": [1, 2]}, "grid: 'loss.gamma=1' and 'loss.gamma=2' train the same"),  # bce reads no gamma
        ({"train.threads": [1, 2]}, "'train.threads=1' and 'train.threads=2' train the same"),
        ({"data.valid_fraction": [0.1, 0.2]}, "data.valid_fraction cannot vary: points are compared on the same doc"),
        ({"seed": [1, 2]}, "grid: seed cannot vary"),
        ({"caps": [7]}, 'grid: caps without gammas. Give gammas too; gammas = ["none"] is without'),
        ({"caps": [7], "gammas": [2], "loss.gamma": [1]}, "grid: gammas and loss.gamma set the same. Leave one out"),
        ({"caps": [0.5], "gammas": [2]}, "grid: caps: 0.5 is not allowed. Expected a number from 1, or none"),
        ({"caps": [True], "gammas": [2]}, "grid: caps: True is not allowed"),
        ({"caps": [7, 7.0], "gammas": [2]}, "grid: caps: 7 stands there twice"),
    ],
)
def test_a_grid_that_is_refused(axes, message):
    with pytest.raises(ConfigError) as caught:
        expand(BASE, axes, seeds=1)
    assert message in str(caught.value)


@pytest.mark.parametrize("seeds", [0, -1, True, 1.0, "3", 10**6])
def test_seeds_that_are_refused(seeds):
    with pytest.raises(ConfigError, match=r"grid: seeds = .* is not allowed\. Expected an integer from 1 to 1,000"):
        expand(BASE, {"head.width": [8]}, seeds)


# The baseline

STORY = caps_and_gammas(BASE, [None, 7], [None, 3], seeds=2)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        (None, "no_cap_no_focal"),
        ("cap_7.0_no_focal", "cap_7.0_no_focal"),
        ({"loss.cap": 7, "loss.name": "bce"}, "cap_7.0_no_focal"),
    ],
)
def test_the_baseline(wanted, name):
    assert baseline_name(STORY, wanted) == name


def test_the_first_point_is_the_baseline_of_another_grid():
    assert baseline_name(expand(BASE, {"head.width": [8, 9]}, 1)) == "head.width=8"


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            "cap_7_no_focal",
            "baseline = 'cap_7_no_focal' is no point. Did you mean 'cap_7.0_no_focal'? There are no_cap",
        ),
        (7, "baseline = 7 is no point"),
        ({"loss.cap": 7}, "fits cap_7.0_no_focal, cap_7.0_focal_g3. Expected values that one point has"),
        ({"loss.cap": 9}, "fits no point. There are no_cap_no_focal,"),
    ],
)
def test_a_baseline_that_is_refused(wanted, message):
    with pytest.raises(ConfigError) as caught:
        baseline_name(STORY, wanted)
    assert message in str(caught.value)


# Recipes


def test_the_recipe_of_the_story():
    base, axes, seeds, baseline = read_grid_recipe(RECIPE)
    assert (base, seeds, baseline) == (BASE, 1, "no_cap_no_focal")
    names = [point.name for point in expand(base, axes, seeds)]
    assert len(names) == 12
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
        ("[grid]\nhead.width = 8", "[grid]: head.width = 8 is no list"),
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
