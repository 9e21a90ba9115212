"""Simulate grids with known truths, and count how often their verdicts are wrong.

    python benchmarks/verdict_calibration.py [--grids 1000] [--only rankings] [--seed 0]

Each cell draws grids of points that differ by a known amount, passes them through the product's functions (resamples,
cross-fitted thresholds, `verdicts`) and prints one row per number of seeds:

    coverage    share of 95% intervals of the primary metric that hold the true difference. With several seeds: of the
                settings. With one seed: of these trainings.
    any word    share of grids in which some point has a word of a difference. Without a gain it is false, except about
                single trainings that differ because of the seed sd.
    better      share of grids in which such a word is about settings, not only about these trainings
    p < .05     share of points with p below .05 in the primary metric, before any correction
    micro       the same share for micro-F1 with tuned thresholds
    higher      share of points with a significant gain in the primary metric. With a true gain it is the power.

A seed sd of 0.2 moves the mean of a ranking metric by 0.04 from training to training, where a user's value has the sd
0.34, and the separation of labels by 0.2 of the sd of their scores' noise. A gain moves the same quantities.

The rows of one cell share their data, so they can be compared more exactly than their standard errors say: with 1,000
grids of one point .007 near .05, and for a coverage of .95. A grid of one point and five seeds takes about 10 ms for
rankings and 250 to 400 ms for labels on one core, the full run an hour or more.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hyperfocal.classify.acceptance import Judged
from hyperfocal.classify.scores import cross_fitted, draw_halves, score_labels
from hyperfocal.config.classify import DecisionSettings
from hyperfocal.labels import SparseLabels
from hyperfocal.metrics.differences import LEVEL, Difference, Outcome
from hyperfocal.metrics.intervals import resampled_means, too_few
from hyperfocal.metrics.resampling import resample_weights
from hyperfocal.metrics.verdict import BASELINE, LABELS, NOTHING, rankings, verdicts
from hyperfocal.thresholds import Decisions

RANKINGS, BLOCK = rankings(3), 25  # grids whose users are drawn together
USER, INTERACTION, TRAINING = 0.6, 0.1, 1.0  # variances of a user's value over USER_SD^2; the first is common to points
USER_SD, TAIL = 0.26, 3  # of a user's value; one user in three has a true item in the tail
NUM_LABELS, PER_DOCUMENT, TRAINING_DOCUMENTS, SEPARATION = 20, 3, 300, 2.0
COMMON, OF_POINT, OF_TRAINING = 0.6, 0.2, 0.2  # variances of a score's noise; SEPARATION is in its sd
SEEDS = (1, 2, 3, 5)
CELL = ("job", "units", "gain", "seed sd", "points")
COLUMNS = (*CELL, "seeds", "grids", "coverage", "any word", "better", "p < .05", "micro", "higher")


@dataclass(frozen=True)
class Cell:
    """Grids that are drawn alike."""

    job: str  # rankings or labels
    units: int  # users or documents
    seed_sd: float = 0.0  # of the effect of a training, as a share of SEED_UNIT
    points: int = 1  # besides the baseline
    seeds: tuple[int, ...] = SEEDS
    gain: float = 0.0  # true difference of every point from the baseline: of the mean, or of the separation
    hit_rate: float = 0.0  # above 0: a user's value is 1 at this rate, else 0
    cost: int = 1  # one grid in `cost` is drawn

    def title(self) -> str:
        """Return the first columns of a row."""
        rare = f" ({self.hit_rate:.0%} hits)" if self.hit_rate else ""
        return f"{self.job} | {self.units:,}{rare} | {self.gain:g} | {self.seed_sd:g} | {self.points}"


SEED_UNIT = {"rankings": 0.2, "labels": 1.0}  # in a user's value; in the sd of a score's noise
ROWS = [
    *[Cell("rankings", users, sd) for users in (20, 50, 200, 1_000) for sd in (0.0, 0.2)],
    *[Cell("rankings", 200, sd, hit_rate=0.02) for sd in (0.0, 0.2)],
    *[Cell("rankings", 50, sd, gain=0.08) for sd in (0.0, 0.2)],
    *[Cell("rankings", 200, sd, gain=0.08) for sd in (0.0, 0.2)],
    *[Cell("rankings", 50, sd, points, (1, 3), cost=4) for points in (5, 11) for sd in (0.0, 0.2)],
    *[Cell("labels", documents, sd, cost=3) for documents in (100, 400) for sd in (0.0, 0.2)],
    *[Cell("labels", 100, 0.0, 5, (1, 3), cost=8), Cell("labels", 100, 0.0, 11, (1,), cost=8)],
]


class Training(NamedTuple):
    """One training of a point."""

    outcome: Outcome
    effect: float  # what its value is expected to rise with: its true mean, or its separation


Grid = list[list[Training]]  # point -> its trainings; the first point is the baseline


class Compared(NamedTuple):
    """The verdict on one point of a grid."""

    primary: Difference
    micro: float  # p of micro-F1; nan for rankings
    words: str
    effect: float  # true difference of these trainings, in units of `Training.effect`


def main() -> None:
    """Print one row per cell and number of seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grids", type=int, default=1_000, help="of a cheap cell; others have a third to an eighth")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--only", default="", help="cells whose row begins with this text, such as 'rankings | 50 |'")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for cell in ROWS:
        if f"{cell.title()} |".startswith(options.only):
            for seeds, grids in simulate(cell, max(1, options.grids // cell.cost), options.seed).items():
                numbers = " | ".join(
                    "" if math.isnan(share) else f"{share:.3f}" for share in shares(grids, cell, seeds)
                )
                print(f"| {cell.title()} | {seeds} | {len(grids):,} | {numbers} |", flush=True)


def simulate(cell: Cell, grids: int, seed: int) -> dict[int, list[list[Compared]]]:
    """Return number of seeds -> the comparisons of each grid."""
    generator = torch.Generator().manual_seed(seed)
    draw = draw_rankings if cell.job == "rankings" else draw_labels
    rows: dict[int, list[list[Compared]]] = {count: [] for count in cell.seeds}
    for grid in draw(cell, grids, generator):
        for count, row in rows.items():
            row.append(compare([each[:count] for each in grid], cell))
    return rows


def compare(grid: Grid, cell: Cell) -> list[Compared]:
    """Return what the product says about each point of a grid, except the baseline."""
    families = RANKINGS if cell.job == "rankings" else LABELS
    points = {str(number): [training.outcome for training in each] for number, each in enumerate(grid)}
    said = verdicts(points, "0", families, units=cell.units)
    effects = [sum(training.effect for training in each) / len(each) for each in grid]
    return [
        Compared(
            verdict.differences[families.primary],
            verdict.differences["tuned.micro_f1"].p if cell.job == "labels" else math.nan,
            verdict.words,
            effects[int(name)] - effects[0],
        )
        for name, verdict in said.items()
        if verdict.words != BASELINE
    ]


def shares(grids: Sequence[Sequence[Compared]], cell: Cell, seeds: int) -> list[float]:
    """Return the columns from coverage on.

    The true difference of a metric is proportional to that of the effects. Least squares gives the factor.
    """
    every = [compared for grid in grids for compared in grid]
    means = torch.tensor([each.primary.mean for each in every])
    effects = torch.tensor([each.effect for each in every])
    factor = float(means @ effects / (effects @ effects).clamp(min=1e-12))
    truths = factor * (effects if seeds == 1 else torch.full_like(effects, cell.gain))
    held = [each.primary.low <= truth <= each.primary.high for each, truth in zip(every, truths.tolist(), strict=True)]
    micro = share([each.micro < LEVEL for each in every]) if cell.job == "labels" else math.nan
    return [
        share(held),
        share([any(each.words != NOTHING for each in grid) for grid in grids]),
        share([any(each.words != NOTHING and "on these" not in each.words for each in grid) for grid in grids]),
        share([each.primary.p < LEVEL for each in every]),
        micro,
        share([each.primary.sign == 1 for each in every]),
    ]


def share(cases: Sequence[bool]) -> float:
    return sum(cases) / len(cases)


def draw_effects(cell: Cell, grids: int, generator: torch.Generator) -> Tensor:
    """Return (grids, points + 1, seeds) the true effect of each training; the baseline's has the mean 0."""
    drawn = torch.randn(grids, cell.points + 1, max(cell.seeds), generator=generator)
    effects = drawn * cell.seed_sd * SEED_UNIT[cell.job]
    effects[:, 1:] += cell.gain
    return effects


def draw_rankings(cell: Cell, grids: int, generator: torch.Generator) -> Iterator[Grid]:
    """Yield grids of `recommend`: a user's value has a part of the user, of user and point, and of user and training.

    The three metrics correlate by a half. Users with a true item in the tail are one in three.
    """
    for start in range(0, grids, BLOCK):
        effects = draw_effects(cell, min(BLOCK, grids - start), generator)
        values = user_values(cell, effects, generator)
        columns = values.reshape(-1, cell.units).T  # (U, grids * points * seeds * metrics)
        resamples = resampled_means(columns).T.reshape(*values.shape[:-1], -1)
        if too_few(cell.units // TAIL):
            resamples[..., 2, :] = math.nan  # as `score_point` does
        yield from grids_of(values.nanmean(-1), resamples, effects)


def user_values(cell: Cell, effects: Tensor, generator: torch.Generator) -> Tensor:
    """Return (grids, points, seeds, 3 metrics, U) the values of users."""
    grids, points, seeds = effects.shape
    shapes = ((USER, 1, 1), (INTERACTION, points, 1), (TRAINING, points, seeds))
    noise = sum(
        (variance**0.5 * torch.randn(grids, *shape, 3, cell.units, generator=generator) for variance, *shape in shapes),
        torch.zeros(grids, points, seeds, 3, cell.units),
    )
    noise[..., 1:, :] = (noise[..., :1, :] + noise[..., 1:, :]) / math.sqrt(2)
    values = USER_SD * noise + effects[..., None, None]
    if cell.hit_rate:
        threshold = USER_SD * (USER + INTERACTION + TRAINING) ** 0.5
        values = (values > threshold * torch.special.ndtri(torch.tensor(1 - cell.hit_rate))).float()
    values[..., 2, cell.units // TAIL :] = math.nan
    return values


def grids_of(means: Tensor, resamples: Tensor, effects: Tensor) -> Iterator[Grid]:
    """Yield grids of rankings from (grids, points, seeds, 3 metrics) means and (..., R) resamples."""
    for each in range(len(effects)):
        rows = zip(means[each], resamples[each], effects[each], strict=True)
        yield [[rankings_training(seed, *parts) for seed, parts in enumerate(zip(*row, strict=True))] for row in rows]


def rankings_training(seed: int, means: Tensor, resamples: Tensor, effect: Tensor) -> Training:
    values = dict(zip(RANKINGS.called, means.tolist(), strict=True))
    return Training(Outcome(seed, values, dict(zip(RANKINGS.called, resamples, strict=True))), float(effect))


def draw_labels(cell: Cell, grids: int, generator: torch.Generator) -> Iterator[Grid]:
    """Yield grids of `classify`: 20 labels with Zipf frequencies, 3 per document, and noisy log odds as scores."""
    popularity = -torch.arange(1.0, NUM_LABELS + 1).log()
    effects = draw_effects(cell, grids, generator)
    for of_grid in effects:
        gumbel = -(-torch.rand(cell.units, NUM_LABELS, generator=generator).log()).log()
        true = torch.zeros(cell.units, NUM_LABELS).scatter_(1, (popularity + gumbel).topk(PER_DOCUMENT).indices, 1)
        common = score_noise(COMMON, true, generator)
        grid: Grid = []
        for of_point in of_grid:
            shared, trainings = common + score_noise(OF_POINT, true, generator), []
            for seed, effect in enumerate(of_point.tolist()):
                evidence = (SEPARATION + effect) * true + shared + score_noise(OF_TRAINING, true, generator)
                trainings.append(Training(labels_outcome(evidence, true, seed), effect))
            grid.append(trainings)
        yield grid


def score_noise(variance: float, true: Tensor, generator: torch.Generator) -> Tensor:
    return variance**0.5 * torch.randn(true.shape, generator=generator)


def labels_outcome(evidence: Tensor, true: Tensor, seed: int) -> Outcome:
    """Return the outcome of a training with (N, L) evidence, of unit variance within true and false documents."""
    rates = true.mean(0).clamp(0.5 / len(true), 1 - 0.5 / len(true))
    scores = SEPARATION * evidence - SEPARATION**2 / 2 + rates.logit()
    truth, counts = SparseLabels.from_dense(true.bool()), (TRAINING_DOCUMENTS * rates).long()
    decided = {
        "half": [Decisions(torch.zeros(NUM_LABELS)).decide(scores)],
        "tuned": [
            cross_fitted(Judged(scores, {}, truth, counts, "macro_ap", seed), None, DecisionSettings(), halves)[0]
            for halves in draw_halves(len(scores), None, seed=seed)
        ],
    }
    weights = resample_weights(len(scores))
    return Outcome(seed, *score_labels(scores, truth, decided, counts, TRAINING_DOCUMENTS, weights=weights))


if __name__ == "__main__":
    main()
