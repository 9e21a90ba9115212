"""Row-wise Adagrad: an optimizer that keeps one number a row, for matrices of a million rows and more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from hyperfocal.errors import ConfigError


class RowwiseAdagrad(Optimizer):
    """Adagrad whose accumulator is one number a row.

    With g the gradient plus `weight_decay` * w, for each row r of D numbers, and s from 0 on:

        s[r]    <-  s[r] + (sum over d of g[r, d]^2) / D
        w[r, d] <-  w[r, d] - lr * g[r, d] / (sqrt(s[r]) + eps)

    A row is what one index of the first dimension holds; of a vector, each number is a row, and this is plain Adagrad.
    Rows without a gradient stay as they are, but for weight decay. State: 4 / D bytes a number of float32, where Adam
    has 8; a step needs no temporary of the size of the parameter, unless there is weight decay.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, above 0.
        weight_decay: 0 or more.
        eps: above 0, added to the root.

    Raises:
        ConfigError: a number out of range; in `step`, a gradient that is a sparse tensor.

    Source: Mudigere et al. 2022, Software-Hardware Co-design for Fast and Scalable Training of Deep Learning
    Recommendation Models; FBGEMM's EXACT_ROWWISE_ADAGRAD.
    """

    def __init__(self, params: ParamsT, lr: float = 0.01, *, weight_decay: float = 0.0, eps: float = 1e-8) -> None:
        allowed = {"lr": (lr, lr > 0), "eps": (eps, eps > 0), "weight_decay": (weight_decay, weight_decay >= 0)}
        for name, (value, right) in allowed.items():
            if not right:
                least = "0 or more" if name == "weight_decay" else "more than 0"
                raise ConfigError(f"{name} = {value} is not allowed. Expected {least}")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step, and return what `closure` does where there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, parameter.grad, group)
        return loss

    def _step_one(self, parameter: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        if parameter.dtype in (torch.bfloat16, torch.float16):
            raise ConfigError(
                f"row-wise Adagrad does not take {parameter.dtype} parameters: its sums would stop growing. "
                "Keep them in float32, under autocast"
            )
        if grad.is_sparse:
            raise ConfigError("row-wise Adagrad takes dense gradients. Make the embedding with sparse=False")
        if group["weight_decay"]:
            grad = grad.add(parameter, alpha=group["weight_decay"])
        if not self.state[parameter]:
            rows = parameter.shape[:1]
            self.state[parameter]["sum"] = torch.zeros(rows, dtype=parameter.dtype, device=parameter.device)
        total: Tensor = self.state[parameter]["sum"]
        total.add_(_mean_square(grad))
        root = total.sqrt().add_(group["eps"])
        parameter.addcdiv_(grad, root.reshape(root.shape + (1,) * (grad.ndim - root.ndim)), value=-group["lr"])


def _mean_square(grad: Tensor) -> Tensor:
    """Return (R,), the mean of the squares of each row, without a temporary of the size of `grad`."""
    if grad.ndim < 2:
        return grad.square()
    flat = grad.flatten(1)
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
    return norms.square_().div_(flat.shape[1])
