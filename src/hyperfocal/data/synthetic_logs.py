"""Synthetic logs in the format of a programming challenge, with known truth.

A user solves 13 challenges, none twice. With probability p_series the next one is the next unsolved challenge
of the current series. Otherwise, and at the end of a series, the user jumps to challenge c with probability

    P(c) ~ popularity(c) * (FLOOR + exp(-(difficulty(c) - skill)^2 / (2 SPREAD^2))),   c unsolved
    popularity(c) ~ noise(c) * exp(-DROP * place of c in its series) / rank of the series
    skill         = skill at the start + GAIN * challenges solved

New challenges appear late, as the last of their series: only test users can solve them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.random import Generator
from numpy.typing import NDArray

from hyperfocal.errors import ConfigError

STEPS = 13  # challenges per user
KNOWN_STEPS = 10  # of these, challenges in the test log; the others are its truth
NEW_SHARE = 0.01  # of the challenges
SINGLETON_SHARE = 0.3  # of the series
MEAN_LONG_SERIES = 9  # challenges in a series of two or more
FLOOR = 0.02  # weight of a challenge whose difficulty is far from the user's skill
SPREAD = 0.8  # standard deviation of a challenge's difficulty around the skill of those who solve it
GAIN = 0.1  # skill gained per solved challenge
DROP = 0.15  # log popularity lost from one challenge of a series to the next
RISE = 0.08  # difficulty gained from one challenge of a series to the next
LEVELS = np.linspace(-2.5, 4, 14)  # skills are rounded to these for jumps
TRAIT_NOISE = 0.1  # share of challenges whose author, language or category is not that of their series
FIRST_DAY = np.datetime64("2010-01-01")
LAST_DAY = 3650  # days after the first, when all challenges except the new ones have appeared

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ChallengeData:
    """Logs, an item table and the truth behind them.

    The successor of a challenge is the next of its series, null for the last; popularity sums to 1 without new ones.
    """

    train: pl.DataFrame  # 13 rows per user: user_sequence "<user>_<place>", user_id, challenge_sequence, challenge
    test: pl.DataFrame  # 10 rows per user, columns as in `train`
    test_truth: pl.DataFrame  # 3 rows per user of `test`: user_sequence "<user>_11" to "<user>_13", challenge
    challenges: pl.DataFrame  # a row per challenge: challenge, language, series, author, category, date (ISO), all text
    planted: pl.DataFrame  # a row per row of `challenges`: challenge, successor, difficulty, popularity, new


@dataclass(frozen=True)
class _Catalogue:
    """C challenges, series after series, each in order; ids are shuffled, so that they carry no information."""

    ids: pl.Series  # (C,) text
    series: Ints  # (C,)
    place: Ints  # (C,) in the series, from 0
    popularity: Floats  # (C,)
    difficulty: Floats  # (C,) on the scale of the skill
    new: Bools  # (C,)

    @property
    def successor(self) -> Ints:
        """Return (C,) the next challenge of the series, -1 at its end."""
        following = np.arange(1, len(self.series) + 1)
        return np.where(np.append(self.place[1:], 0) > 0, following, -1)


def make_challenges(
    users: int = 3_000, challenges: int = 400, *, test_fraction: float = 0.2, p_series: float = 0.6, seed: int = 0
) -> ChallengeData:
    """Make logs, an item table and their truth; the same arguments give the same frames.

    Args:
        users: number of users of train and test together, at least 2.
        challenges: number of challenges, at least 26; some of the rarest may be in no log.
        test_fraction: share of test users, in (0, 1); train and test have at least one user each.
        p_series: probability of the next challenge of the current series while there is one, in [0, 1].
        seed: at least 0.

    Raises:
        ConfigError: an argument outside its range.

    >>> make_challenges(users=20, challenges=30).test_truth.shape
    (12, 2)
    """
    _check(users, challenges, test_fraction, p_series, seed)
    rng = np.random.default_rng(seed)
    catalogue = _make_catalogue(challenges, rng)
    tested = np.zeros(users, dtype=np.bool_)
    tested[rng.permutation(users)[: min(max(round(users * test_fraction), 1), users - 1)]] = True
    solved = _solve(catalogue, tested, p_series, rng)
    truth = _log(solved, np.flatnonzero(tested), catalogue.ids)
    known = pl.col("challenge_sequence") <= KNOWN_STEPS
    order = catalogue.ids.str.slice(1).cast(pl.Int64).arg_sort()
    return ChallengeData(
        train=_log(solved, np.flatnonzero(~tested), catalogue.ids),
        test=truth.filter(known),
        test_truth=truth.filter(~known).select("user_sequence", "challenge"),
        challenges=_describe(catalogue, rng)[order],
        planted=_planted(catalogue)[order],
    )


def write_challenges(data: ChallengeData, folder: Path) -> None:
    """Write train, test, test_truth, challenge_data and sample_submission as .csv to a folder, made if absent.

    Every row of the sample submission has the first challenge of the item table.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    answer = data.challenges["challenge"][0]
    sample = data.test_truth.with_columns(challenge=pl.lit(answer))
    frames = {"train": data.train, "test": data.test, "test_truth": data.test_truth}
    for name, frame in {**frames, "challenge_data": data.challenges, "sample_submission": sample}.items():
        frame.write_csv(folder / f"{name}.csv")


def _check(users: int, challenges: int, test_fraction: float, p_series: float, seed: int) -> None:
    # Challenges for twice the steps: with fewer, jumps would mostly draw solved challenges.
    checks = [
        ("users", users, users >= 2, "at least 2", "train and test need one user each"),
        ("challenges", challenges, challenges >= 2 * STEPS, f"at least {2 * STEPS}", f"a user solves {STEPS} of them"),
        ("test_fraction", test_fraction, 0 < test_fraction < 1, "above 0 and below 1", "0.2 is a fifth of the users"),
        ("p_series", p_series, 0 <= p_series <= 1, "0 to 1", "0.6 follows the series six times out of ten"),
        ("seed", seed, seed >= 0, "at least 0", "any such number is good"),
    ]
    for name, value, right, allowed, hint in checks:
        if not right:
            raise ConfigError(f"{name} is {value!r}. Allowed: {allowed}. Change {name}: {hint}")


def _make_catalogue(count: int, rng: Generator) -> _Catalogue:
    lengths = 1 + rng.geometric(1 / (MEAN_LONG_SERIES - 1), size=count)
    lengths[rng.random(count) < SINGLETON_SHARE] = 1
    ends = np.minimum(np.cumsum(lengths), count)
    ends = ends[: int(np.argmax(ends == count)) + 1]  # the last series is cut to fit
    series = np.searchsorted(ends, np.arange(count), side="right")
    place = np.arange(count) - np.append(0, ends)[series]
    popularity = np.exp(rng.normal(0, 0.3, count) - DROP * place) / (1 + rng.permutation(len(ends)))[series]
    difficulty = rng.normal(0.3, 0.9, len(ends))[series] + RISE * place + rng.normal(0, 0.15, count)
    new = np.zeros(count, dtype=np.bool_)
    popular = ends[np.argsort(-popularity[ends - 1])] - 1  # last challenges of the series, most popular first
    popular = popular[: (len(popular) + 1) // 2]  # an unpopular one might never be solved
    wanted = max(round(NEW_SHARE * count), 1)
    new[rng.permutation(popular)[:wanted]] = True
    ids = "C" + pl.Series(rng.permutation(count)).cast(pl.String)
    return _Catalogue(ids.alias("challenge"), series, place, popularity / popularity[~new].sum(), difficulty, new)


def _solve(catalogue: _Catalogue, tested: Bools, p_series: float, rng: Generator) -> Ints:
    """Return (U, 13) challenges in the order in which they are solved."""
    skill = rng.normal(0, 1, len(tested))
    solved = np.full((len(tested), STEPS), -1)
    distributions = _jump_distributions(catalogue)
    for step in range(STEPS):
        in_series = rng.random(len(tested)) < p_series
        chosen = np.where(in_series, _next_of_series(catalogue, solved, step, tested), -1)
        jumps = np.flatnonzero(chosen < 0)
        level = np.rint(np.interp(skill[jumps], LEVELS, np.arange(len(LEVELS)))).astype(np.int64)
        chosen[jumps] = _jump(distributions, level + len(LEVELS) * tested[jumps], solved[jumps, :step], rng)
        solved[:, step] = chosen
        skill += GAIN
    return solved


def _repeated(chosen: Ints, solved: Ints) -> Ints:
    """Return the rows whose choice is already solved."""
    return np.flatnonzero((chosen >= 0) & (solved == chosen[:, None]).any(axis=1))


def _next_of_series(catalogue: _Catalogue, solved: Ints, step: int, tested: Bools) -> Ints:
    """Return (U,) the next unsolved challenge of each user's series, -1 if there is none."""
    successor = np.append(catalogue.successor, -1)  # the successor of none, -1, is none
    chosen = successor[solved[:, step - 1]]  # at step 0 the last column, still -1
    while (again := _repeated(chosen, solved[:, :step])).size:
        chosen[again] = successor[chosen[again]]
    return np.where(catalogue.new[chosen] & ~tested, -1, chosen)


def _jump_distributions(catalogue: _Catalogue) -> Floats:
    """Return (2 * levels, C) cumulative P(c): one row per skill level of train users, then of test users.

    Row r spans [r, r + 1], so that the flattened rows ascend.
    """
    distance = (catalogue.difficulty - LEVELS[:, None]) / SPREAD
    weights = catalogue.popularity * (FLOOR + np.exp(-0.5 * distance**2))
    sums: Floats = np.concatenate([np.where(catalogue.new, 0, weights), weights]).cumsum(axis=1)
    sums /= sums[:, -1:]
    sums += np.arange(len(sums))[:, None]
    return sums


def _jump(distributions: Floats, row: Ints, solved: Ints, rng: Generator) -> Ints:
    """Draw (J,) challenges from the given (J,) rows, again while they are in `solved`, (J, step)."""
    chosen = _draw(distributions, row, rng)
    while (again := _repeated(chosen, solved)).size:
        chosen[again] = _draw(distributions, row[again], rng)
    return chosen


def _draw(distributions: Floats, row: Ints, rng: Generator) -> Ints:
    uniform = rng.random(len(row)) * (1 - 2.0**-30)  # row + uniform must not round up to the next row
    places: Ints = np.searchsorted(distributions.ravel(), row + uniform, side="right")
    places -= row * distributions.shape[1]
    return places


def _log(solved: Ints, users: Ints, ids: pl.Series) -> pl.DataFrame:
    """Return the rows of users as a frame, users ascending."""
    frame = pl.DataFrame(
        {"user_id": np.repeat(users, STEPS), "challenge_sequence": np.tile(np.arange(STEPS) + 1, len(users))}
    )
    return frame.select(
        pl.format("{}_{}", "user_id", "challenge_sequence").alias("user_sequence"),
        "user_id",
        "challenge_sequence",
        ids.gather(pl.Series(solved[users].ravel())),
    )


def _describe(catalogue: _Catalogue, rng: Generator) -> pl.DataFrame:
    count = len(catalogue.series)
    released = rng.integers(0, LAST_DAY, count)[catalogue.series] + 14 * catalogue.place
    day = np.where(catalogue.new, LAST_DAY + rng.integers(1, 31, count), np.minimum(released, LAST_DAY))
    return pl.DataFrame(
        {
            "challenge": catalogue.ids,
            "language": "L" + _traits(catalogue.series, 5, rng),
            "series": "S" + pl.Series(catalogue.series).cast(pl.String),
            "author": "A" + _traits(catalogue.series, 2 + count // 20, rng),
            "category": "K" + _traits(catalogue.series, 12, rng),
            "date": pl.Series(FIRST_DAY + day).cast(pl.Date).cast(pl.String),
        }
    )


def _traits(series: Ints, values: int, rng: Generator) -> pl.Series:
    """Draw (C,) values as text, small ones more often: one per series, except for TRAIT_NOISE of the challenges."""
    own, other = (np.floor(values * rng.random(len(series)) ** 2).astype(np.int64) for _ in range(2))
    return pl.Series(np.where(rng.random(len(series)) < TRAIT_NOISE, other, own[series])).cast(pl.String)


def _planted(catalogue: _Catalogue) -> pl.DataFrame:
    successor = pl.Series(catalogue.successor)
    return pl.DataFrame(
        {
            "challenge": catalogue.ids,
            "successor": catalogue.ids.gather(successor.replace(-1, None)),
            "difficulty": catalogue.difficulty,
            "popularity": catalogue.popularity,
            "new": catalogue.new,
        }
    )
