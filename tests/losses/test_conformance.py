"""Properties of every loss on every backend: one suite that a new loss or backend joins with one line."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.labels import SparseLabels
from hyperfocal.losses import AsymmetricLoss, FocalLoss, SeparableLoss, SoftmaxLoss
from hyperfocal.losses.options import REDUCTIONS
from loss_cases import LOSSES, SHAPES, dense, far_and_near, fused, make, value_and_gradients

BACKENDS = ("reference", "chunked", "auto")
EXACT = {name: build for name, build in LOSSES.items() if "detached" not in name}  # gradient = that of the value
PLAIN = {name: build for name, build in LOSSES.items() if not list(build(1).buffers())}  # no number per label
SEPARABLE = {name: build for name, build in LOSSES.items() if isinstance(build(1), SeparableLoss)}

every_loss = pytest.mark.parametrize("build", LOSSES.values(), ids=LOSSES)
every_backend = pytest.mark.parametrize("backend", BACKENDS)
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@every_loss
@every_backend
class TestEveryLossAndBackend:
    """Chunks of 4 labels, so that the shapes need up to four of them."""

    @every_shape
    def test_value_and_gradients_equal_dense_maths(self, build, backend, shape):
        *tensors, labels, mask = make(shape)
        loss = build(SHAPES[shape][1], backend=backend, chunk_labels=4)
        for masked in (None, mask):
            inputs = (*tensors, labels, masked)
            torch.testing.assert_close(
                value_and_gradients(fused, loss, *inputs), value_and_gradients(dense, loss, *inputs)
            )

    @every_dtype
    def test_finite_at_every_logit(self, build, backend, dtype):
        loss = build(40, backend=backend, chunk_labels=16, reduction="mean")
        for part in value_and_gradients(fused, loss, *far_and_near(dtype)):
            assert part.isfinite().all()

    @every_dtype
    def test_the_loss_is_float32_and_gradients_have_the_dtype_of_their_input(self, build, backend, dtype):
        value, *gradients = value_and_gradients(fused, build(13, backend=backend), *make("odd", dtype=dtype))
        assert value.dtype == torch.float32
        assert {gradient.dtype for gradient in gradients} == {dtype}

    def test_no_input_is_modified_and_twice_gives_the_same(self, build, backend):
        *tensors, labels, mask = make("odd")
        loss = build(13, backend=backend, chunk_labels=4)
        kept = (*tensors, labels.indptr, labels.indices, mask.indptr, mask.indices, *loss.buffers())
        before = [tensor.detach().clone() for tensor in kept]
        first = value_and_gradients(fused, loss, *tensors, labels, mask)
        second = value_and_gradients(fused, loss, *tensors, labels, mask)
        assert all(map(torch.equal, first, second))
        assert all(map(torch.equal, before, kept))


@every_loss
class TestChunked:
    """Properties of dense maths that the walk over label chunks must keep."""

    def test_without_bias(self, build):
        hidden, weight, _, *sparse = make("odd")
        loss, inputs = build(13, chunk_labels=4), (hidden, weight, None, *sparse)
        torch.testing.assert_close(value_and_gradients(fused, loss, *inputs), value_and_gradients(dense, loss, *inputs))

    @pytest.mark.parametrize("needed", [0, 1, 2], ids=["hidden", "weight", "bias"])
    def test_only_one_input_needs_its_gradient(self, build, needed):
        *tensors, labels, mask = make("odd")
        tensors = [tensor.detach().requires_grad_(number == needed) for number, tensor in enumerate(tensors)]
        loss, inputs = build(13, chunk_labels=4), (*tensors, labels, mask)
        torch.testing.assert_close(value_and_gradients(fused, loss, *inputs), value_and_gradients(dense, loss, *inputs))

    @pytest.mark.parametrize("ignore_empty", [False, True])
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_every_reduction(self, build, reduction, ignore_empty):
        inputs = make("odd")
        loss = build(13, chunk_labels=4, reduction=reduction, ignore_empty=ignore_empty)
        rows = build(13, reduction="none").from_logits(inputs[0] @ inputs[1].T + inputs[2], *inputs[3:])
        counted = torch.tensor([1, 0, 1, 1, 0]) if ignore_empty else torch.ones(5)  # rows 1 and 4 have no positive
        terms = (counted * (13 - inputs[4].lengths)).sum()
        sizes = {"positives": 5, "batch": counted.sum(), "mean": terms, "sum": 1, "none": 1}
        each = rows * counted / sizes[reduction]
        torch.testing.assert_close(loss(*inputs), each if reduction == "none" else each.sum())
        torch.testing.assert_close(value_and_gradients(fused, loss, *inputs), value_and_gradients(dense, loss, *inputs))

    def test_a_batch_of_one_is_its_row_of_a_batch(self, build):
        hidden, weight, bias, labels, mask = make("odd")
        loss = build(13, chunk_labels=4, reduction="none")
        together = loss(hidden, weight, bias, labels, mask)
        for row in range(5):
            one = torch.tensor([row])
            alone = loss(hidden[one], weight, bias, labels.select(one), mask.select(one))
            torch.testing.assert_close(alone, together[one])

    @every_dtype
    def test_as_near_to_the_float64_truth_as_dense_maths(self, build, dtype):
        *tensors, labels, mask = make("aligned", dtype=dtype)
        loss = build(16, chunk_labels=4)
        exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
        truth = value_and_gradients(dense, loss, *exact, labels, mask)
        eager = value_and_gradients(dense, loss, *tensors, labels, mask)
        walked = value_and_gradients(fused, loss, *tensors, labels, mask)
        for got, plain, true in zip(walked, eager, truth, strict=True):
            rounding = (4 if dtype == torch.float32 else 1) * torch.finfo(dtype).eps * true.abs().max()
            assert (got - true).abs().max() <= (plain - true).abs().max() + rounding

    def test_without_gradients_the_value_is_the_same(self, build):
        inputs = make("odd")
        loss = build(13, chunk_labels=4)
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                value = loss(*inputs)
            assert not value.requires_grad
            assert torch.equal(value, loss(*inputs).detach())

    def test_the_size_of_a_chunk_changes_nothing(self, build):
        inputs = make("odd")
        whole = value_and_gradients(fused, build(13, chunk_labels=99), *inputs)
        for size in (1, 5, 13):
            torch.testing.assert_close(value_and_gradients(fused, build(13, chunk_labels=size), *inputs), whole)


@every_loss
class TestMask:
    def test_masked_logits_can_be_anything(self, build):
        """Not even NaN changes value or gradient."""
        hidden, weight, bias, labels, mask = make("odd")
        loss, ignored = build(13), mask.to_dense(torch.bool)
        logits = (hidden @ weight.T + bias).detach()
        values, gradients = [], []
        for filling in (0.0, 50.0, math.nan, -math.inf):
            filled = logits.masked_fill(ignored, filling).requires_grad_()
            values.append(loss.from_logits(filled, labels, mask))
            gradients.append(torch.autograd.grad(values[-1], filled)[0])
        assert all(torch.equal(value, values[0]) for value in values)
        assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
        assert (gradients[0][ignored] == 0).all()

    def test_a_label_masked_everywhere_gets_no_gradient(self, build):
        hidden, weight, bias, labels, _ = make("aligned")
        mask = SparseLabels.from_lists([[5]] * 8, num_labels=16)
        loss, inputs = build(16, chunk_labels=4), (hidden, weight, bias, labels, mask)
        _, _, grad_weight, grad_bias = value_and_gradients(fused, loss, *inputs)
        assert (grad_weight[5] == 0).all()
        assert grad_bias[5] == 0
        assert grad_weight[4].any()

    def test_an_empty_mask_changes_nothing(self, build):
        *tensors, labels, _ = make("odd")
        empty = SparseLabels.from_lists([[]] * 5, num_labels=13)
        loss = build(13, chunk_labels=4)
        assert torch.equal(loss(*tensors, labels, empty), loss(*tensors, labels))


@every_backend
@every_dtype
@pytest.mark.parametrize("gamma", [0, 0.5, 1, 2, 3, 5])
def test_every_gamma_is_finite_at_every_logit(gamma, dtype, backend):
    how = {"backend": backend, "chunk_labels": 16, "reduction": "mean"}
    for loss in (FocalLoss(gamma, **how), AsymmetricLoss(gamma, gamma, **how), SoftmaxLoss(gamma=gamma, **how)):
        for part in value_and_gradients(fused, loss, *far_and_near(dtype)):
            assert part.isfinite().all()


@pytest.mark.parametrize("build", EXACT.values(), ids=EXACT)
def test_gradcheck(build):
    *tensors, labels, mask = make("odd")
    loss = build(13, chunk_labels=4)
    assert torch.autograd.gradcheck(lambda *inputs: loss(*inputs, labels, mask), tensors)


@pytest.mark.parametrize("build", PLAIN.values(), ids=PLAIN)
def test_the_order_of_the_labels_does_not_matter(build):
    hidden, weight, bias, labels, mask = make("odd")
    loss = build(13, chunk_labels=4)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(1))
    places = order.argsort()
    moved = [SparseLabels.from_csr(pairs.indptr, places[pairs.indices], num_labels=13) for pairs in (labels, mask)]
    torch.testing.assert_close(
        loss(hidden, weight[order], bias[order], *moved), loss(hidden, weight, bias, labels, mask)
    )


@pytest.mark.parametrize("build", SEPARABLE.values(), ids=SEPARABLE)
def test_a_separable_loss_is_its_formula_term_by_term(build):
    hidden, weight, bias, labels, mask = make("odd")
    loss, right, ignored = build(13, reduction="sum"), labels.to_dense(torch.bool), mask.to_dense(torch.bool)
    weights = loss.term_weights(labels.without(mask))
    total = 0.0
    for row in range(5):
        for label in range(13):
            if ignored[row, label]:
                continue
            z = (hidden[row] @ weight[label] + bias[label]).detach()
            z = z if loss.logit_shift is None else z + loss.logit_shift[label]
            w = 1 if loss.positive_weight is None else loss.positive_weight[label]
            term = w * loss.positive(z) if right[row, label] else loss.negative(z)
            total += term * (1 if weights is None else weights(slice(label, label + 1))[row, 0])
    torch.testing.assert_close(loss(hidden, weight, bias, labels, mask), total, check_dtype=False)


@every_loss
@settings(deadline=None, max_examples=6)
@given(data=st.data())
def test_fused_equals_dense_for_any_labels_mask_and_chunk(build, data):
    limits = ((0, 5), (1, 9), (1, 3), (1, 10))
    batch, num_labels, width, size = (data.draw(st.integers(low, high)) for low, high in limits)
    rows = st.lists(st.lists(st.integers(0, num_labels - 1), max_size=num_labels), min_size=batch, max_size=batch)
    sparse = [SparseLabels.from_lists(data.draw(rows), num_labels=num_labels) for _ in ("labels", "mask")]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 5)))
    tensors = [
        torch.randn(length, width, generator=generator, dtype=torch.float64).requires_grad_()
        for length in (batch, num_labels)
    ]
    how = {"reduction": data.draw(st.sampled_from(REDUCTIONS)), "ignore_empty": data.draw(st.booleans())}
    loss, inputs = build(num_labels, chunk_labels=size, **how), (*tensors, None, *sparse)
    torch.testing.assert_close(value_and_gradients(fused, loss, *inputs), value_and_gradients(dense, loss, *inputs))
