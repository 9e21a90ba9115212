"""The verdict of a grid on rankings: whether the whole ranking is better, and at whose cost."""

from __future__ import annotations

from functools import partial

from hyperfocal.metrics.verdict import BETTER, NOT_COMPARED, Families, phrase

WIDE = "recall@10"


def rankings(k: int) -> Families:
    """Return the families of rankings of k items: map@k, recall@10, and map@k of true items in the tail.

    >>> rankings(3).words({"map@3": 1, "recall@10": 0, "tail.map@3": -1})
    'ranking better, but worse in the tail'
    """
    ranking, tail = f"map@{k}", f"tail.map@{k}"
    called = {ranking: ranking, WIDE: WIDE, tail: f"{ranking} in the tail"}
    return Families(called, (ranking, WIDE), partial(_in_words, ranking, tail), digits=4)


def _in_words(ranking: str, tail: str, signs: dict[str, int | None]) -> str:
    """Return the verdict in a few words.

    map@k leads where it differs; what disagrees with it in recall@10, and what differs in the tail, follows.
    """
    if all(sign is None for sign in signs.values()):
        return NOT_COMPARED
    direction, wide = signs.get(ranking) or 0, signs.get(WIDE) or 0
    lead = f"ranking {BETTER[direction]}" if direction else ""
    beside = {f"in {WIDE}": 0 if wide == direction else wide, "in the tail": signs.get(tail) or 0}
    return phrase(lead, direction, {place: sign for place, sign in beside.items() if sign})
