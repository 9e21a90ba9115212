"""Optimizers by name, the schedule of their rate, and row-wise Adagrad for matrices of a million rows and more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import ParamsT

from hyperfocal.config.sections import TrainSettings
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


def make_optimizer(parameters: ParamsT, settings: TrainSettings) -> Optimizer:
    """Return the optimizer that the settings name, of parameters or of groups of them."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(parameters, rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    if settings.optimizer == "rowwise_adagrad":
        return RowwiseAdagrad(parameters, rate, weight_decay=decay)
    kind = Adam if settings.optimizer == "adam" else AdamW
    return kind(parameters, rate, weight_decay=decay, fused=True)


def clip_gradients(model: nn.Module, largest: float) -> None:
    """Scale gradients so that their norm is at most `largest`; nn.utils.clip_grad_norm_ refuses sparse ones."""
    parts = []
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            parts.append(parameter.grad.values())  # a view
        elif parameter.grad is not None:
            parts.append(parameter.grad)
    factor = (largest / (nn.utils.get_total_norm(parts) + 1e-6)).clamp(max=1)
    for part in parts:
        part.mul_(factor)


def schedule_factor(settings: TrainSettings, step: int, total_steps: int) -> float:
    """Return what the learning rate is multiplied with at a step, from 0.

    In the w warm-up steps (step + 1) / w; then 1, or for "cosine" with t from 0 to 1 over the rest,
    (1 + cos(pi t)) / 2.

    >>> [schedule_factor(TrainSettings(warmup_steps=2, schedule="cosine"), step, 4) for step in (0, 1, 2, 3)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = settings.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup) / max(total_steps - warmup, 1))) / 2
