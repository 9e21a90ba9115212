"""Which labels a sampled loss draws."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyperfocal.errors import ConfigError
from hyperfocal.losses.options import LOSSES, label_vector


def draw(
    count: int,
    num_labels: int,
    probabilities: Tensor | None,
    generator: torch.Generator | None,
    device: torch.device,
) -> Tensor:
    """Return (count,) int64 labels on a device, drawn with replacement.

    Args:
        count: how many.
        num_labels: L.
        probabilities: (L,), or None for all labels alike.
        generator: None takes torch's own of the device.
        device: of the result.
    """
    where = device if generator is None else generator.device
    if probabilities is None:
        return torch.randint(num_labels, (count,), generator=generator, device=where).to(device)
    edges = probabilities.to(where).double().cumsum(0)
    points = edges[-1] * torch.rand(count, generator=generator, device=where, dtype=torch.float64)
    return torch.searchsorted(edges, points, right=True).clamp(max=num_labels - 1).to(device)


def probabilities_from(distribution: Tensor | Sequence[float] | None) -> Tensor | None:
    """Return numbers that are in proportion to the distribution and sum to 1, (L,), or None.

    Raises:
        ConfigError: another shape; numbers below 0, not finite, or all 0.
    """
    vector = label_vector("distribution", distribution)
    if vector is None:
        return None
    if bool((vector < 0).any()) or not bool((vector > 0).any()):
        raise ConfigError("distribution: no label may have less than 0, and one must have more")
    return vector / vector.sum()


def drawn_by(loss: Any, like: Tensor, num_labels: int) -> Tensor:
    """Return what `loss.draw` gives, on the device of `like`; as an operator while a compiler traces."""
    called: Tensor = (_draw_op if torch.compiler.is_compiling() else _draw)(like, loss.number, num_labels)
    return called


def _draw(like: Tensor, number: int, num_labels: int) -> Tensor:
    loss: Any = LOSSES[number]
    drawn: Tensor = loss.draw(num_labels, like.device)
    return drawn


_draw_op = torch.library.custom_op("hyperfocal::draw", _draw, mutates_args=())  # no compiler can trace a generator


@_draw_op.register_fake
def _(like: Tensor, number: int, num_labels: int) -> Tensor:
    loss: Any = LOSSES[number]
    return like.new_empty(loss.num_negatives, dtype=torch.int64)
