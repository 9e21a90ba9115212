"""Lists that keep rules, against lists that a slow and plain loop puts together."""

import numpy as np
import polars as pl
import pytest
import torch

from hyperfocal.data.item_table import read_items
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError
from hyperfocal.metrics.ranking import NO_ITEM
from hyperfocal.models.similarity import Similarity
from hyperfocal.recommend import lists
from hyperfocal.recommend.item_columns import ItemColumns
from hyperfocal.recommend.lists import Limits, Personal, limits_of, rank_lists
from hyperfocal.rules import Rules
from hyperfocal.sequences import Sequences

USERS, ITEMS, K = 7, 60, 6
DRAW = np.random.default_rng(0)
SCORES = torch.from_numpy(DRAW.normal(size=(USERS, ITEMS))).float()
VECTORS = torch.nn.functional.normalize(torch.from_numpy(DRAW.normal(size=(ITEMS, 3))).float())
VOCABULARY = Vocabulary(pl.Series("item", [f"i{number}" for number in range(ITEMS)]))
BRANDS = [f"b{number % 4}" if number % 9 else None for number in range(ITEMS)]
TAGS = [[f"t{number % 3}", f"t{number % 5}"] for number in range(ITEMS)]
TABLE = read_items(pl.DataFrame({"item": VOCABULARY.ids, "brand": BRANDS, "tags": TAGS}))
COLUMNS = ItemColumns(TABLE, VOCABULARY.ids)
HISTORIES = Sequences(torch.arange(2 * USERS), torch.arange(0, 2 * USERS + 1, 2), ITEMS)


def scorer(scores=SCORES):
    """Score the users block by block, in their order, as a run does; a user is known by the first item."""
    return lambda histories: scores[histories.items[histories.offsets[:-1]] // 2].clone()


def listed(rules, **personal):
    limits = limits_of(rules, VOCABULARY, COLUMNS, Similarity.of_vectors(VECTORS))
    given = Personal(HISTORIES, **personal) if personal else None
    return rank_lists(scorer(), HISTORIES, K, limits, given)


def plainly(user, rules, allowed=lambda item: True):
    """Return the list of a user, item by item."""
    banned = set() if rules.repeats else {2 * user, 2 * user + 1}
    pool = [item for item in SCORES[user].argsort(descending=True).tolist() if allowed(item) and item not in banned]
    scores = {item: float(SCORES[user, item]) for item in pool}
    low, high = min(scores.values()), max(scores.values())
    chosen = []
    while pool and len(chosen) < K:

        def worth(item):
            alike = max((float(VECTORS[item] @ VECTORS[other]) for other in chosen), default=0.0)
            return (1 - rules.diversity) * (scores[item] - low) / (high - low) - rules.diversity * alike

        best = max(pool, key=worth)
        pool.remove(best)
        same_brand = sum(BRANDS[other] == BRANDS[best] is not None for other in chosen)
        same_tags = max(sum(tag in TAGS[other] for other in chosen) for tag in TAGS[best])
        if same_brand < rules.max_per.get("brand", K) and same_tags < rules.max_per.get("tags", K):
            chosen.append(best)
    return chosen


RULES = [
    Rules(),
    Rules(repeats=True),
    Rules(max_per={"brand": 1}),
    Rules(max_per={"brand": 1, "tags": 2}),
    Rules(diversity=0.4),
    Rules(diversity=1.0),
    Rules(diversity=0.6, max_per={"tags": 2}),
]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_a_list_is_what_a_plain_loop_puts_together(rules):
    items, scores = listed(rules)
    for user in range(USERS):
        chosen = plainly(user, rules)
        assert items[user].tolist() == chosen + [NO_ITEM] * (K - len(chosen))
        assert scores[user, : len(chosen)].tolist() == SCORES[user, chosen].tolist()


def test_only_excluded_and_filtered_items():
    rules = Rules(
        only=[f"i{number}" for number in range(0, 60, 2)] + ["unknown"], exclude=["i20"], filters=["tags = t1"]
    )
    items, _ = listed(rules)
    for user in range(USERS):
        assert (
            items[user].tolist()
            == plainly(user, Rules(), lambda item: item % 2 == 0 and item != 20 and "t1" in TAGS[item])
            + [NO_ITEM] * (items[user] == NO_ITEM).sum().item()
        )


def test_candidates_are_each_users_own():
    candidates = Sequences(torch.tensor([50, 51, 52, 1, 40]), torch.tensor([0, 2, 4, 5, 5, 5, 5, 5]), ITEMS)
    for rules in (Rules(), Rules(diversity=0.1)):
        items, scores = listed(rules, candidates=candidates)
        assert [{item for item in row if item != NO_ITEM} for row in items.tolist()] == [
            {50, 51}, {1, 52}, {40}, set(), set(), set(), set(),
        ]  # fmt: skip
        assert scores[3].tolist() == [-torch.inf] * K


def test_a_pool_that_runs_out_is_widened(monkeypatch):
    """One brand has the best items of all; the list of different brands reaches beyond the pool."""
    monkeypatch.setattr(lists, "POOL", 8)
    monkeypatch.setattr(lists, "POOL_PER_ITEM", 1)
    for rules in (Rules(max_per={"brand": 1, "tags": 3}), Rules(max_per={"tags": 2}), Rules(max_per={"brand": 1})):
        items, _ = listed(rules)
        assert [[item for item in row if item != NO_ITEM] for row in items.tolist()] == [
            plainly(user, rules) for user in range(USERS)
        ]


def test_a_matrix_is_a_similarity_too():
    """Diversity by item_knn: the second item is the best one that is not like the first."""
    from scipy import sparse

    dense = np.zeros((4, 4), dtype=np.float32)
    dense[0, 1] = dense[1, 0] = 0.9
    scores = torch.tensor([[1.0, 0.9, 0.5, 0.0]])
    limits = Limits(repeats=True, diversity=0.5, similarity=Similarity(None, sparse.csr_array(dense)))
    items, _ = rank_lists(
        lambda _: scores.clone(), Sequences.empty(4).select(torch.tensor([], dtype=torch.int64)), 3, limits
    )
    assert items.shape == (0, 3)
    one = Sequences(torch.tensor([], dtype=torch.int64), torch.tensor([0, 0]), 4)
    items, _ = rank_lists(lambda _: scores.clone(), one, 3, limits)
    assert items.tolist() == [[0, 2, 1]]


REFUSED = {
    "diversity=": Rules(diversity=1.5),
    "repeat_after=": Rules(repeat_after=-1),
    "max_per=": Rules(max_per={"brand": 0}),
    "only=": Rules(only=["x", "y"]),
    "'i1' is a text, not a list": Rules(only="i1"),
    "the rules allow no item": Rules(only=["i1"], exclude=["i1"]),
    "has no column 'maker'": Rules(max_per={"maker": 1}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message):
    with pytest.raises(ConfigError, match=message):
        listed(REFUSED[message])


def test_what_a_run_does_not_have():
    with pytest.raises(ConfigError, match=r"this run has none\. Fit with `items=`"):
        limits_of(Rules(filters=["price < 2"]), VOCABULARY, None, None)
    with pytest.raises(ConfigError, match="needs item vectors or the baseline item_knn"):
        limits_of(Rules(diversity=0.1), VOCABULARY, COLUMNS, None)
