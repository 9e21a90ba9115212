"""Autocast, and float16 with a scaled loss."""

import pytest
import torch

from hyperfocal.labels import SparseLabels
from hyperfocal.losses import FocalLoss, GBCELoss, SampledSoftmaxLoss
from loss_cases import LOSSES, fused, make, value_and_gradients

CASES = {name: build for name, build in LOSSES.items() if name != "user's lines"}  # its terms cancel: all is rounding
every_loss = pytest.mark.parametrize("build", CASES.values(), ids=CASES)
every_half = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)


@every_loss
@every_half
class TestAutocast:
    def test_near_float32_and_gradients_have_the_dtype_of_their_input(self, build, half):
        """As in training: hidden is half, from a layer under autocast; weight and bias are float32."""
        *tensors, labels, mask = make("aligned", dtype=torch.float32)
        loss = build(16, chunk_labels=4)
        exact = value_and_gradients(fused, loss, *tensors, labels, mask)
        hidden = tensors[0].detach().to(half).requires_grad_()
        with torch.autocast("cpu", half):
            got = value_and_gradients(fused, loss, hidden, *tensors[1:], labels, mask)
        assert [part.dtype for part in got] == [torch.float32, half, torch.float32, torch.float32]
        for part, true in zip(got, exact, strict=True):
            assert (part - true).abs().max() <= 0.03 * true.abs().max()

    def test_the_products_are_half_as_in_an_unfused_layer(self, build, half):
        *tensors, labels, mask = make("odd", dtype=torch.float32)
        loss = build(13, chunk_labels=4)
        with torch.autocast("cpu", half):
            walked = loss(*tensors, labels, mask)
            logits = torch.nn.functional.linear(*tensors)
            plain = loss.from_logits(logits, labels, mask)
        assert logits.dtype == half
        torch.testing.assert_close(walked, plain, rtol=torch.finfo(half).eps, atol=1e-5)


@pytest.mark.parametrize("loss", [SampledSoftmaxLoss(4), GBCELoss(4)], ids=repr)
@every_half
def test_sampled_losses_under_autocast(loss, half):
    *tensors, labels, mask = make("odd", dtype=torch.float32)
    with torch.autocast("cpu", half):
        value, *gradients = value_and_gradients(fused, loss, *tensors, labels, mask)
    assert value.dtype == torch.float32
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_float64_stays_float64_under_autocast():
    inputs = make("odd")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(FocalLoss()(*inputs), FocalLoss()(*inputs[:2], inputs[2], *inputs[3:]))
        assert FocalLoss()(*inputs).dtype == torch.float64


def test_a_scaled_loss_saves_gradients_that_float16_cannot_hold():
    """The gradient of hidden is below 6e-8, the smallest number of float16; the scale of 2^16 brings it back."""
    generator = torch.Generator().manual_seed(0)
    encoder = torch.randn(4, 4, generator=generator).requires_grad_()
    data, weight = torch.randn(64, 4, generator=generator), torch.randn(300, 4, generator=generator)
    labels, bias = SparseLabels.from_lists([[]] * 64, num_labels=300), torch.full((300,), -4.6)
    inputs = ((0.02 * weight).requires_grad_(), bias, labels)
    loss = FocalLoss(2, reduction="mean", chunk_labels=64)
    hidden = data @ encoder
    of_hidden, *expected = torch.autograd.grad(loss(hidden, *inputs), (hidden, encoder, inputs[0]))
    assert of_hidden.abs().max() < 6e-8
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    with torch.autocast("cpu", torch.float16):
        value = loss(data @ encoder, *inputs)
    scaler.scale(value).backward()
    scaler.unscale_(torch.optim.SGD([encoder, inputs[0]], lr=0))
    for got, true in zip((encoder.grad, inputs[0].grad), expected, strict=True):
        assert (got - true).abs().max() <= 0.01 * true.abs().max()
