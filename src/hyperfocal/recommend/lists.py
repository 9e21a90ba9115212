"""Lists of recommendations that keep rules: first which items may be in a list, then how the list is put together.

A list is built from the best items of a user, the pool: the POOL best, or POOL_PER_ITEM for each of the k items.
Item by item it takes the one with the largest

    (1 - diversity) * score, scaled to [0, 1] within the pool  -  diversity * largest similarity to an item of the list

among those whose values in the columns of `max_per` are not used up. If the pool runs out, all items are the pool.
Source: Carbonell and Goldstein 1998, maximal marginal relevance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from hyperfocal.config.numbers import as_finite, as_whole
from hyperfocal.data.vocabulary import Vocabulary
from hyperfocal.errors import ConfigError
from hyperfocal.metrics.ranking import NO_ITEM, Scorer, check_depth, rank_items
from hyperfocal.models.similarity import Similarity
from hyperfocal.recommend.filters import satisfying
from hyperfocal.recommend.item_columns import ItemColumns
from hyperfocal.rules import Rules
from hyperfocal.sequences import Sequences

POOL, POOL_PER_ITEM = 200, 10


@dataclass(frozen=True, eq=False)
class Cap:
    """How many items of a list may share a value of a column."""

    most: int
    values: list[list[int]]  # of each of the L items, as numbers


@dataclass(frozen=True, eq=False)
class Limits:
    """Rules, applied to L items.

    Attributes:
        repeats: whether items of a history may be recommended.
        allowed: (L,) bool. None: all.
        caps: of the columns of `max_per`.
        diversity: in [0, 1].
        similarity: of the items; needed for a diversity above 0.
    """

    repeats: bool = False
    allowed: Tensor | None = None
    caps: Sequence[Cap] = ()
    diversity: float = 0.0
    similarity: Similarity | None = None

    @property
    def builds(self) -> bool:
        """Whether a list is more than the best allowed items."""
        return bool(self.caps) or self.diversity > 0


def limits_of(
    rules: Rules, vocabulary: Vocabulary, columns: ItemColumns | None, similarity: Similarity | None
) -> Limits:
    """Return rules as they apply to the items of a vocabulary.

    Args:
        rules: of a request.
        vocabulary: L items.
        columns: of the item table. None: the run has no item table.
        similarity: of the items. None: the run has none.

    Raises:
        ConfigError: a value is out of range; no item is allowed; a column or a similarity that the run does not have.
        DataError: a value of a filter is not of the kind of its column.
    """
    _check(rules)
    if (rules.filters or rules.max_per) and columns is None:
        raise ConfigError(
            "filters and limits per value read columns of an item table, and this run has none. Fit with `items=`"
        )
    if rules.diversity and similarity is None:
        raise ConfigError(
            "`diversity=` needs item vectors or the baseline item_knn, and this run has neither. Leave it out"
        )
    allowed = _allowed(rules, vocabulary, columns)
    caps = [Cap(most, columns.values(name)) for name, most in rules.max_per.items() if columns]
    return Limits(rules.repeats, allowed, caps, float(rules.diversity), similarity)


def _check(rules: Rules) -> None:
    """Raise ConfigError for a value that Python let through."""
    diversity = as_finite(rules.diversity)
    if diversity is None or not 0 <= diversity <= 1:
        raise ConfigError(f"`diversity=`: {rules.diversity!r} is not allowed. Expected 0 to 1")
    days = as_finite(0 if rules.repeat_after is None else rules.repeat_after)
    if days is None or days < 0:
        raise ConfigError(f"`repeat_after=`: {rules.repeat_after!r} is not allowed. Expected days, 0 or more")
    texts = {"`only=`": rules.only, "`exclude=`": rules.exclude, "`filters=`": rules.filters}
    for name, items in texts.items():
        if isinstance(items, str):
            raise ConfigError(f"{name}: {items!r} is a text, not a list. Write [{items!r}]")
    for column, most in rules.max_per.items():
        whole = as_whole(most)
        if whole is None or whole < 1:
            raise ConfigError(f"`max_per=`: {column}: {most!r} is not allowed. Expected a whole number, 1 or more")


def _allowed(rules: Rules, vocabulary: Vocabulary, columns: ItemColumns | None) -> Tensor | None:
    """Return (L,) whether an item may be recommended; None: all may."""
    if rules.only is None and not len(rules.exclude) and not rules.filters:
        return None
    mask = np.ones(len(vocabulary), dtype=np.bool_)
    if rules.only is not None:
        known = vocabulary.encode_lists([list(rules.only)]).items.numpy()
        if not len(known):
            raise ConfigError(f"`only=`: none of {len(rules.only):,} allowed items is known. Check their ids")
        mask[:] = False
        mask[known] = True
    if columns is not None and rules.filters:
        mask &= satisfying(rules.filters, columns)
    mask[vocabulary.encode_lists([list(rules.exclude)]).items.numpy()] = False
    if not mask.any():
        raise ConfigError("the rules allow no item: allowed items, excluded items and filters contradict each other")
    return torch.from_numpy(mask)


@dataclass(frozen=True, eq=False)
class Personal:
    """What differs between users; each is the items of U users, or None.

    Attributes:
        used: items that a user may not get.
        candidates: the only items that a user may get. None: all.
    """

    used: Sequences | None = None
    candidates: Sequences | None = None

    def select(self, users: Tensor) -> Personal:
        """Return the same of (V,) users."""
        return Personal(*(None if each is None else each.select(users) for each in (self.used, self.candidates)))


@torch.inference_mode()
def rank_lists(
    score: Scorer, histories: Sequences, k: int, limits: Limits, personal: Personal | None = None
) -> tuple[Tensor, Tensor]:
    """Return the lists of U users and their scores, as `rank_items` does.

    Args:
        score: of a block of users.
        histories: U users.
        k: length of a list, 1 to L. Limits may leave fewer items; NO_ITEM fills the list.
        limits: that the lists keep.
        personal: of the users. None: they may not get the items of their history, unless `limits.repeats`.

    Raises:
        ConfigError: k is outside 1 to L.
    """
    k, size = check_depth(k, histories.num_items), histories.num_items
    if personal is None:
        personal = Personal(None if limits.repeats else histories)
    if not limits.builds:
        return rank_items(_masked(score, limits, personal), histories, k, repeats=True)
    depth = min(max(POOL, POOL_PER_ITEM * k), size)
    items, scores, exhausted = _build(score, histories, k, depth, limits, personal)
    if depth < size and len(exhausted):
        again = _build(score, histories.select(exhausted), k, size, limits, personal.select(exhausted))
        items[exhausted], scores[exhausted] = again[0], again[1]
    return items, scores


def _build(
    score: Scorer, histories: Sequences, k: int, depth: int, limits: Limits, personal: Personal
) -> tuple[Tensor, Tensor, Tensor]:
    """Return lists from pools of `depth` items, their scores, and the users whose list is short and whose pool full."""
    pools, worths = rank_items(_masked(score, limits, personal), histories, depth, repeats=True)
    items, scores = torch.full((len(pools), k), NO_ITEM), torch.full((len(pools), k), -torch.inf)
    for user, (pool, worth) in enumerate(zip(pools, worths, strict=True)):
        places = torch.tensor(_places(pool[pool != NO_ITEM], worth, k, limits), dtype=torch.int64)
        items[user, : len(places)], scores[user, : len(places)] = pool[places], worth[places]
    short = (items[:, -1] == NO_ITEM) & (pools[:, -1] != NO_ITEM)
    return items, scores, short.nonzero().squeeze(1)


def _masked(score: Scorer, limits: Limits, personal: Personal) -> Scorer:
    """Return the scorer with -inf for what each user may not get; it is called with blocks of users in their order."""
    start = 0

    def scores(histories: Sequences) -> Tensor:
        nonlocal start
        values, stop = score(histories), start + len(histories)
        if limits.allowed is not None:
            values[:, ~limits.allowed.to(values.device)] = -torch.inf
        if personal.candidates is not None:
            block, outside = personal.candidates.block(start, stop), torch.ones_like(values, dtype=torch.bool)
            outside[block.users, block.items] = False
            values[outside] = -torch.inf
        if personal.used is not None:
            block = personal.used.block(start, stop)
            values[block.users, block.items] = -torch.inf
        start = stop
        return values

    return scores


def _places(pool: Tensor, scores: Tensor, k: int, limits: Limits) -> list[int]:
    """Return the places in a pool, (P,) items with the best first, of the items of a list."""
    room = Room(limits.caps)
    numbers = pool.tolist()
    if not limits.diversity or not numbers:
        return list(islice((place for place, item in enumerate(numbers) if room.take(item)), k))
    assert limits.similarity is not None, "`limits_of` has checked it"
    worth = _scaled(scores[: len(pool)]) * (1 - limits.diversity)
    nearest = torch.zeros(len(pool))
    places: list[int] = []
    for _ in numbers:
        place = int((worth - limits.diversity * nearest).argmax())
        worth[place] = -torch.inf
        if room.take(numbers[place]):
            alike = limits.similarity.between(numbers[place], pool)
            nearest = torch.maximum(nearest, alike) if places else alike
            places.append(place)
        if len(places) == k:
            break
    return places


class Room:
    """Counts the values that the items of one list have used up."""

    def __init__(self, caps: Sequence[Cap]) -> None:
        self._caps = [(cap, Counter[int]()) for cap in caps]

    def take(self, item: int) -> bool:
        """Return whether there is room for an item, and if so, count it."""
        if any(count[value] >= cap.most for cap, count in self._caps for value in cap.values[item]):
            return False
        for cap, count in self._caps:
            count.update(cap.values[item])
        return True


def _scaled(scores: Tensor) -> Tensor:
    """Return (P,) falling scores scaled to [0, 1]."""
    return (scores - scores[-1]) / (scores[0] - scores[-1]).clamp(min=1e-12)
