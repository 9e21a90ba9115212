import itertools

import pytest

from hyperfocal.config.classify import ClassifySettings, HeadSettings, TextLossSettings
from hyperfocal.config.recipes import resolve
from hyperfocal.errors import ConfigError
from hyperfocal.grid.axes import expand, parse_values

BASE = ClassifySettings()


def with_(**overrides: object) -> ClassifySettings:
    return resolve(ClassifySettings, overrides={key.replace("__", "."): value for key, value in overrides.items()})


# The story


def test_the_story():
    points = expand(BASE, {"caps": [None, 6, 7], "gammas": [None, 2, 2.5]}, seeds=1)
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
    points = expand(base, {"caps": [None, 7], "gammas": [None, 3]}, seeds=2)
    assert [point.seed for point in points] == [5, 6] * 4
    assert all(point.settings.seed == point.seed for point in points)
    assert all(point.settings.head == HeadSettings(width=9) for point in points)
    assert points[0].settings.loss == TextLossSettings()  # weights are not read without a cap
    assert points[-1].settings.loss == TextLossSettings(name="focal", gamma=3, weights="balanced", cap=7)


def test_the_twelve_points_have_keys_of_their_own():
    points = expand(BASE, {"caps": [None, 6, 7, 8], "gammas": [None, 2, 3]}, seeds=3)
    assert len({point.key("d") for point in points}) == len(points) == 36


def test_gamma_0_trains_as_no_focal():
    with pytest.raises(ConfigError, match="grid: 'no_cap_no_focal' and 'no_cap_focal_g0' train the same"):
        expand(BASE, {"caps": [None], "gammas": [None, 0]}, 1)
    assert (
        len(expand(with_(loss__alpha=0.25), {"caps": [None], "gammas": [None, 0]}, 1)) == 2
    )  # alpha weighs, bce does not


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("none,6,7,8", "caps", [None, 6, 7, 8]),
        (" none , 1 ", "caps", [None, 1]),
        ("0,5,2.5", "gammas", [0, 5, 2.5]),
        ("1e1,", "caps", [10]),
        ("off,6,1e6", "caps", [None, 6, 1e6]),
    ],
)
def test_values_of_a_flag(text, kind, values):
    assert parse_values(text, kind) == values


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("none,0.5", "caps", "--caps: '0.5' is not allowed. Expected a number from 1 to 1,000,000, or none or off"),
        ("-7", "caps", "--caps: '-7' is not allowed"),
        ("inf", "caps", "--caps: 'inf' is not allowed"),
        ("1000001", "caps", "--caps: '1000001' is not allowed. Expected a number from 1 to 1,000,000, or none or off"),
        ("none,off", "caps", "--caps: none is given twice"),
        ("off", "gammas", "--gammas: 'off' is not allowed. Expected a number from 0 to 5, or none"),
        ("nan", "gammas", "--gammas: 'nan' is not allowed. Expected a number from 0 to 5, or none"),
        ("6", "gammas", "--gammas: '6' is not allowed"),
        ("-1", "gammas", "--gammas: '-1' is not allowed"),
        ("two", "gammas", "--gammas: 'two' is not allowed"),
        ("", "caps", "--caps: an empty grid. Give at least one value, such as --caps none,3"),
        (" , ", "gammas", "--gammas: an empty grid"),
        ("6,7,6.0", "caps", "--caps: 6 is given twice: the same point named twice"),
        ("none,none", "gammas", "--gammas: none is given twice"),
    ],
)
def test_values_that_are_refused(text, kind, message):
    with pytest.raises(ConfigError) as caught:
        parse_values(text, kind)
    assert message in str(caught.value)


def test_off_has_the_names_and_settings_of_none():
    off, none = (
        expand(BASE, {"caps": parse_values(f"{word},7", "caps"), "gammas": [3]}, 1) for word in ("off", "none")
    )
    assert [point.name for point in off] == ["no_cap_focal_g3", "cap_7.0_focal_g3"]
    assert off == none
    assert off[0].settings.loss.cap == "off"
    assert expand(BASE, {"caps": ["off"], "gammas": [3]}, 1) == none[:1]


def test_weights_without_a_cap_have_an_axis_of_their_own():
    found = expand(BASE, {"loss.cap": ["off", "none"]}, 1)
    assert [(point.name, point.settings.loss.cap) for point in found] == [
        ("loss.cap=off", "off"),
        ("loss.cap=none", "none"),
    ]


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


def test_an_axis_that_a_point_does_not_read_is_left_out_where_another_reads_it():
    points = expand(BASE, {"loss.name": ["bce", "focal"], "loss.gamma": [2, 3]}, seeds=1)
    assert [point.name for point in points] == [
        "loss.name=bce",
        "loss.name=focal loss.gamma=2",
        "loss.name=focal loss.gamma=3",
    ]
    assert points[0].settings == BASE


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "grid: an empty grid. Give caps and gammas, or a setting and its values"),
        ({"head.width": []}, "grid: head.width = [] makes an empty grid"),
        ({"head.width": 8}, "grid: head.width = 8 is not a list. Expected its values, as in [8]"),
        ({"loss.gama": [1]}, "grid: unknown key 'loss.gama'. Did you mean 'gamma'?"),
        ({"lss.gamma": [1]}, "grid: unknown key 'lss'. Did you mean 'loss'?"),
        ({"capps": [1]}, "grid: unknown key 'capps'. Did you mean 'caps'? Allowed: caps, gammas, seeds, baseline, and"),
        ({"loss": [1]}, "grid: unknown key 'loss'."),
        ({"head.width": [8, 0]}, "grid: head.width = 0 is not allowed. Expected int >= 1"),
        ({"head.width": [8, None]}, "grid: head.width = None is not a value"),
        ({"loss.name": ["focl"]}, "grid: loss.name = 'focl' is not allowed. Expected one of bce, focal"),
        ({"head.width": [8, 8]}, "grid: 'head.width=8': the same point named twice"),
        ({"head.dropout": [0, 0.0]}, "grid: 'head.dropout=0': the same point named twice"),
        ({"loss.gamma": [1, 2]}, "grid: 'loss.gamma=1' and 'loss.gamma=2' train the same"),  # bce reads no gamma
        ({"train.threads": [1, 2]}, "'train.threads=1' and 'train.threads=2' train the same"),
        ({"data.valid_fraction": [0.1, 0.2]}, "data.valid_fraction cannot vary: points are compared on the same doc"),
        ({"seed": [1, 2]}, "grid: seed cannot vary"),
        ({"train.folds": [0, 5]}, "train.folds cannot vary: points are compared on the same documents"),
        ({"caps": [7]}, 'grid: caps without gammas. Give gammas too; gammas = ["none"] is without'),
        ({"caps": [7], "gammas": [2], "loss.gamma": [1]}, "grid: gammas and loss.gamma set the same. Leave one out"),
        (
            {"caps": [0.5], "gammas": [2]},
            "grid: caps: 0.5 is not allowed. Expected a number from 1 to 1,000,000, or none or off",
        ),
        ({"caps": [True], "gammas": [2]}, "grid: caps: True is not allowed"),
        ({"caps": [7, 7.0], "gammas": [2]}, "grid: caps: 7 is given twice"),
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
