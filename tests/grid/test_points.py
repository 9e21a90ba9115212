import hashlib
import json
import subprocess
import sys

import msgspec
import pytest

from hyperfocal.config.classify import ClassifySettings, TextLossSettings
from hyperfocal.config.recipes import flatten, resolve
from hyperfocal.errors import ConfigError
from hyperfocal.grid.axes import expand
from hyperfocal.grid.points import Point, baseline_name, normalised

BASE = ClassifySettings()


def with_(**overrides: object) -> ClassifySettings:
    return resolve(ClassifySettings, overrides={key.replace("__", "."): value for key, value in overrides.items()})


def key(settings: ClassifySettings, data: str = "d", seed: int = 0) -> str:
    return Point("any", seed, settings).key(data)


# Keys


TRAIN = ("train.threads", "train.checkpoint_seconds", "train.refit", "train.baselines")
IN_FINGERPRINT = ("data.fields", "data.vectors", "data.scaling")


def test_the_key_is_the_checksum_of_sorted_json():
    flat = flatten(msgspec.to_builtins(BASE))
    for left_out in ("seed", "data.stream", *TRAIN, *IN_FINGERPRINT):
        del flat[left_out]
    content = {"data": "d", "seed": 3, "settings": flat}
    text = json.dumps(dict(sorted(content.items())) | {"settings": dict(sorted(flat.items()))})
    assert key(BASE, seed=3) == hashlib.sha256(text.encode()).hexdigest()


def test_the_key_is_the_same_in_another_process():
    code = (
        "from hyperfocal.config.classify import ClassifySettings\n"
        "from hyperfocal.grid.axes import expand\n"
        "print(*[p.key('d') for p in expand(ClassifySettings(), {'caps': [None, 7.0], 'gammas': [None, 3.0]}, 2)])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [p.key("d") for p in expand(BASE, {"caps": [None, 7.0], "gammas": [None, 3.0]}, 2)]


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


# The baseline

STORY = expand(BASE, {"caps": [None, 7], "gammas": [None, 3]}, seeds=2)


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
