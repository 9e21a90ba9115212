"""Ranking metrics: the best k of L items for each user, and how many of the true ones are among them.

All metrics are over users with at least one true item. A repeated prediction counts once, a repeated
target is one target. With h_r = 1 where rank r holds a true item and n the number of true items:

    map@k     sum over r <= k of h_r * (hits up to r) / r,  divided by min(k, n)
    recall@k  hits in k / n
    ndcg@k    sum over r <= k of h_r / log2(r + 1),  divided by the same sum with hits in the first min(k, n) ranks
    hit@k     1 if there is a hit in k
    mrr@k     1 / rank of the first hit, 0 without one
    coverage@k   (of all users together) distinct items in the first k of anyone / L

The best k of L labels whose scores are dealt out over several processes, which exchange their best k alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from hyperfocal.distributed import all_gather
from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.sequences import Sequences

NO_ITEM = -1  # fills the ranks for which no item is left
BLOCK_NUMBERS = 2**20  # scores a block: 4 MiB of float32
GROUPS = 16  # a row is reduced to 1/16 by maxima before it is sorted

Scorer = Callable[[Sequences], Tensor]
"""Histories of U users in, (U, L) scores out, in memory that is overwritten; -inf is never recommended."""


def rank_items(score: Scorer, histories: Sequences, k: int, *, repeats: bool = False) -> tuple[Tensor, Tensor]:
    """Return the best k items of each user and their scores, in blocks, so that memory does not grow with U x L.

    Args:
        score: scores of a block of users.
        histories: U users.
        k: 1 to L.
        repeats: whether items of the history may be recommended.

    Returns:
        (U, k) int64 item numbers, best first, and (U, k) float32 scores. Where fewer than k items are
        left, NO_ITEM (-1) and -inf.

    Raises:
        ConfigError: k outside 1 to L.
    """
    check_depth(k, histories.num_items)
    size = max(BLOCK_NUMBERS // histories.num_items, 16)
    blocks = [
        _rank_block(score, histories.block(start, start + size), k, repeats) for start in range(0, len(histories), size)
    ]
    if not blocks:
        return torch.empty(0, k, dtype=torch.int64), torch.empty(0, k)
    items, scores = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return items, scores


def check_depth(k: int, num_items: int) -> None:
    """Raise ConfigError unless k is 1 to the number of items."""
    if not 1 <= k <= num_items:
        raise ConfigError(f"k = {k} is not allowed. Expected 1 to {num_items:,}, the number of items")


def _rank_block(score: Scorer, block: Sequences, k: int, repeats: bool) -> tuple[Tensor, Tensor]:
    scores = score(block)
    if not repeats:
        scores[block.users, block.items] = -torch.inf
    best, items = top_k(scores, k)
    return items.masked_fill_(best == -torch.inf, NO_ITEM).cpu(), best.float().cpu()


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row of (U, L), largest first, and their columns.

    The k largest lie in the k groups with the largest maxima, so with groups of 16 columns only
    L / 16 maxima and 16 k candidates are sorted. Exact.
    """
    rows, width = scores.shape
    groups = width // GROUPS
    if groups < 64 * k:  # below, sorting the row itself is as fast
        return _pair(scores.topk(k))
    whole = scores[:, : groups * GROUPS].unflatten(1, (GROUPS, groups))  # group g holds columns g, g + groups, ...
    _, best_groups = whole.amax(1).topk(k, sorted=False)
    columns = (best_groups[:, :, None] + groups * torch.arange(GROUPS, device=scores.device)).flatten(1)
    rest = torch.arange(groups * GROUPS, width, device=scores.device).expand(rows, -1)
    columns = torch.cat([columns, rest], 1)
    best, places = scores.gather(1, columns).topk(k)
    return best, columns.gather(1, places)


def _pair(values_and_indices: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    values, indices = values_and_indices
    return values, indices


def find_hits(ranked: Tensor, truth: SparseLabels) -> Tensor:
    """Return (U, k) bool: whether each ranked item is a true one, met for the first time."""
    keys = truth.rows * truth.num_labels + truth.indices  # ascending
    wanted = torch.arange(len(ranked))[:, None] * truth.num_labels + ranked
    if len(keys) == 0:
        return torch.zeros_like(ranked, dtype=torch.bool)
    found = keys[torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)] == wanted
    repeated = (ranked[:, :, None] == ranked[:, None, :]).tril(-1).any(2)
    return found & ~repeated & (ranked != NO_ITEM)


def score_ranking(ranked: Tensor, truth: SparseLabels, names: Iterable[str]) -> dict[str, Tensor]:
    """Return for each metric name, as "map@3", its value for each user with a true item.

    Args:
        ranked: (U, k) int64 item numbers, best first, NO_ITEM where there is none.
        truth: U rows, the true items.
        names: "map", "recall", "ndcg", "hit" or "mrr", "@", and a number up to k.

    Returns:
        name -> (V,) float64 in [0, 1], for the V <= U users with at least one true item.

    Raises:
        ConfigError: an unknown metric, or a k above the number of ranked items.

    >>> truth = SparseLabels.from_lists([[4, 7, 9]], num_labels=10)
    >>> score_ranking(torch.tensor([[4, 1, 9]]), truth, ["map@3"])["map@3"].item() == (1 / 1 + 2 / 3) / 3
    True
    """
    sizes = truth.indptr.diff()
    some = sizes > 0
    hits = find_hits(ranked, truth)[some].double()
    return {name: _metric(name, hits, sizes[some].double()) for name in names}


def _metric(name: str, hits: Tensor, sizes: Tensor) -> Tensor:
    kind, _, number = name.partition("@")
    if kind not in METRICS or not number.isdigit() or not 1 <= int(number) <= hits.shape[1]:
        raise ConfigError(
            f"metric {name!r} is not allowed. Expected one of {', '.join(METRICS)}, then '@' and "
            f"1 to {hits.shape[1]}, as map@3"
        )
    return METRICS[kind](hits[:, : int(number)], sizes)


def _map(hits: Tensor, sizes: Tensor) -> Tensor:
    precisions = hits.cumsum(1) / _ranks(hits)
    return (hits * precisions).sum(1) / sizes.clamp(max=hits.shape[1])


def _recall(hits: Tensor, sizes: Tensor) -> Tensor:
    return hits.sum(1) / sizes


def _ndcg(hits: Tensor, sizes: Tensor) -> Tensor:
    gains = 1 / torch.log2(_ranks(hits) + 1)
    ideal = gains.cumsum(0)[sizes.clamp(max=hits.shape[1]).long() - 1]
    return (hits * gains).sum(1) / ideal


def _hit(hits: Tensor, sizes: Tensor) -> Tensor:
    return hits.amax(1)


def _mrr(hits: Tensor, sizes: Tensor) -> Tensor:
    return (hits / _ranks(hits)).amax(1)


def _ranks(hits: Tensor) -> Tensor:
    return torch.arange(1, hits.shape[1] + 1, dtype=torch.float64)


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "map": _map,
    "recall": _recall,
    "ndcg": _ndcg,
    "hit": _hit,
    "mrr": _mrr,
}


def coverage(ranked: Tensor, num_items: int) -> float:
    """Return the share of the catalogue that is recommended to anyone."""
    return len(ranked[ranked != NO_ITEM].unique()) / max(num_items, 1)


def only(truth: SparseLabels, mask: Tensor) -> SparseLabels:
    """Return the truth without the items whose (L,) bool mask is False."""
    kept = mask[truth.indices]
    before = torch.cat([torch.zeros(1, dtype=torch.int64), kept.cumsum(0)])
    return SparseLabels(before[truth.indptr], truth.indices[kept], truth.num_labels)


def sharded_top_k(scores: Tensor, k: int, *, first: int, num_labels: int) -> tuple[Tensor, Tensor]:
    """Return the k largest scores of each row over the labels of all processes, largest first, and their labels.

    Of equal scores the lower label is first, so that the number of processes changes nothing. (`ranking.top_k`, of
    one process, takes equal scores in no order that torch would promise.) Every process has to call it and gets the
    same. It exchanges (U, k) scores and labels of each process.

    Args:
        scores: (U, L_r) float, of this process's labels, as ShardedLoss.part has them.
        k: 1 to L.
        first: number of the first of these labels.
        num_labels: L, of all processes.

    Returns:
        (U, k) scores and (U, k) int64 labels.

    Raises:
        ConfigError: k outside 1 to L.
        TrainingError: another process is gone.
    """
    check_depth(k, num_labels)
    values, columns = lowest_top_k(scores, min(k, scores.shape[1]))
    short = k - values.shape[1]  # of fewer labels than k; what fills them up is never among the best k
    values = torch.nn.functional.pad(values, (0, short), value=-torch.inf)
    labels = torch.nn.functional.pad(columns + first, (0, short), value=num_labels)
    values, labels = torch.cat(all_gather(values), 1), torch.cat(all_gather(labels), 1)
    order = labels.argsort(1)
    values, labels = values.gather(1, order), labels.gather(1, order)
    best, places = values.sort(stable=True, dim=1, descending=True)
    return best[:, :k], labels.gather(1, places[:, :k])


def lowest_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest of each row of (U, L), largest first, and their columns, of equal ones the lower first.

    >>> [found.tolist() for found in lowest_top_k(torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0]]), 4)]
    [[[3.0, 2.0, 1.0, 1.0]], [[1, 3, 0, 2]]]
    """
    if k == 0:
        return scores[:, :0], torch.empty_like(scores[:, :0], dtype=torch.int64)
    least = scores.topk(k, sorted=False).values.amin(1, keepdim=True)
    above, equal = scores > least, scores == least
    chosen = above | (equal & (equal.cumsum(1) <= k - above.sum(1, keepdim=True)))
    columns = chosen.nonzero()[:, 1].view(-1, k)
    best, places = scores.gather(1, columns).sort(stable=True, dim=1, descending=True)
    return best, columns.gather(1, places)
