"""Item features end to end: a network that reads them ranks items that nobody has touched."""

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from click.testing import CliRunner

from hyperfocal.cli.recommend import recommend
from hyperfocal.data.logs import Log
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.recommend.item_features import new_features
from hyperfocal.recommend.recommender import Recommender

GROUPS, MEMBERS = 4, 8
SETTINGS = {
    "train.epochs": 25,
    "train.patience": 0,
    "train.threads": 1,
    "train.batch_size": 32,
    "train.learning_rate": 0.02,
    "model.embedding_width": 16,
    "model.decay": 0.3,
    "loss.name": "softmax",
    "loss.reduction": "batch",
    "items.drop": 0.3,
}


def item(group, member):
    return f"i{group}.{member}"


@pytest.fixture(scope="module")
def log():
    """Users who stay in one group of items."""
    draw = torch.Generator().manual_seed(0)
    orders = [torch.randperm(MEMBERS, generator=draw)[:5].tolist() for _ in range(120)]
    return pl.DataFrame(
        [
            (f"u{user}", item(user % GROUPS, member), place)
            for user, order in enumerate(orders)
            for place, member in enumerate(order)
        ],
        schema=["user", "item", "position"],
        orient="row",
    )


@pytest.fixture(scope="module")
def table():
    """The items of the log, and one more in each group."""
    rows = [(item(group, member), f"G{group}", "x") for group in range(GROUPS) for member in range(MEMBERS + 1)]
    return pl.DataFrame(rows, schema=["item", "group", "same"], orient="row")


@pytest.fixture(scope="module")
def fitted(log, table, tmp_path_factory):
    run = tmp_path_factory.mktemp("items") / "run"
    recommender = Recommender(model="mean", history=4, next_items=1, settings=SETTINGS)
    return recommender.fit(log, items=table, out=run), run


@pytest.mark.parametrize("group", range(GROUPS))
def test_a_new_item_is_ranked_with_its_group(fitted, table, group):
    wider = fitted[0].with_new_items(table)
    ranked = wider.recommend([[item(group, 0), item(group, 1)]], k=MEMBERS - 1)[0]
    assert item(group, MEMBERS) in ranked
    assert len({name.split(".")[0] for name in ranked}) == 1


def test_seen_items_score_as_before(fitted, table, log):
    before = fitted[0].predict(log, k=3).frame
    after = fitted[0].with_new_items(table).predict(log, k=MEMBERS).frame
    assert after.filter(pl.col("item").str.ends_with(f".{MEMBERS}")).height  # new ones are among them
    joined = before.join(after, on=["user", "item"])
    torch.testing.assert_close(joined["score"].to_torch(), joined["score_right"].to_torch())


def test_what_the_table_gave_is_counted(fitted):
    assert fitted[0].metrics_["data"]["item_table"] == {
        "names": ["group", "same"],
        "columns": {"group": "category"},
        "constant": ["same"],
        "duplicates": 0,
        "without_row": 0,
        "without_log": GROUPS,
    }


def test_a_loaded_run_knows_new_items_too(fitted, table, log):
    ours, theirs = (each.with_new_items(table).predict(log).frame for each in (fitted[0], Recommender.load(fitted[1])))
    assert ours.equals(theirs)


def test_a_new_item_in_a_history_is_read(fitted, table):
    ranked = fitted[0].with_new_items(table).recommend([[item(2, MEMBERS)]], k=3)[0]
    assert {name.split(".")[0] for name in ranked} == {"i2"}


def test_metrics_are_split_into_seen_and_new(fitted, table):
    histories = Log.from_lists([[item(group, 0), item(group, 1)] for group in range(GROUPS)])
    members = [MEMBERS, 2, MEMBERS, 3]
    truth = Log.from_lists([[item(group, member)] for group, member in enumerate(members)])
    found = fitted[0].with_new_items(table).evaluate(histories, truth, k=MEMBERS)
    scores = found["scores"]["mean"]
    assert scores["new"][f"recall@{MEMBERS}"]["mean"] == 1
    assert scores["seen"][f"recall@{MEMBERS}"]["mean"] == 1
    assert found["scores"]["markov"]["new"][f"recall@{MEMBERS}"]["mean"] < 1
    assert "new" not in fitted[0].evaluate(histories, truth)["scores"]["mean"]
    assert found["data"]["unseen_true_items"] == 0


def test_the_commands(fitted, table, log, tmp_path):
    log.write_csv(tmp_path / "log.csv")
    table.write_csv(tmp_path / "items.csv")
    run, predictions = str(tmp_path / "run"), tmp_path / "p.csv"
    options = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    options += ["--model", "mean", "--history", "4", "--next", "1", "--item-features", "group:list"]
    command = ["fit", str(tmp_path / "log.csv"), "--out", run, "--items", str(tmp_path / "items.csv"), *options]
    result = CliRunner().invoke(recommend, command, catch_exceptions=False)
    assert "The network reads these columns of each item: group (list)." in result.output
    more = ["--new-items", str(tmp_path / "items.csv"), "--k", "8"]
    CliRunner().invoke(
        recommend, ["predict", run, str(tmp_path / "log.csv"), "--out", str(predictions), *more], catch_exceptions=False
    )
    assert pl.read_csv(predictions)["item"].str.ends_with(f".{MEMBERS}").any()
    result = CliRunner().invoke(recommend, ["evaluate", run, str(tmp_path / "log.csv"), *more], catch_exceptions=False)
    assert "seen, new: map@8 of the true items that were in training" in result.output


def test_before_training_new_items_stand_no_higher_than_seen_ones(log, table):
    """Every bias starts at the prior, that of an item without a vector of its own too."""
    settings = SETTINGS | {"train.epochs": 1, "train.learning_rate": 1e-9}
    found = Recommender(model="mean", history=4, next_items=1, settings=settings).fit(log, items=table)
    biases = found.with_new_items(table).model_.bias
    torch.testing.assert_close(biases, torch.full_like(biases, -4.595), atol=0.2, rtol=0)


class TestWhatIsRefused:
    @pytest.mark.parametrize("call", [lambda r, log: r.update(log), lambda r, _: r.save("x")], ids=["update", "save"])
    def test_what_is_for_the_fitted_one(self, fitted, table, log, call):
        with pytest.raises(RunError, match="Call it on the recommender that was fitted"):
            call(fitted[0].with_new_items(table), log)

    def test_a_run_without_features(self, log, table):
        recommender = Recommender(model="markov", history=2, next_items=1).fit(log)
        with pytest.raises(
            ConfigError, match=r"this run was fitted without features\. Fit again with the table of the items"
        ):
            recommender.with_new_items(table)

    def test_a_model_that_reads_none(self, log, table):
        with pytest.raises(ConfigError, match=r"concat_mlp reads no features\. Models that do: transformer, gru"):
            Recommender(model="concat_mlp", history=2, next_items=1, settings={"items.features": ["group"]}).fit(
                log, items=table
            )

    def test_new_items_of_which_nothing_is_known(self, fitted, table):
        empty = table.with_columns(group=pl.when(pl.col("item") == item(1, MEMBERS)).then(None).otherwise("group"))
        with pytest.raises(DataError, match=rf"of 1 new items nothing is known in group.*: {item(1, MEMBERS)}\. Fill"):
            fitted[0].with_new_items(empty)

    def test_none_is_new(self, fitted, table):
        with pytest.raises(DataError, match="all 32 items were in training: none is new"):
            fitted[0].with_new_items(table.filter(~pl.col("item").str.ends_with(f".{MEMBERS}")))

    def test_damaged_features(self, fitted, tmp_path):
        fitted[0].save(tmp_path / "run")
        (tmp_path / "run/items.json").write_text("[1]")
        with pytest.raises(RunError, match=r"items\.json is damaged"):
            Recommender.load(tmp_path / "run")

    def test_columns_without_a_table(self, tmp_path):
        result = CliRunner().invoke(recommend, ["fit", "x.csv", "--out", str(tmp_path), "--item-features", "a"])
        assert result.exit_code == 2
        assert "Give --items too" in result.stderr


def test_a_boost_is_added_to_new_items_alone(fitted, table):
    boosted, plain = (fitted[0].with_new_items(table, boost=boost) for boost in (np.float64(2), None))
    histories = plain.vocabulary_.encode_lists([[item(0, 1)], [item(3, 2), item(1, 1)]])
    raised = boosted.ranker_.scorer()(histories) - plain.ranker_.scorer()(histories)
    expected = torch.zeros(len(plain.vocabulary_))
    expected[-GROUPS:] = 2.0
    torch.testing.assert_close(raised, expected.expand_as(raised), atol=1e-5, rtol=0)


@pytest.mark.parametrize("boost", [np.nan, float("inf"), "much", pd.NA, [1, 2]])
def test_a_boost_that_is_no_number(fitted, table, boost):
    with pytest.raises(ConfigError, match=r"`boost=`: .* is not allowed\. Expected a finite number"):
        fitted[0].with_new_items(table, boost=boost)


@pytest.fixture(scope="module")
def titled(log, tmp_path_factory):
    """Titles read by the frozen sentence encoder that a package carries."""
    pytest.importorskip("sentence_transformers")
    subjects = ["linear algebra", "ancient history", "cooking pasta", "machine learning"]
    rows = [(item(group, member), subjects[group]) for group in range(GROUPS) for member in range(MEMBERS)]
    table = pl.DataFrame(rows, schema=["item", "title"], orient="row")
    run = tmp_path_factory.mktemp("titled") / "run"
    settings = SETTINGS | {"items.features": ["title:encoder"]}
    return Recommender(model="mean", history=4, next_items=1, settings=settings).fit(log, items=table, out=run), run


class TestEncodedText:
    def test_a_new_title_is_placed_by_its_meaning(self, titled):
        """Nobody took these courses, and no word of their titles was seen."""
        new = pl.DataFrame({"item": ["maths", "food"], "title": ["matrices and vectors", "recipes with noodles"]})
        wider = Recommender.load(titled[1]).with_new_items(new)
        for group, close, far in ((0, "maths", "food"), (2, "food", "maths")):
            (ranked,) = wider.recommend([[item(group, 1), item(group, 2)]], k=GROUPS * MEMBERS)
            assert ranked.index(close) < (ranked.index(far) if far in ranked else len(ranked))

    def test_another_encoder_is_refused(self, titled):
        other = [msgspec.structs.replace(column, checksum="0") for column in titled[0].columns_]
        with pytest.raises(RunError, match="is not the one that the run was trained with"):
            new_features(other, pl.DataFrame({"item": ["z"], "title": ["z"]}), titled[0].vocabulary_, "item")
