"""The losses and shapes that the conformance suite runs over, and the calls of a loss."""

import pytest
import torch

from hyperfocal.labels import SparseLabels
from hyperfocal.losses import AsymmetricLoss, BCELoss, DistributionBalancedLoss, FocalLoss, SeparableLoss, SoftmaxLoss


class Squared(SeparableLoss):
    """A user's loss in two methods."""

    def positive(self, logits):
        return (1 - logits) ** 2

    def negative(self, logits):
        return logits**2


class StraightLines(SeparableLoss):
    """A user's loss whose values share the logits' memory, and whose slopes autograd gives as one number, expanded."""

    def positive(self, logits):
        return 1 - logits

    def negative(self, logits):
        return logits


def some_counts(num_labels):
    """Return the number of training examples, of 100, of each label; the first has none, some have all."""
    return torch.arange(num_labels) * 37 % 101


def some_weights(num_labels):
    return 0.5 + torch.arange(num_labels) * 7 % 5


def db(num_labels, **options):
    return DistributionBalancedLoss(some_counts(num_labels), 100, **options)


def prior(num_labels):
    return torch.log_softmax(-torch.arange(num_labels) / 3, 0)


LOSSES = {  # name -> (number of labels, options) -> loss
    "bce": lambda n, **o: BCELoss(**o),
    "bce, weighted": lambda n, **o: BCELoss(positive_weight=some_weights(n), **o),
    **{f"focal {gamma}": lambda n, gamma=gamma, **o: FocalLoss(gamma, **o) for gamma in (0, 0.5, 2, 5)},
    "focal, alpha": lambda n, **o: FocalLoss(2, 0.25, **o),
    "focal, alpha 1": lambda n, **o: FocalLoss(0.5, 1, **o),
    "focal, weighted": lambda n, **o: FocalLoss(2, 0.25, positive_weight=some_weights(n), **o),
    "asymmetric": lambda n, **o: AsymmetricLoss(**o),
    "asymmetric, roots": lambda n, **o: AsymmetricLoss(0.5, 0.5, 0.2, **o),
    "asymmetric, no gamma": lambda n, **o: AsymmetricLoss(1, 0, 0.1, positive_weight=some_weights(n), **o),
    "asymmetric, no margin": lambda n, **o: AsymmetricLoss(1, 4, 0, **o),
    "asymmetric, detached": lambda n, **o: AsymmetricLoss(1, 4, 0.05, detach=True, **o),
    "distribution-balanced": lambda n, **o: db(n, **o),
    "r-bce": lambda n, **o: db(n, gamma=0, kappa=0, negative_scale=1, positive_weight=some_weights(n), **o),
    "ntr-focal": lambda n, **o: db(n, rebalance=False, **o),
    "user's": lambda n, **o: Squared(**o),
    "user's, weighted": lambda n, **o: Squared(positive_weight=some_weights(n), **o),
    "user's lines": lambda n, **o: StraightLines(**o),
    "softmax": lambda n, **o: SoftmaxLoss(**o),
    "softmax, all": lambda n, **o: SoftmaxLoss(
        temperature=2,
        label_smoothing=0.1,
        log_prior=prior(n),
        tau=0.5,
        gamma=2,
        positive_weight=some_weights(n),
        **o,
    ),
    **{f"softmax focal {gamma}": lambda n, gamma=gamma, **o: SoftmaxLoss(gamma=gamma, **o) for gamma in (0.5, 5)},
}

SHAPES = {  # B, L, D, the labels of each row, and the masked pairs of each row
    "aligned": (8, 16, 4, [[row, 8 + row] for row in range(8)], [[row, 15] for row in range(8)]),
    "odd": (5, 13, 3, [[12], [], [0, 7], [4, 5, 6, 7], [3]], [[], [1, 12], [7, 8], [0, 5], [3]]),
    "one label": (6, 1, 2, [[0], [], [0], [], [], [0]], [[0], [0], [], [], [], []]),
    "one row": (1, 9, 3, [[2, 8]], [[0, 8]]),
    "one width": (3, 5, 1, [[0], [1], [4]], [[0, 1, 2, 3, 4], [0, 2, 3, 4], [0]]),
    "no positives": (4, 7, 2, [[], [], [], []], [[0], [6], [], list(range(7))]),
    "all positives": (3, 6, 2, [list(range(6))] * 3, [[], [5], list(range(6))]),
    "duplicate labels": (3, 10, 2, [[4, 4, 9], [9, 9, 9], [0, 4, 0]], [[4, 4], [1, 1], []]),
    "empty batch": (0, 5, 2, [], []),
    "no width": (2, 3, 0, [[0], [1, 2]], [[0], [0]]),
}


def rest_is_slow(cases, default):
    """Return the parameters of a test, id -> values, of which only the `default` ids belong to the short suite."""
    return [
        pytest.param(*values, id=name, marks=() if name in default else pytest.mark.slow)
        for name, values in cases.items()
    ]


def make(shape, *, dtype=torch.float64, seed=0):
    """Return hidden, weight, bias (leaves that need a gradient), labels and mask."""
    batch, num_labels, width, rows, masked = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    sizes = ((batch, width), (num_labels, width), (num_labels,))
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]
    return *tensors, *(SparseLabels.from_lists(lists, num_labels=num_labels) for lists in (rows, masked))


def far_and_near(dtype):
    """Return inputs whose logits are -100 to 100, and whose losses sum to more than 65504, the end of float16."""
    hidden = torch.linspace(-100, 100, 201, dtype=dtype)[:, None].requires_grad_()
    weight, bias = torch.ones(40, 1, dtype=dtype), torch.zeros(40, dtype=dtype)
    weight[::3] = -1
    labels = SparseLabels.from_lists([[row % 40, (7 * row) % 40] for row in range(201)], num_labels=40)
    return hidden, weight.requires_grad_(), bias.requires_grad_(), labels


def fused(loss, hidden, weight, bias, labels, mask=None):
    return loss(hidden, weight, bias, labels, mask)


def dense(loss, hidden, weight, bias, labels, mask=None):
    """Return the loss from all logits at once, with gradients by autograd."""
    return loss.from_logits(hidden @ weight.T + (0 if bias is None else bias), labels, mask)


def value_and_gradients(call, loss, hidden, weight, bias, labels, mask=None):
    """Return the loss, and the gradients of the inputs that need one; for a loss per row, of a weighted sum."""
    value = call(loss, hidden, weight, bias, labels, mask)
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None and tensor.requires_grad]
    factors = 1 + torch.arange(value.numel(), dtype=value.dtype, device=value.device).reshape(value.shape)
    return [value.detach(), *torch.autograd.grad((factors * value).sum(), inputs)]


def penalised(call, loss, hidden, weight, bias, labels, mask=None):
    """Return the log of the loss plus weighted squares of its gradients, and the gradients of that sum.

    The incoming gradient of the loss depends on the inputs too, and differs from row to row.
    """
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None and tensor.requires_grad]
    value = call(loss, hidden, weight, bias, labels, mask)
    factors = 1 + torch.arange(value.numel(), dtype=value.dtype, device=value.device).reshape(value.shape)
    total = ((factors * value).sum() + 1000).log()
    gradients = torch.autograd.grad(total, inputs, create_graph=True)
    for factor, gradient in enumerate(gradients, start=1):
        total = total + 1e4 * factor * gradient.square().sum()
    return [total.detach(), *torch.autograd.grad(total, inputs)]
