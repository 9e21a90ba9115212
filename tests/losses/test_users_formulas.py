"""Gradients of a user's own formulas: terms that are infinite where they do not count, and parameters of the loss."""

import pytest
import torch

from hyperfocal.errors import ConfigError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import SeparableLoss, ShardedLoss, SoftmaxLoss
from loss_cases import make


class Exponential(SeparableLoss):
    """A user's loss whose terms end at infinity where they do not count."""

    def positive(self, logits):
        return (-logits).exp()

    def negative(self, logits):
        return logits.exp()


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_a_term_that_does_not_count_may_be_infinite(backend):
    """In float32 exp(100) is infinity, and 0 times infinity would be NaN."""
    hidden, weight = torch.ones(1, 1, requires_grad=True), torch.tensor([[100.0], [-100.0]], requires_grad=True)
    labels = SparseLabels.from_lists([[0]], num_labels=2)
    value = Exponential(backend=backend)(hidden, weight, None, labels)
    gradients = torch.autograd.grad(value, (hidden, weight), create_graph=True)
    second = torch.autograd.grad(sum(gradient.square().sum() for gradient in gradients), (hidden, weight))
    assert value < 1e-40
    assert all(part.isfinite().all() for part in (*gradients, *second))


class Learned(SeparableLoss):
    """A user's loss with a parameter."""

    def __init__(self, **options):
        super().__init__(**options)
        self.scale = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def positive(self, logits):
        return self.scale * (1 - logits) ** 2

    def negative(self, logits):
        return logits**2


class TestParametersOfTheLoss:
    def test_the_fused_call_refuses_them(self):
        """It gave them no gradient, in silence."""
        inputs = make("odd")
        loss = Learned()
        with pytest.raises(ConfigError, match=r"Learned\.scale requires a gradient, which the fused call does not"):
            loss(*inputs)
        with torch.no_grad():
            value = loss(*inputs)
        torch.testing.assert_close(value, loss.requires_grad_(False)(*inputs).detach())

    def test_a_sharded_loss_refuses_them(self):
        with pytest.raises(ConfigError, match=r"Learned\.scale requires a gradient"):
            ShardedLoss(Learned(), 13)(*make("odd"))
        ShardedLoss(Learned().requires_grad_(False), 13)(*make("odd")).backward()

    @pytest.mark.parametrize("name", ["positive_weight", "logit_shift"])
    def test_a_buffer_that_requires_a_gradient_later(self, name):
        loss = SoftmaxLoss(positive_weight=torch.ones(13), log_prior=torch.zeros(13))
        getattr(loss, name).requires_grad_()
        for call in (loss, ShardedLoss(loss, 13)):
            with pytest.raises(ConfigError, match=rf"SoftmaxLoss\.{name} requires a gradient, .* Freeze it"):
                call(*make("odd"))

    def test_the_reference_backend_differentiates_them(self):
        loss = Learned(backend="reference")
        loss(*make("odd")).backward()
        assert loss.scale.grad != 0

    @pytest.mark.parametrize("name", ["positive_weight", "log_prior"])
    def test_weights_that_require_a_gradient(self, name):
        weights = torch.ones(13, requires_grad=True)
        with pytest.raises(ConfigError, match=rf"{name} requires a gradient, .* Pass {name}\.detach\(\)"):
            SoftmaxLoss(**{name: weights})
        SoftmaxLoss(**{name: weights.detach()})(*make("odd")).backward()
