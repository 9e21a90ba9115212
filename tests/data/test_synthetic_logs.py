import datetime as dt
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hyperfocal.data.synthetic_logs import FLOOR, SPREAD, ChallengeData, make_challenges, write_challenges
from hyperfocal.errors import ConfigError

LOG_SCHEMA = {
    "user_sequence": pl.String,
    "user_id": pl.Int64,
    "challenge_sequence": pl.Int64,
    "challenge": pl.String,
}


@pytest.fixture(scope="module")
def data() -> ChallengeData:
    return make_challenges()  # 3,000 users, 400 challenges


def events(data: ChallengeData) -> pl.DataFrame:
    """Every event of every user as user, place, challenge and tested, in order."""
    columns = ("user_sequence", "challenge")
    parts = [data.train.select(columns), data.test.select(columns), data.test_truth]
    rows = pl.concat([part.with_columns(tested=pl.lit(number > 0)) for number, part in enumerate(parts)])
    user, place = rows["user_sequence"].str.split_exact("_", 1).struct.unnest().get_columns()
    return rows.select("challenge", "tested", user=user.cast(pl.Int64), place=place.cast(pl.Int64)).sort(
        "user", "place"
    )


def in_order_share(data: ChallengeData) -> float:
    """The share of successors solved next, where the user has not solved them yet and may."""
    new = set(data.planted.filter("new")["challenge"])
    successor = dict(data.planted.select("challenge", "successor").iter_rows())
    hits = []
    for challenges, tested in events(data).group_by("user").agg("challenge", pl.first("tested"))[:, 1:].iter_rows():
        for place, (challenge, following) in enumerate(pairwise(challenges)):
            wanted = successor[challenge]
            if wanted is not None and wanted not in challenges[:place] and (tested or wanted not in new):
                hits.append(following == wanted)
    return float(np.mean(hits))


def mean_difficulty(data: ChallengeData) -> pl.Series:
    """The mean difficulty of the challenges solved at each of the 13 places."""
    rows = events(data).join(data.planted, on="challenge")
    return rows.group_by("place").agg(pl.mean("difficulty")).sort("place")["difficulty"]


def assert_same(one: ChallengeData, other: ChallengeData) -> None:
    for name in ("train", "test", "test_truth", "challenges", "planted"):
        assert getattr(one, name).equals(getattr(other, name)), name


# Format


def test_columns_and_types(data: ChallengeData) -> None:
    assert dict(data.train.schema) == LOG_SCHEMA
    assert dict(data.test.schema) == LOG_SCHEMA
    assert dict(data.test_truth.schema) == {"user_sequence": pl.String, "challenge": pl.String}
    names = ["challenge", "language", "series", "author", "category", "date"]
    assert dict(data.challenges.schema) == dict.fromkeys(names, pl.String)
    assert not any(frame.null_count().sum_horizontal()[0] for frame in (data.train, data.test, data.challenges))


def test_rows_of_each_user(data: ChallengeData) -> None:
    tested = data.test["user_id"].unique()
    assert len(tested) == 3_000 * 0.2
    assert data.train.group_by("user_id").len()["len"].to_list() == [13] * 2_400
    assert data.test.group_by("user_id").len()["len"].to_list() == [10] * 600
    assert set(tested).isdisjoint(data.train["user_id"])
    assert data.test_truth["user_sequence"].to_list() == [f"{u}_{n}" for u in tested.sort() for n in (11, 12, 13)]


def test_user_sequence_joins_user_and_place(data: ChallengeData) -> None:
    for frame, last in ((data.train, 13), (data.test, 10)):
        users = frame["user_id"].unique().sort()
        assert frame["user_sequence"].to_list() == [f"{u}_{n}" for u in users for n in range(1, last + 1)]


def test_item_table_has_each_challenge_once(data: ChallengeData) -> None:
    assert data.challenges["challenge"].to_list() == [f"C{number}" for number in range(400)]
    assert data.planted["challenge"].equals(data.challenges["challenge"])
    assert all(dt.date.fromisoformat(day).isoformat() == day for day in data.challenges["date"])


def test_files_read_back_as_the_frames(data: ChallengeData, tmp_path: Path) -> None:
    write_challenges(data, tmp_path / "new" / "folder")
    frames = {"train": data.train, "test": data.test, "test_truth": data.test_truth, "challenge_data": data.challenges}
    for name, frame in frames.items():
        assert pl.read_csv(tmp_path / "new" / "folder" / f"{name}.csv").equals(frame), name
    sample = pl.read_csv(tmp_path / "new" / "folder" / "sample_submission.csv")
    assert sample["user_sequence"].equals(data.test_truth["user_sequence"])
    assert set(sample["challenge"]) == {"C0"}


# Determinism


def test_same_seed_same_frames(data: ChallengeData) -> None:
    assert_same(data, make_challenges())


def test_other_seed_other_frames(data: ChallengeData) -> None:
    assert not data.train["challenge"].equals(make_challenges(seed=1).train["challenge"])


# Planted truth


@pytest.mark.parametrize("p_series", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("challenges", [26, 400])
def test_no_challenge_twice(challenges: int, p_series: float) -> None:
    rows = events(make_challenges(500, challenges, p_series=p_series))
    assert len(rows) == 500 * 13
    assert rows.select("user", "challenge").n_unique() == len(rows)


@pytest.mark.parametrize("seed", range(3))
def test_a_tenth_of_the_challenges_holds_most_events(seed: int) -> None:
    counts = events(make_challenges(seed=seed))["challenge"].value_counts()["count"].sort(descending=True)
    assert counts[:40].sum() / counts.sum() > 0.4


@pytest.mark.parametrize("p_series", [0.3, 0.6])
def test_series_are_solved_in_order_as_often_as_planted(p_series: float) -> None:
    luck = in_order_share(make_challenges(p_series=0))
    share = in_order_share(make_challenges(p_series=p_series))
    assert luck < 0.1
    assert share == pytest.approx(p_series + (1 - p_series) * luck, abs=0.03)


def test_always_in_order() -> None:
    assert in_order_share(make_challenges(p_series=1)) == 1


def test_first_challenge_follows_popularity_and_match() -> None:
    data = make_challenges(40_000, 40, test_fraction=0.01)
    skill, old = np.linspace(-5, 5, 1_001)[:, None], data.planted.filter(~pl.col("new"))
    distance = (old["difficulty"].to_numpy() - skill) / SPREAD
    weight = old["popularity"].to_numpy() * (FLOOR + np.exp(-(distance**2) / 2))  # (skills, challenges)
    density = np.exp(-(skill**2) / 2) / np.exp(-(skill**2) / 2).sum()
    expected = (density * weight / weight.sum(axis=1, keepdims=True)).sum(axis=0)
    first = data.train.filter(pl.col("challenge_sequence") == 1)["challenge"]
    share = old.join(first.value_counts(), on="challenge", how="left", maintain_order="left")["count"].to_numpy() / len(
        first
    )
    np.testing.assert_allclose(share, expected, atol=0.005)  # 4 standard errors of a share of 0.07


@pytest.mark.parametrize("seed", range(3))
def test_difficulty_rises_with_the_place(seed: int) -> None:
    means = mean_difficulty(make_challenges(seed=seed))
    assert means[12] > means[6] + 0.15 > means[0] + 0.3


@pytest.mark.parametrize("seed", range(3))
def test_skill_alone_raises_the_difficulty(seed: int) -> None:
    means = mean_difficulty(make_challenges(p_series=0, seed=seed))
    assert means[12] > means[6] + 0.1 > means[0] + 0.2


def test_new_challenges_are_met_in_the_test_part_only(data: ChallengeData) -> None:
    new = set(data.planted.filter("new")["challenge"])
    assert len(new) == 400 * 0.01
    assert new.isdisjoint(data.train["challenge"])
    assert new <= set(data.test["challenge"]) | set(data.test_truth["challenge"])
    dates = data.challenges.select("date", new=data.planted["new"])
    assert dates.filter("new")["date"].min() > dates.filter(~pl.col("new"))["date"].max()  # type: ignore[operator]


def test_successors_share_the_series_and_mostly_its_traits(data: ChallengeData) -> None:
    pairs = data.challenges.join(data.planted.drop_nulls(), on="challenge")
    pairs = pairs.join(data.challenges, left_on="successor", right_on="challenge", suffix="_next")
    assert (pairs["series"] == pairs["series_next"]).all()
    assert (pairs["date"] <= pairs["date_next"]).all()
    for trait in ("language", "author", "category"):
        assert 0.75 < (pairs[trait] == pairs[f"{trait}_next"]).mean() < 1  # both keep it: 0.9 * 0.9, plus luck


def test_each_series_is_one_chain_and_some_are_single(data: ChallengeData) -> None:
    sizes = data.challenges.group_by("series").len()["len"]
    assert data.planted["successor"].drop_nulls().n_unique() == 400 - len(sizes)
    assert (sizes == 1).any()
    assert sizes.max() > 10  # type: ignore[operator]


# Edges and errors


def test_smallest_set_has_a_user_in_each_part() -> None:
    data = make_challenges(2, 26, test_fraction=0.01)
    assert (data.train.height, data.test.height, data.test_truth.height) == (13, 10, 3)


@pytest.mark.parametrize(
    ("argument", "value", "allowed"),
    [
        ("users", 1, "at least 2"),
        ("challenges", 25, "at least 26"),
        ("test_fraction", 0.0, "above 0 and below 1"),
        ("test_fraction", 1.0, "above 0 and below 1"),
        ("test_fraction", float("nan"), "above 0 and below 1"),
        ("p_series", 1.5, "0 to 1"),
        ("seed", -1, "at least 0"),
    ],
)
def test_bad_argument(argument: str, value: float, allowed: str) -> None:
    with pytest.raises(
        ConfigError, match=re.escape(f"{argument} is {value!r}. Allowed: {allowed}. Change {argument}: ")
    ):
        make_challenges(**{argument: value})  # type: ignore[arg-type]


@pytest.mark.slow
def test_true_scale() -> None:
    data = make_challenges(69_532, 5_606)
    rows = events(data)
    assert (len(rows), len(data.challenges)) == (69_532 * 13, 5_606)
    assert rows.select("user", "challenge").n_unique() == len(rows)
    assert data.planted["new"].sum() == 56
