"""The best k of L items for each user, and metrics of such rankings.

All metrics are over users with at least one true item. A repeated prediction counts once, and a repeated target is one
target. With h_r = 1 if rank r holds a true item, else 0, and n the number of true items:

    map@k     sum over r <= k of h_r * (hits up to r) / r,  divided by min(k, n)
    recall@k  hits in k / n
    ndcg@k    sum over r <= k of h_r / log2(r + 1),  divided by the same sum with hits in the first min(k, n) ranks
    hit@k     1 if there is a hit in k
    mrr@k     1 / rank of the first hit, 0 without one
    coverage@k   distinct items in the first k ranks of all users together / L

`sharded_top_k` ranks labels that are partitioned over several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from hyperfocal.config.numbers import as_whole
from hyperfocal.counted_labels import counted_as
from hyperfocal.distributed import all_gather
from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels, row_pointers
from hyperfocal.sequences import Sequences

NO_ITEM = -1  # fills the ranks for which no item is left
BLOCK_NUMBERS = 2**20  # scores per block: 4 MiB of float32
GROUPS = 16  # a row is reduced to 1/16 by maxima before it is sorted

Scorer = Callable[[Sequences], Tensor]
"""Maps the histories of U users to (U, L) scores, which the caller may overwrite; -inf is never recommended."""


def rank_items(score: Scorer, histories: Sequences, k: int, *, repeats: bool = False) -> tuple[Tensor, Tensor]:
    """Return the best k items of each user and their scores; works in blocks, so memory does not grow with U x L.

    Args:
        score: computes the scores of a block of users.
        histories: U users.
        k: 1 to L.
        repeats: whether items of the history may be recommended.

    Returns:
        (U, k) int64 item numbers, best first, and (U, k) float32 scores. Ranks for which no item is left hold
        NO_ITEM (-1) and -inf.

    Raises:
        ConfigError: k is outside 1 to L.
    """
    k = check_depth(k, histories.num_items)
    size = max(BLOCK_NUMBERS // histories.num_items, 16)
    blocks = [
        _rank_block(score, histories.block(start, start + size), k, repeats) for start in range(0, len(histories), size)
    ]
    if not blocks:
        return torch.empty(0, k, dtype=torch.int64), torch.empty(0, k)
    items, scores = (torch.cat(tensors) for tensors in zip(*blocks, strict=True))
    return items, scores


def check_depth(k: int, num_items: int) -> int:
    """Return k, perhaps an integer of numpy, as an int; raise ConfigError unless it is 1 to the number of items."""
    depth = as_whole(k)
    if depth is None or not 1 <= depth <= num_items:
        raise ConfigError(f"k = {k!r} is not allowed. Expected 1 to {num_items:,}, the number of items")
    return depth


def _rank_block(score: Scorer, block: Sequences, k: int, repeats: bool) -> tuple[Tensor, Tensor]:
    scores = score(block)
    if not repeats:
        scores[block.users, block.items] = -torch.inf
    best, items = top_k(scores, k)
    return items.masked_fill_(best == -torch.inf, NO_ITEM).cpu(), best.float().cpu()


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest scores of each row of (U, L), largest first, and their columns; ties in any order.

    The k largest lie in the k groups with the largest maxima. So with groups of 16 columns only L / 16 maxima and 16 k
    candidates are sorted. The result is exact.
    """
    rows, width = scores.shape
    groups = width // GROUPS
    if groups < 64 * k:  # sorting the row itself is as fast
        values, indices = scores.topk(k)
        return values, indices
    whole = scores[:, : groups * GROUPS].unflatten(1, (GROUPS, groups))  # group g holds columns g, g + groups, ...
    _, best_groups = whole.amax(1).topk(k, sorted=False)
    columns = (best_groups[:, :, None] + groups * torch.arange(GROUPS, device=scores.device)).flatten(1)
    rest = torch.arange(groups * GROUPS, width, device=scores.device).expand(rows, -1)
    columns = torch.cat([columns, rest], 1)
    best, places = scores.gather(1, columns).topk(k)
    return best, columns.gather(1, places)


def find_hits(ranked: Tensor, truth: SparseLabels) -> Tensor:
    """Return (U, k) bool: whether each rank holds a true item for the first time."""
    keys = truth.keys  # ascending
    if len(keys) == 0:
        return torch.zeros_like(ranked, dtype=torch.bool)
    ranked_keys = torch.arange(len(ranked))[:, None] * truth.num_labels + ranked
    is_true = keys[torch.searchsorted(keys, ranked_keys).clamp(max=len(keys) - 1)] == ranked_keys
    repeated = (ranked[:, :, None] == ranked[:, None, :]).tril(-1).any(2)
    return is_true & ~repeated & (ranked != NO_ITEM)


def score_ranking(ranked: Tensor, truth: SparseLabels, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the values of metrics, for example "map@3", for each user with a true item.

    Args:
        ranked: (U, k) int64 item numbers, best first; NO_ITEM fills ranks without an item.
        truth: U rows, the true items.
        names: each is "map", "recall", "ndcg", "hit" or "mrr", then "@" and a number from 1 to k.

    Returns:
        name -> (V,) float64 in [0, 1], for the V <= U users with at least one true item.

    Raises:
        ConfigError: a metric is unknown, or its k exceeds the number of ranked items.

    >>> truth = SparseLabels.from_lists([[4, 7, 9]], num_labels=10)
    >>> score_ranking(torch.tensor([[4, 1, 9]]), truth, ["map@3"])["map@3"].item() == (1 / 1 + 2 / 3) / 3
    True
    """
    sizes = truth.lengths
    with_truth = sizes > 0
    hits = find_hits(ranked, truth)[with_truth].double()
    return {name: _metric(name, hits, sizes[with_truth].double()) for name in names}


def _metric(name: str, hits: Tensor, sizes: Tensor) -> Tensor:
    kind, _, number = name.partition("@")
    if kind not in METRICS or not number.isdigit() or not 1 <= int(number) <= hits.shape[1]:
        raise ConfigError(
            f"metric {name!r} is not allowed. Expected one of {', '.join(METRICS)}, then '@' and "
            f"1 to {hits.shape[1]}, for example map@3"
        )
    return METRICS[kind](hits[:, : int(number)], sizes)


def _map(hits: Tensor, sizes: Tensor) -> Tensor:
    precisions = hits.cumsum(1) / _ranks(hits)
    return (hits * precisions).sum(1) / sizes.clamp(max=hits.shape[1])


def _ndcg(hits: Tensor, sizes: Tensor) -> Tensor:
    gains = 1 / torch.log2(_ranks(hits) + 1)
    ideal = gains.cumsum(0)[sizes.clamp(max=hits.shape[1]).long() - 1]
    return (hits * gains).sum(1) / ideal


def _ranks(hits: Tensor) -> Tensor:
    return torch.arange(1, hits.shape[1] + 1, dtype=torch.float64)


METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "map": _map,
    "recall": lambda hits, sizes: hits.sum(1) / sizes,
    "ndcg": _ndcg,
    "hit": lambda hits, sizes: hits.amax(1),
    "mrr": lambda hits, sizes: (hits / _ranks(hits)).amax(1),
}


def coverage(ranked: Tensor, num_items: int) -> float:
    """Return the fraction of the catalog that is recommended to any user."""
    return len(ranked[ranked != NO_ITEM].unique()) / max(num_items, 1)


def only(truth: SparseLabels, mask: Tensor) -> SparseLabels:
    """Return the truth with only the items whose (L,) bool mask is True."""
    selected = mask[truth.indices]
    pairs = SparseLabels(row_pointers(selected)[truth.indptr], truth.indices[selected], truth.num_labels)
    return counted_as(pairs, truth)


def sharded_top_k(scores: Tensor, k: int, *, first: int, num_labels: int) -> tuple[Tensor, Tensor]:
    """Return the k largest scores of each row over the labels of all processes, largest first, and their labels.

    Of equal scores the lower label is first, so the result does not depend on the number of processes. Every process
    must call it and gets the same result. Each process sends (U, k) scores and labels.

    Args:
        scores: (U, L_r) float, of this process's labels, as ShardedLoss.part has them.
        k: 1 to L.
        first: number of the first of these labels.
        num_labels: L, of all processes.

    Returns:
        (U, k) scores and (U, k) int64 labels.

    Raises:
        ConfigError: k is outside 1 to L.
        TrainingError: another process has ended.
    """
    k = check_depth(k, num_labels)
    values, columns = stable_top_k(scores, min(k, scores.shape[1]))
    missing = k - values.shape[1]  # with fewer labels than k here; the padding is never among the best k
    values = torch.nn.functional.pad(values, (0, missing), value=-torch.inf)
    labels = torch.nn.functional.pad(columns + first, (0, missing), value=num_labels)
    values, labels = torch.cat(all_gather(values), 1), torch.cat(all_gather(labels), 1)
    order = labels.argsort(1)
    values, labels = values.gather(1, order), labels.gather(1, order)
    best, places = values.sort(stable=True, dim=1, descending=True)
    return best[:, :k], labels.gather(1, places[:, :k])


def stable_top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k largest scores of each row of (U, L), largest first, and their columns; of ties the lower first.

    >>> [tensor.tolist() for tensor in stable_top_k(torch.tensor([[1.0, 3.0, 1.0, 2.0, 1.0]]), 4)]
    [[[3.0, 2.0, 1.0, 1.0]], [[1, 3, 0, 2]]]
    """
    if k == 0 or len(scores) == 0:
        return scores[:, :k], torch.empty_like(scores[:, :k], dtype=torch.int64)
    least = top_k(scores, k)[0][:, -1:]
    rows, columns = (scores >= least).nonzero(as_tuple=True)  # the best k, and all ties with the last of them
    order = order_within_rows(rows, scores[rows, columns])
    starts = torch.searchsorted(rows, torch.arange(len(scores), device=rows.device))
    columns = columns[order[starts[:, None] + torch.arange(k, device=rows.device)]]
    return scores.gather(1, columns), columns


def order_within_rows(rows: Tensor, values: Tensor) -> Tensor:
    """Return the order of P entries by row, then by falling value, then by position."""
    order = values.argsort(descending=True, stable=True)
    return order[rows[order].argsort(stable=True)]
