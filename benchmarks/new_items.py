"""Can items that nobody has touched be recommended? A tenth of the courses is held out of training completely.

    python benchmarks/new_items.py [--users valid] [--seed 0] [--set KEY=VALUE ...]

Of the courses of which the table knows something, a tenth is drawn by the seed; every event on them is removed from the
training log and from the histories. Then the model ranks them together with all others, by their features, for the
users whose next courses hold one of them. Beside it, ranking the same courses for the same users:

    random       any order
    popularity   a seen course by its events, a new one by the mean of the seen courses that share its values
    no boost     the model as training leaves it, which has learnt that courses it does not know are rarely next
    neighbours   cosine between the features of a course and those of the user's last courses, each half as much as
                 the next newer

Prints recall@10 among all courses, for the true courses that are new, with its interval over users, and for the seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import polars as pl
import torch
from torch import Tensor

from hyperfocal.config.recipes import parse_override
from hyperfocal.data.examples import Holdout, hold_out_truth
from hyperfocal.data.logs import as_log
from hyperfocal.metrics.ranking import Scorer
from hyperfocal.models.item_vectors import ItemFeatures
from hyperfocal.recommend.compare import score_ranker
from hyperfocal.recommend.item_features import new_features
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.sequences import Sequences

ROOT = Path(__file__).parents[1]
DECAY, LAST = 0.5, 5


def main() -> None:
    """Train without the held-out courses, and print a row for each ranker."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "mooccubex")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "mooccubex_items.toml")
    parser.add_argument("--share", type=float, default=0.1, help="of the courses that are held out  [0.1]")
    parser.add_argument("--seed", type=int, default=0, help="of the draw and of the training  [0]")
    parser.add_argument("--users", choices=["valid", "test"], default="test", help="choose on valid, report test once")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting; repeatable")
    options = parser.parse_args()
    if not (options.data / "courses.csv.gz").is_file():
        sys.exit(f"{options.data}: no courses.csv.gz there. Name its folder with --data")
    read = {path.name.partition(".")[0]: pl.read_csv(path) for path in options.data.glob("*.csv.gz")}
    table, log = read["courses"], read["interactions_train"]
    held_out = draw(table, log, options.share, options.seed)
    settings = dict(parse_override(text) for text in options.set)
    recommender = Recommender(options.recipe, seed=options.seed, settings=settings)
    parts = [
        without(read[name], held_out) for name in ("interactions_train", "interactions_valid_history", "valid_truth")
    ]
    recommender.fit(parts[0], parts[1], valid_truth=parts[2], items=table)
    new = table.filter(pl.col("course").is_in(held_out.implode()))
    wider, plain = recommender.with_new_items(new), recommender.with_new_items(new, boost=0.0)
    histories = without(read[f"interactions_{options.users}_history"], held_out)
    holdout = users_of(histories, read[f"{options.users}_truth"], held_out, wider)
    print(f"{len(held_out):,} of {len(wider.vocabulary_):,} courses are new; {len(holdout):,} {options.users} users.\n")
    print("| ranker | recall@10 of new courses | 95% interval | of seen courses |\n|---|---|---|---|")
    print(row("transformer, no boost", plain.ranker_.scorer(), holdout, wider), flush=True)
    for name, scorer in rankers(recommender, wider, table, options.seed).items():
        print(row(name, scorer, holdout, wider), flush=True)


def draw(table: pl.DataFrame, log: pl.DataFrame, share: float, seed: int) -> pl.Series:
    """Return the courses to hold out: of those in the log of which something is known."""
    known = table.filter(pl.any_horizontal(pl.exclude("course").is_not_null()))["course"]
    known = known.filter(known.is_in(log["course"].unique().implode())).sort()
    return known.sample(round(share * len(known)), seed=seed)


def without(log: pl.DataFrame, held_out: pl.Series) -> pl.DataFrame:
    """Return the log without every event on the held-out courses."""
    return log.filter(~pl.col("course").is_in(held_out.implode()))


def users_of(histories: pl.DataFrame, truth: pl.DataFrame, held_out: pl.Series, wider: Recommender) -> Holdout:
    """Return the users with a held-out course among their next, all of their next courses being the truth."""
    users = truth.filter(pl.col("course").is_in(held_out.implode()))["student"].unique()
    asked = truth.filter(pl.col("student").is_in(users.implode()))
    return hold_out_truth(as_log(histories), as_log(asked), wider.vocabulary_)


def rankers(recommender: Recommender, wider: Recommender, table: pl.DataFrame, seed: int) -> dict[str, Scorer]:
    """Return the model and what it is compared with, each over the seen courses and then the new ones."""
    assert recommender.features_ is not None
    _, new = new_features(recommender.columns_, table, recommender.vocabulary_, "course")
    values = torch.cat([dense(recommender.features_), dense(new)])
    counts = wider.baselines_["popularity"].counts.double()
    generator = torch.Generator().manual_seed(seed)
    return {
        wider.settings_.model.name: wider.ranker_.scorer(),
        "random": lambda histories: torch.rand(len(histories), len(values), generator=generator),
        "popularity": lambda histories: popularity(values, counts, wider.new_items_).repeat(len(histories), 1),
        "neighbours": lambda histories: neighbours(values, histories),
        "decayed Markov, seen courses only": wider.baselines_["decayed_markov"].scores,
    }


def dense(features: ItemFeatures) -> Tensor:
    """Return (L, V) what values each item has, of length 1 or 0."""
    rows = torch.arange(len(features.numbers)).repeat_interleave(features.offsets.diff())
    found = torch.zeros(len(features.numbers), features.num_values)
    found[rows, features.values] = features.weights
    return torch.nn.functional.normalize(found)


def popularity(values: Tensor, counts: Tensor, new: int) -> Tensor:
    """Return (L,) events of seen courses, and for new ones the mean of the seen ones that share values, by how many."""
    seen = len(values) - new
    shared = values[seen:] @ values[:seen].T
    return torch.cat([counts[:seen], (shared.double() @ counts[:seen]) / shared.sum(1).clamp(min=1e-9)])


def neighbours(values: Tensor, histories: Sequences) -> Tensor:
    """Return (U, L) cosines with the user's last courses, decayed."""
    last = histories.last(LAST)  # newest last
    weights = DECAY ** torch.arange(LAST - 1, -1, -1.0)
    padded = torch.nn.functional.pad(values, (0, 0, 0, 1))
    return torch.einsum("t,utv->uv", weights, padded[last]) @ values.T


def row(name: str, scorer: Scorer, holdout: Holdout, wider: Recommender) -> str:
    """Return the Markdown row of a ranker."""
    with torch.inference_mode():
        counts = wider.baselines_["popularity"].counts
        buckets = score_ranker(scorer, holdout, counts, k=10, new=wider.new_items_).buckets
    new, seen = buckets["new"]["recall@10"], buckets["seen"]["recall@10"]
    return f"| {name} | {new.mean:.4f} | {new.low:.4f}-{new.high:.4f} | {seen.mean:.4f} |"


if __name__ == "__main__":
    main()
