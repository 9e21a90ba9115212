"""The run folder before training: whose settings count, and whose folder it is."""

import json

import pandas as pd
import pytest

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recommend import RecommendSettings
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.storage.run_folder import CONFIG, DATA, RunFolder
from hyperfocal.training.run import begin_run, read_settings, resolve_settings


@pytest.fixture
def begun(tmp_path):
    run = RunFolder(tmp_path / "run")
    settings = resolve_settings(ClassifySettings, None, {"train.epochs": 5}, None)
    with run.writing():
        begin_run(run, settings, "abc", facts={}, resume=False)
        yield run


class TestSettings:
    def test_what_is_written_is_what_is_read(self, begun):
        assert read_settings(ClassifySettings, begun).train.epochs == 5

    def test_a_run_of_the_other_job_is_refused_by_name(self, begun):
        with pytest.raises(RunError, match=r"is one of `classify`, not of `recommend`. Use `hyperfocal classify`"):
            read_settings(RecommendSettings, begun)

    def test_a_run_that_names_no_job_is_one_of_recommend(self, begun):
        begun.write_json(DATA, {"fingerprint": "abc"})
        with pytest.raises(RunError, match="is one of `recommend`, not of `classify`"):
            read_settings(ClassifySettings, begun)

    def test_settings_that_are_cut_off(self, begun):
        begun.write_text(CONFIG, begun.read_text(CONFIG)[:100])
        with pytest.raises(ConfigError, match=r"config\.toml"):
            read_settings(ClassifySettings, begun)

    def test_resuming_keeps_those_of_the_run(self, begun):
        assert resolve_settings(ClassifySettings, None, {"train.epochs": None}, begun).train.epochs == 5
        assert resolve_settings(ClassifySettings, None, {"train.epochs": 5}, begun).train.epochs == 5

    def test_resuming_with_others_shows_the_difference(self, begun):
        with pytest.raises(ConfigError, match=r"train\.epochs: 5 -> 6\).*`overwrite=True`"):
            resolve_settings(ClassifySettings, None, {"train.epochs": 6}, begun)

    def test_settings_win_over_parameters(self):
        asked = {"train.epochs": 6, "seed": 2}
        settings = resolve_settings(ClassifySettings, None, asked, None, {"train.epochs": 7})
        assert (settings.train.epochs, settings.seed) == (7, 2)
        assert asked == {"train.epochs": 6, "seed": 2}

    @pytest.mark.parametrize("settings", [[("seed", 1)], "seed=1", pd.Series({"seed": 1}), 0], ids=repr)
    def test_settings_that_are_no_dictionary(self, settings):
        with pytest.raises(ConfigError, match=r"settings: a \w+ is not allowed\. Expected a dictionary of dotted keys"):
            resolve_settings(ClassifySettings, None, {}, None, settings)

    def test_a_recipe_given_again_counts_whole(self, begun, tmp_path):
        recipe = tmp_path / "recipe.toml"
        recipe.write_text("[train]\nepochs = 5\n")
        assert resolve_settings(ClassifySettings, recipe, {}, begun).train.epochs == 5
        recipe.write_text("seed = 3\n")
        with pytest.raises(ConfigError, match=r"seed: 0 -> 3; train\.epochs: 5 -> 8"):
            resolve_settings(ClassifySettings, recipe, {}, begun)


class TestBeginning:
    def test_the_folder_says_which_job_and_data(self, begun):
        assert json.loads((begun.path / DATA).read_text()) == {"job": "classify", "fingerprint": "abc"}

    def test_a_new_run_removes_the_old_one(self, begun):
        begun.write_text("metrics.json", "{}")
        begin_run(begun, ClassifySettings(seed=1), "def", facts={}, resume=False)
        assert not begun.has("metrics.json")
        assert read_settings(ClassifySettings, begun).seed == 1

    def test_a_resumed_run_is_of_the_same_data_and_stays(self, begun):
        before = (begun.path / CONFIG).read_bytes()
        begin_run(begun, ClassifySettings(), "abc", facts={}, resume=True)
        assert (begun.path / CONFIG).read_bytes() == before
        with pytest.raises(RunError, match=r"was trained on other data.*`overwrite=True`"):
            begin_run(begun, ClassifySettings(), "def", facts={}, resume=True)
