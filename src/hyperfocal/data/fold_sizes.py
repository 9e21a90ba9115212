"""Give folds their size at the least cost to the shares of labels.

A unit (a group of documents) that goes from one fold to another changes how far both are from their share of its
labels. Its cost is the change of

    sum over labels l and the two folds f of  (1 / n_l + 100 / N) * |n_fl - share_f * n_l|

for n_l of N documents with the label, n_fl of them in the fold. The first weight is the one of the mean error of label
shares, the second one of the odds of frequent labels. A unit with the last document of a label in its fold costs 1
more, and one with the first document in the other fold 0.03 less. Costs only grow as more units go the same way, so
that the cheapest units can be moved many at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from hyperfocal.data.folds import AnyInts, Folds, Ints

LAST, FIRST = 1.0, 0.03  # costs of a label's last document in a fold, and what its first document in a fold is worth
FREQUENT = 100.0  # weight of the odds of frequent labels
BLOCK = 100_000  # units whose costs are computed at a time
TRIES = 200  # swaps of two folds that turn out not to pay
LEAST = 1e-9  # a smaller difference of costs is a rounding error

Floats = NDArray[np.float64]


def balance(folds: Folds, *, complete: bool) -> None:
    """Make the sizes of folds as near to their shares as units allow, then swap units of equal size for label shares.

    Units of one document always reach the size that `round_sizes` returns, except if fold 0 has to be complete.

    Args:
        folds: every unit has one.
        complete: whether fold 0 keeps at least one document of every label that it has.
    """
    goals = round_sizes(folds.wanted[:, -1], folds.counts[:, -1])
    for source, target in _unequal(folds, goals):
        _shift(folds, source, target, goals, keep=complete and source == 0)
    pairs = list(permutations(range(len(goals)), 2))
    while any(_exchange(folds, source, target, goals, complete=complete) for source, target in pairs):
        pass
    count = len(goals)
    for fold in range(count if count > 2 else count - 1):
        _swap_equal(folds, fold, (fold + 1) % count, complete=complete)


def round_sizes(wanted: Floats, counts: Ints) -> Ints:
    """Return whole numbers with the sum of `wanted`, each at least 1 if that is possible.

    Remainders are rounded up from the largest one on; at a tie, that of the fold that has most documents.

    Args:
        wanted: (F,) documents that each fold should have, with a whole sum.
        counts: (F,) documents that each fold has.

    >>> round_sizes(np.array([8.5, 1.0, 0.5]), np.array([8, 1, 1])).tolist()
    [8, 1, 1]
    """
    total = round(wanted.sum())
    goals = np.floor(wanted + LEAST).astype(np.int64)
    if total >= len(goals):
        goals = np.maximum(goals, 1)
    for _ in range(total - goals.sum()):
        goals[np.lexsort((counts, np.round(wanted - goals, 9)))[-1]] += 1
    for _ in range(goals.sum() - total):
        goals[goals.argmax()] -= 1
    return goals


def _unequal(folds: Folds, goals: Ints) -> Iterator[tuple[int, int]]:
    """Yield a fold that is too large and one that is too small, as long as there are such folds."""
    excess = folds.counts[:, -1] - goals
    for source in np.argsort(-excess, kind="stable").tolist():
        for target in np.argsort(excess, kind="stable").tolist():
            now = folds.counts[:, -1] - goals
            if now[source] > 0 > now[target]:
                yield source, target


def _shift(folds: Folds, source: int, target: int, goals: Ints, *, keep: bool) -> None:
    """Move the units that cost least per document until one of two folds has its size, or no unit is small enough.

    In each round those units move whose cost is at most that of the last unit needed. What they cost is computed again
    just before.
    """
    while True:
        excess = folds.counts[:, -1] - goals
        amount = int(min(excess[source], -excess[target]))
        units, costs = _movable(folds, source, target, keep=keep, largest=amount)
        if not len(units):
            return
        sizes = folds.sizes(units)
        order = np.lexsort((folds.order[units], costs / sizes))
        needed = int(np.searchsorted(sizes[order].cumsum(), amount))
        limit = (costs / sizes)[order[min(needed, len(order) - 1)]] + LEAST
        for unit, size in zip(units[order[: 2 * needed + 1]].tolist(), sizes[order].tolist(), strict=False):
            if size <= amount and _cost(folds, unit, source, target, keep=keep) <= limit * size:
                folds.move(unit, target)
                amount -= size


def _exchange(folds: Folds, source: int, target: int, goals: Ints, *, complete: bool) -> bool:
    """Move one unit, or swap two, so that the sizes of two folds are nearest to their goals; return whether it helps.

    Of several such units, the cheapest go.
    """
    excess = folds.counts[:, -1] - goals
    gap = int(excess[source] - excess[target])  # half of it should go; less than all of it lowers the error
    if gap < 2:
        return False
    ours, our_sizes, our_costs = _cheapest(folds, source, target, keep=complete and source == 0)
    theirs, their_sizes, their_costs = _cheapest(folds, target, source, keep=complete and target == 0)
    sizes, costs = np.append(0, their_sizes), np.append(0.0, their_costs)  # the first is that of a move alone
    above = np.searchsorted(sizes, our_sizes - gap / 2)
    places = np.stack([np.maximum(above - 1, 0), np.minimum(above, len(sizes) - 1)])
    moved = our_sizes - sizes[places]
    allowed = (moved > 0) & (moved < gap) & (moved < folds.counts[source, -1])  # a fold never loses all documents
    if not allowed.any():
        return False
    error = np.where(allowed, np.abs(moved - gap / 2), np.inf)
    best = np.lexsort(((our_costs + costs[places]).ravel(), error.ravel()))[0]
    back, unit = int(places.ravel()[best]), int(ours[best % len(ours)])
    folds.move(unit, target)
    if back:
        folds.move(int(theirs[back - 1]), source)
    return True


def _swap_equal(folds: Folds, one: int, other: int, *, complete: bool) -> None:
    """Swap units of equal size between two folds, the cheapest first, as long as the shares of labels gain."""
    tries = TRIES
    ours = _by_size(folds, one, other, keep=complete and one == 0)
    theirs = _by_size(folds, other, one, keep=complete and other == 0)
    for size in sorted(ours.keys() & theirs.keys()):
        (units, costs), (others, other_costs) = ours[size], theirs[size]
        count = min(len(units), len(others))
        pay = int((costs[:count] + other_costs[:count] < -LEAST).sum())  # both ascend
        for unit, back in zip(units[:pay].tolist(), others[:pay].tolist(), strict=True):
            if not tries:
                return
            cost = _cost(folds, unit, one, other, keep=complete and one == 0)
            folds.move(unit, other)
            if cost + _cost(folds, back, other, one, keep=complete and other == 0) < -LEAST:
                folds.move(back, one)
            else:
                folds.move(unit, one)
                tries -= 1


def _cheapest(folds: Folds, source: int, target: int, *, keep: bool) -> tuple[Ints, Ints, Floats]:
    """Return the cheapest unit of each size, its size, ascending, and its cost."""
    units = _by_size(folds, source, target, keep=keep)
    first = [(unit[0], size, cost[0]) for size, (unit, cost) in units.items()]
    columns = np.array(first).reshape(-1, 3).T
    return columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2]


def _by_size(folds: Folds, source: int, target: int, *, keep: bool) -> dict[int, tuple[AnyInts, Floats]]:
    """Return for each size the units that may go from one fold to another, the cheapest first, and their costs."""
    units, costs = _movable(folds, source, target, keep=keep)
    sizes = folds.sizes(units)
    order = np.lexsort((folds.order[units], costs, sizes))
    distinct, starts = np.unique(sizes[order], return_index=True)
    rows = np.split(order, starts[1:])
    return {int(size): (units[row], costs[row]) for size, row in zip(distinct, rows, strict=False)}


def _movable(
    folds: Folds, source: int, target: int, *, keep: bool, largest: int | None = None
) -> tuple[AnyInts, Floats]:
    """Return the units of a fold that may go to another one, and their costs.

    Args:
        folds: every unit has one.
        source: the fold of the units.
        target: the other fold.
        keep: whether a document of every label has to stay.
        largest: documents of a unit. None: any number.
    """
    units = np.flatnonzero(folds.folds == source)
    if largest is not None:
        units = units[folds.sizes(units) <= largest]
    blocks = [units[start : start + BLOCK] for start in range(0, len(units), BLOCK)]
    costs = np.concatenate([np.zeros(0), *[unit_costs(folds, block, source, target, keep=keep) for block in blocks]])
    allowed = np.isfinite(costs)
    return units[allowed], costs[allowed]


def _cost(folds: Folds, unit: int, source: int, target: int, *, keep: bool) -> float:
    return float(unit_costs(folds, np.array([unit]), source, target, keep=keep)[0])


def unit_costs(folds: Folds, units: AnyInts, source: int, target: int, *, keep: bool) -> Floats:
    """Return the cost of each unit, by the formula above; infinite if it has to stay."""
    labels, moved, lengths = folds.gather(units)
    counts, others, totals = folds.counts[source, labels], folds.counts[target, labels], folds.totals[labels]
    over, lack = counts - folds.wanted[source, labels], folds.wanted[target, labels] - others
    change = np.abs(over - moved) - np.abs(over) + np.abs(lack - moved) - np.abs(lack)
    costs = (1 / totals + FREQUENT / folds.totals[-1]) * change
    costs += np.where(counts == moved, np.inf if keep else LAST, 0) - FIRST * (others == 0)
    ends = lengths.cumsum()
    costs[ends - 1] = 0  # the label of all documents
    return np.add.reduceat(costs, ends - lengths)
