import functools
import tomllib
import typing
from operator import attrgetter
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.config import recipes
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import differences, parse_override, to_toml
from hyperfocal.config.recommend import (
    MODEL_NAMES,
    DataSettings,
    LossSettings,
    ModelSettings,
    RankingTrainSettings,
    RecommendSettings,
)
from hyperfocal.errors import ConfigError

resolve = functools.partial(recipes.resolve, RecommendSettings)
from_toml = functools.partial(recipes.from_toml, RecommendSettings)
RECIPES = Path(__file__).parents[2] / "recipes"
SECTIONS = {"data": DataSettings, "model": ModelSettings, "loss": LossSettings, "train": RankingTrainSettings}


@pytest.fixture
def recipe(tmp_path):
    """Write a recipe and return its path."""

    def write(text: str | bytes):
        path = tmp_path / "recipe.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


class TestResolve:
    def test_nothing_gives_the_defaults(self):
        assert resolve() == RecommendSettings()

    def test_an_empty_recipe_gives_the_defaults(self, recipe):
        assert resolve(recipe("")) == RecommendSettings()

    def test_a_recipe_changes_only_what_it_names(self, recipe):
        settings = resolve(recipe('seed = 7\n[loss]\nname = "bce"\n'))
        assert settings == RecommendSettings(seed=7, loss=LossSettings(name="bce"))

    def test_an_override_wins_over_the_recipe(self, recipe):
        settings = resolve(recipe("[train]\nepochs = 5\npatience = 2\n"), {"train.epochs": 9, "data.next": 1})
        assert (settings.train.epochs, settings.train.patience, settings.data.next) == (9, 2, 1)

    def test_an_override_of_none_is_left_out(self):
        assert resolve(overrides={"train.epochs": None}) == RecommendSettings()

    def test_overrides_are_not_changed(self):
        overrides = {"train.epochs": 9, "seed": 1}
        resolve(overrides=overrides)
        assert overrides == {"train.epochs": 9, "seed": 1}

    @pytest.mark.parametrize("alpha", [0, 0.25, 1, "none"])
    def test_alpha_is_a_number_or_none(self, alpha):
        assert resolve(overrides={"loss.alpha": alpha}).loss.alpha == alpha

    @pytest.mark.parametrize("metric", ["map@3", "recall@10", "ndcg@100", "hit@1", "mrr@20"])
    def test_metric_is_a_name_and_a_cutoff(self, metric):
        assert resolve(overrides={"train.metric": metric}).train.metric == metric


def test_numbers_of_numpy_are_settings():
    values = {"data.history": np.int64(2), "loss.gamma": np.float64(2.5), "seed": np.int32(3)}
    resolved = recipes.resolve(RecommendSettings, overrides=values)
    assert (resolved.data.history, resolved.loss.gamma, resolved.seed) == (2, 2.5, 3)
    assert type(resolved.loss.gamma) is float


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.blend", np.bool_(True), True),
        ("data.history", np.array(2), 2),
        ("data.history", torch.tensor(2), 2),
        ("data.user", np.str_("who"), "who"),
        ("data.user", Path("who"), "who"),
        ("items.boost", np.float32(0.5), 0.5),
        ("items.boost", np.int64(1), 1.0),
        ("loss.cap", np.float64(7), 7.0),
        ("model.hidden_widths", np.array([8, 4]), (8, 4)),
        ("model.hidden_widths", pd.Series([8, 4]), (8, 4)),
        ("items.features", pd.Index(["a", "b"]), ("a", "b")),
        ("items.features", (np.str_("a"), Path("b")), ("a", "b")),
        ("train", {"epochs": np.int64(8)}, RankingTrainSettings(epochs=8)),
    ],
    ids=repr,
)
def test_values_of_other_libraries_are_settings(key, value, expected):
    resolved = resolve(overrides={key: value})
    assert attrgetter(key)(resolved) == expected
    assert from_toml(to_toml(resolved), "here") == resolved


class TestErrors:
    @pytest.mark.parametrize("value", [{"a", "b"}, frozenset("ab")])
    def test_a_set_has_no_order(self, value):
        with pytest.raises(ConfigError, match=r"items\.features = .* is a set, which has no order\. Give a list"):
            resolve(overrides={"items.features": value})

    def test_a_key_that_is_no_text(self):
        with pytest.raises(ConfigError, match="settings: key 3 is not text"):
            resolve(overrides={3: 3})

    @pytest.mark.parametrize("value", [3, {"train.epochs": 5}, ["recipe.toml"]])
    def test_a_recipe_that_is_no_path(self, value):
        with pytest.raises(
            ConfigError, match=r"recipe = .* is not a path\. Give settings of your own with `settings=`"
        ):
            resolve(value)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            (
                "sed",
                1,
                "settings: unknown key 'sed'. Did you mean 'seed'? Allowed: seed, data, model, items, loss, train",
            ),
            ("trian.epochs", 1, "unknown key 'trian'. Did you mean 'train'?"),
            (
                "loss.gama",
                1,
                "unknown key 'loss.gama'. Did you mean 'gamma'? Allowed: name, gamma, alpha, weights, cap, tau, ",
            ),
            ("train.zzz", 1, "unknown key 'train.zzz'. Allowed: optimizer, "),
        ],
    )
    def test_unknown_key(self, key, value, message):
        with pytest.raises(ConfigError) as caught:
            resolve(overrides={key: value})
        assert message in str(caught.value)

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("train.epochs", "5", "Expected int, got str"),
            ("train.epochs", 5.5, "Expected int, got float"),
            ("train.epochs", True, "Expected int, got bool"),
            ("train.epochs", pd.NA, "Expected int, got NAType"),
            ("train.epochs", 5.0, "Expected int, got float"),
            ("train.epochs", [5], "Expected int, got list"),
            ("train.learning_rate", "fast", "Expected float, got str"),
            ("model.hidden_widths", 100, "Expected list, got int"),
            ("data.user", 3, "Expected str, got int"),
            ("train", 5, "Expected object, got int"),
        ],
    )
    def test_wrong_type(self, key, value, expected):
        with pytest.raises(ConfigError) as caught:
            resolve(overrides={key: value})
        assert str(caught.value) == f"settings: {key} = {value!r} is not allowed. {expected}"

    @pytest.mark.parametrize(
        ("key", "value", "expected"),
        [
            ("seed", -1, "Expected int >= 0"),
            ("data.history", 0, "Expected int >= 1"),
            ("data.next", 0, "Expected int >= 1"),
            ("data.valid_fraction", 0.0, "Expected float > 0.0"),
            ("data.valid_fraction", 1.0, "Expected float < 1.0"),
            ("model.embedding_width", 0, "Expected int >= 1"),
            ("model.dropout", 1.0, "Expected float < 1.0"),
            ("loss.gamma", -0.1, "Expected float >= 0.0"),
            ("loss.gamma", 5.1, "Expected float <= 5.0"),
            ("loss.gamma", float("nan"), "Expected float >= 0.0"),
            ("loss.alpha", 1.1, "Expected a number from 0 to 1, or none"),
            ("loss.prior", 0.0, "Expected float > 0.0"),
            ("loss.prior", 1.0, "Expected float < 1.0"),
            ("train.learning_rate", 0.0, "Expected float > 0.0"),
            ("train.momentum", 1.0, "Expected float < 1.0"),
            ("train.weight_decay", -1.0, "Expected float >= 0.0"),
            ("train.batch_size", 0, "Expected int >= 1"),
            ("train.epochs", 0, "Expected int >= 1"),
            ("train.warmup_steps", -1, "Expected int >= 0"),
            ("train.clip_norm", -1.0, "Expected float >= 0.0"),
            ("train.patience", -1, "Expected int >= 0"),
            ("train.checkpoint_seconds", -1.0, "Expected float >= 0.0"),
            ("train.threads", -1, "Expected int >= 0"),
        ],
    )
    def test_out_of_range(self, key, value, expected):
        with pytest.raises(ConfigError) as caught:
            resolve(overrides={key: value})
        assert str(caught.value) == f"settings: {key} = {value!r} is not allowed. {expected}"

    def test_a_wrong_width_names_its_place(self):
        with pytest.raises(ConfigError, match=r"model\.hidden_widths\[.*\] = \[100, 0\] is not allowed.*int >= 1"):
            resolve(overrides={"model.hidden_widths": [100, 0]})

    @pytest.mark.parametrize(
        ("key", "value", "allowed"),
        [
            (
                "model.name",
                "markv",
                "one of transformer, gru, mean, concat_mlp, popularity, cooccurrence, markov, decayed_markov, "
                "item_knn, ease, user_knn",
            ),
            ("loss.name", "focl", "one of focal, bce, asymmetric, softmax"),
            ("loss.reduction", "all", "one of positives, batch, mean, sum"),
            ("loss.alpha", "half", "a number from 0 to 1, or none"),
            ("train.optimizer", "lion", "one of sgd, adam, adamw"),
            ("train.schedule", "step", "one of constant, cosine"),
        ],
    )
    def test_a_wrong_word_is_answered_with_the_right_ones(self, key, value, allowed):
        with pytest.raises(ConfigError) as caught:
            resolve(overrides={key: value})
        assert str(caught.value).startswith(f"settings: {key} = {value!r} is not allowed. Expected {allowed}")

    @pytest.mark.parametrize("value", [0.5, 2e6, "six", True, [7]])
    def test_a_wrong_cap_is_answered_with_all_that_is_allowed(self, value):
        with pytest.raises(ConfigError) as caught:
            recipes.resolve(ClassifySettings, overrides={"loss.cap": value})
        allowed = "a number from 1 to 1,000,000, none, or off"
        assert str(caught.value) == f"settings: loss.cap = {value!r} is not allowed. Expected {allowed}"

    @pytest.mark.parametrize("metric", ["map", "map@0", "map@03", "auc@3", "map@3 ", "xmap@3", ""])
    def test_a_wrong_metric(self, metric):
        with pytest.raises(ConfigError, match=r"train\.metric = .* is not allowed. Expected str matching regex"):
            resolve(overrides={"train.metric": metric})

    def test_an_override_below_a_value(self, recipe):
        with pytest.raises(ConfigError, match=r"'train\.epochs\.x': 'epochs' is a value, not a section"):
            resolve(recipe("[train]\nepochs = 5\n"), {"train.epochs.x": 1})

    def test_no_such_file(self, tmp_path):
        path = tmp_path / "nowhere.toml"
        with pytest.raises(ConfigError) as caught:
            resolve(path)
        assert str(caught.value) == f"recipe {path}: no such file"

    @pytest.mark.parametrize("text", ["seed = ", "[train", "seed = 1\nseed = 2", b"seed = '\xff'"])
    def test_unreadable_toml(self, recipe, text):
        path = recipe(text)
        with pytest.raises(ConfigError) as caught:
            resolve(path)
        assert str(caught.value).startswith(f"recipe {path}: not readable as TOML: ")

    def test_a_folder_is_not_a_recipe(self, tmp_path):
        with pytest.raises(ConfigError, match="not readable as TOML"):
            resolve(tmp_path)

    def test_an_error_in_a_recipe_names_the_file(self, recipe):
        path = recipe("[train]\nepochs = 0\n")
        with pytest.raises(ConfigError) as caught:
            resolve(path)
        assert str(caught.value) == f"recipe {path}: train.epochs = 0 is not allowed. Expected int >= 1"


class TestOverride:
    @pytest.mark.parametrize(
        ("text", "key", "value"),
        [
            ("train.epochs=5", "train.epochs", 5),
            ("loss.gamma=2.5", "loss.gamma", 2.5),
            (" seed = 3 ", "seed", 3),
            ("model.hidden_widths=[64, 32]", "model.hidden_widths", [64, 32]),
            ("model.name=markov", "model.name", "markov"),
            ('model.name="markov"', "model.name", "markov"),
            ("train.metric=map@3", "train.metric", "map@3"),
            ("data.user=a=b", "data.user", "a=b"),
            ("data.user=", "data.user", ""),
            ("data.user=true", "data.user", True),
        ],
    )
    def test_reads_the_value_as_toml_else_as_text(self, text, key, value):
        assert parse_override(text) == (key, value)

    @pytest.mark.parametrize("text", ["train.epochs", "=5", "  =5", ""])
    def test_without_key_or_sign(self, text):
        with pytest.raises(ConfigError) as caught:
            parse_override(text)
        assert str(caught.value) == f"--set {text!r}: expected SECTION.KEY=VALUE, for example train.epochs=5"


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
data_settings = st.builds(
    DataSettings,
    user=text,
    item=text,
    history=st.integers(1, 10**6),
    valid_fraction=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
model_settings = st.builds(
    ModelSettings,
    name=st.sampled_from(MODEL_NAMES),
    hidden_widths=st.lists(st.integers(1, 512), max_size=4).map(tuple),
    dropout=st.floats(0, 1, exclude_max=True),
)
loss_settings = st.builds(LossSettings, gamma=st.floats(0, 5), alpha=st.floats(0, 1) | st.just("none"))
train_settings = st.builds(RankingTrainSettings, learning_rate=st.floats(1e-300, 1e300), metric=st.just("recall@20"))
all_settings = st.builds(
    RecommendSettings,
    seed=st.integers(0, 2**31 - 1),
    data=data_settings,
    model=model_settings,
    loss=loss_settings,
    train=train_settings,
)


class TestToml:
    def test_defaults_come_back(self):
        assert from_toml(to_toml(RecommendSettings()), "run") == RecommendSettings()

    @settings(deadline=None, max_examples=60)
    @given(all_settings)
    def test_any_settings_come_back(self, written):
        assert from_toml(to_toml(written), "run") == written

    def test_resolve_reads_it_too(self, recipe):
        written = RecommendSettings(seed=3, model=ModelSettings(hidden_widths=(8,)), loss=LossSettings(alpha="none"))
        assert resolve(recipe(to_toml(written))) == written

    def test_every_setting_is_written(self):
        written = to_toml(RecommendSettings())
        for section, kind in SECTIONS.items():
            part = written.partition(f"[{section}]")[2].partition("\n[")[0]
            assert all(f"\n{field} = " in part for field in kind.__struct_fields__)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("seed = ", "run/config.toml: Invalid value"),
            ("sed = 1", "run/config.toml: unknown key 'sed'. Did you mean 'seed'?"),
            ("[loss]\ngama = 1", "run/config.toml: unknown key 'loss.gama'. Did you mean 'gamma'?"),
            ("[train]\nepochs = 0", "run/config.toml: Expected `int` >= 1 - at `$.train.epochs`"),
        ],
    )
    def test_errors_name_the_file(self, text, message):
        with pytest.raises(ConfigError) as caught:
            from_toml(text, "run/config.toml")
        assert str(caught.value).startswith(message)


class TestDifferences:
    def test_none(self):
        assert differences(RecommendSettings(), RecommendSettings()) == []

    def test_a_line_for_each(self):
        new = resolve(overrides={"seed": 1, "train.epochs": 6, "loss.alpha": "none"})
        assert differences(RecommendSettings(), new) == [
            "seed: 0 -> 1",
            "loss.alpha: 0.25 -> none",
            "train.epochs: 20 -> 6",
        ]


class TestSettings:
    @pytest.mark.parametrize("kind", [RecommendSettings, *SECTIONS.values()])
    def test_cannot_be_changed(self, kind):
        section = kind()
        with pytest.raises(AttributeError, match="immutable"):
            setattr(section, kind.__struct_fields__[0], 1)

    def test_hold_nothing_that_can_be_changed(self):
        assert hash(RecommendSettings()) == hash(RecommendSettings())

    def test_model_names_are_those_of_the_setting(self):
        (name,) = (field.type for field in msgspec.structs.fields(ModelSettings) if field.name == "name")
        assert typing.get_args(name) == MODEL_NAMES


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_of_a_job(path, tmp_path):
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    grid = values.pop("grid", {})  # tests/grid reads it
    texts = {"features", "head"} & values.keys() or "caps" in grid or "scaling" in values.get("data", {})
    job = ClassifySettings if texts else RecommendSettings
    (tmp_path / "base.toml").write_bytes(tomli_w.dumps(values).encode())
    assert isinstance(recipes.resolve(job, tmp_path / "base.toml"), job)
