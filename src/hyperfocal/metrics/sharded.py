"""The best k of L labels whose scores are dealt out over several processes, which exchange their best k alone."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfocal.distributed import all_gather
from hyperfocal.metrics.ranking import check_depth


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
