"""Propensities: how likely a true label is to have been noticed by those who labelled the documents."""

from __future__ import annotations

import math

from torch import Tensor

from hyperfocal.errors import DataError


def propensities(counts: Tensor, num_examples: int, a: float = 0.55, b: float = 1.5) -> Tensor:
    """Return (L,) float64 in (0, 1): how likely a true label is to have been noticed, from its frequency.

    p_l = 1 / (1 + C * (N_l + b)^-a),  C = (log(num_examples) - 1) * (b + 1)^a

    Args:
        counts: (L,) training documents of each label, N_l.
        num_examples: training documents, 3 or more (below e, C is negative).
        a: of the data set; 0.55 where nobody has fitted it.
        b: of the data set; 1.5 where nobody has fitted it.

    Raises:
        DataError: num_examples below 3 or below a label's count.

    Source: Jain, Prabhu and Varma 2016, Extreme Multi-label Loss Functions, section 4 and its constants.
    """
    least = max([3, *counts.tolist()])
    if num_examples < least:
        raise DataError(
            f"num_examples = {num_examples} is not allowed. Expected {least} or more: 3, and any label's count"
        )
    scale = (math.log(num_examples) - 1) * math.pow(b + 1, a)
    return (1 + scale * (counts.double() + b).pow(-a)).reciprocal()
