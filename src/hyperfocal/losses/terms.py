"""The scalar function that focal losses are made of, f(z) = sigmoid(z)^gamma * softplus(z), and its derivative."""

import torch
from torch import Tensor
from torch.nn import functional

ValueAndSlope = tuple[Tensor, Tensor]


def focal(logits: Tensor, gamma: float, *, detach: bool = False) -> Tensor:
    """Return f(z); with `detach`, autograd takes the factor sigmoid(z)^gamma as a constant."""
    power = focal_power(logits, gamma)
    return (power.detach() if detach else power) * functional.softplus(logits)


def focal_with_slope(logits: Tensor, gamma: float, *, detach: bool = False) -> ValueAndSlope:
    """Return f(z) and f'(z) = p^gamma * (gamma * (1 - p) * softplus(z) + p), or p^gamma * p with `detach`."""
    p = torch.sigmoid(logits)
    power = p**gamma if float(gamma).is_integer() else focal_power(logits, gamma)
    value = functional.softplus(logits)
    slope = p if detach else torch.addcmul(p, 1 - p, value, value=gamma)
    return value.mul_(power), slope.mul_(power)


def focal_power(logits: Tensor, gamma: float) -> Tensor:
    """Return sigmoid(z)^gamma; in log space, where a whole power does not spare the logarithm."""
    if float(gamma).is_integer():
        return torch.sigmoid(logits) ** int(gamma)
    return torch.exp(gamma * functional.logsigmoid(logits))
