"""Optimizers by name, the learning-rate schedule, and row-wise Adagrad for matrices of a million rows and more."""

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
    """Adagrad with one accumulator per row.

    With g the gradient plus `weight_decay` * w, for each row r of D numbers, and s starting at 0:

        s[r]    <-  s[r] + (sum over d of g[r, d]^2) / D
        w[r, d] <-  w[r, d] - lr * g[r, d] / (sqrt(s[r]) + eps)

    A row is one index of the first dimension. Each number of a vector is a row, which gives plain Adagrad. Rows without
    a gradient change only by weight decay. State: 4 / D bytes per float32 number, where Adam needs 8. A step needs no
    temporary of the size of the parameter, except with weight decay.

    Args:
        params: parameters, or groups of them.
        lr: learning rate, above 0.
        weight_decay: 0 or more.
        eps: above 0, added to the root.

    Raises:
        ConfigError: a number is out of range; in `step`, a gradient is a sparse tensor or a parameter has 16 bits.

    Source: Mudigere et al. 2022, Software-Hardware Co-design for Fast and Scalable Training of Deep Learning
    Recommendation Models; FBGEMM's EXACT_ROWWISE_ADAGRAD.
    """

    def __init__(self, params: ParamsT, lr: float = 0.01, *, weight_decay: float = 0.0, eps: float = 1e-8) -> None:
        for name, value in {"lr": lr, "eps": eps}.items():
            if not value > 0:
                raise ConfigError(f"{name} = {value} is not allowed. Expected more than 0")
        if not weight_decay >= 0:
            raise ConfigError(f"weight_decay = {weight_decay} is not allowed. Expected 0 or more")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step, and return the result of `closure` if there is one."""
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
                f"row-wise Adagrad does not support {parameter.dtype} parameters: its sums would stop growing. "
                "Keep them in float32, under autocast"
            )
        if grad.is_sparse:
            raise ConfigError("row-wise Adagrad needs dense gradients. Make the embedding with sparse=False")
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
    """Return (R,), the mean square of each row, without a temporary of the size of `grad`."""
    if grad.ndim < 2:
        return grad.square()
    flat = grad.flatten(1)
    norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
    return norms.square_().div_(flat.shape[1])


def make_optimizer(parameters: ParamsT, settings: TrainSettings) -> Optimizer:
    """Return the optimizer that the settings name, for parameters or groups of them."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        return SGD(parameters, rate, momentum=settings.momentum, weight_decay=decay, fused=True)
    if settings.optimizer == "rowwise_adagrad":
        return RowwiseAdagrad(parameters, rate, weight_decay=decay)
    kind = Adam if settings.optimizer == "adam" else AdamW
    return kind(parameters, rate, weight_decay=decay, fused=True)


def clip_gradients(model: nn.Module, largest: float) -> None:
    """Scale gradients so that their norm is at most `largest`; nn.utils.clip_grad_norm_ refuses sparse gradients."""
    gradients = []
    for parameter in model.parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            gradients.append(parameter.grad.values())  # a view
        elif parameter.grad is not None:
            gradients.append(parameter.grad)
    factor = (largest / (nn.utils.get_total_norm(gradients) + 1e-6)).clamp(max=1)
    for gradient in gradients:
        gradient.mul_(factor)


def schedule_factor(settings: TrainSettings, step: int, total_steps: int) -> float:
    """Return the factor of the learning rate at a step, counted from 0.

    (step + 1) / w in the w warm-up steps. Then 1, or (1 + cos(pi t)) / 2 for "cosine", with t from 0 to 1 over the
    remaining steps.

    >>> [schedule_factor(TrainSettings(warmup_steps=2, schedule="cosine"), step, 4) for step in (0, 1, 2, 3)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = settings.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if settings.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warmup) / max(total_steps - warmup, 1))) / 2
