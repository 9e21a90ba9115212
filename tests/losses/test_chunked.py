"""The fused loss against plain dense maths: every loss, every shape, several label chunks."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperfocal.labels import SparseLabels
from hyperfocal.losses import BCELoss, FocalLoss, SeparableLoss, chunked

CPU = torch.device("cpu")


class Squared(SeparableLoss):
    """A user's loss in two methods."""

    def positive(self, logits):
        return (1 - logits) ** 2

    def negative(self, logits):
        return logits**2


class StraightLines(SeparableLoss):
    """A user's loss whose slopes autograd gives as one number, expanded."""

    def positive(self, logits):
        return 1 - logits

    def negative(self, logits):
        return logits + 1


FOCAL = [FocalLoss(gamma, alpha) for gamma in (0, 0.5, 1, 2, 3, 5) for alpha in (None, 0.25, 0.5, 1)]
LOSSES = [BCELoss(), *FOCAL, Squared(), StraightLines()]

SHAPES = {  # B, L, D and the labels of each row
    "aligned": (8, 16, 4, [[row, 8 + row] for row in range(8)]),
    "odd": (5, 13, 3, [[12], [], [0, 7], [4, 5, 6, 7], [3]]),
    "one label": (6, 1, 2, [[0], [], [0], [], [], [0]]),
    "one row": (1, 9, 3, [[2, 8]]),
    "one width": (3, 5, 1, [[0], [1], [4]]),
    "no positives": (4, 7, 2, [[], [], [], []]),
    "all positives": (3, 6, 2, [list(range(6))] * 3),
    "duplicate labels": (3, 10, 2, [[4, 4, 9], [9, 9, 9], [0, 4, 0]]),
    "empty batch": (0, 5, 2, []),
}

every_loss = pytest.mark.parametrize("loss", LOSSES, ids=repr)
every_shape = pytest.mark.parametrize("shape", SHAPES)


@pytest.fixture
def chunks_of_4(monkeypatch):
    """Let the walk take four labels at a time, so that the shapes above need up to four chunks."""
    monkeypatch.setattr(chunked, "chunk_size", lambda batch, device: 4)


def make(shape, *, dtype=torch.float64, seed=0):
    """Return hidden, weight, bias (leaves that need a gradient) and labels."""
    batch, num_labels, width, rows = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    sizes = ((batch, width), (num_labels, width), (num_labels,))
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for size in sizes]
    return *tensors, SparseLabels.from_lists(rows, num_labels=num_labels)


def dense(loss, hidden, weight, bias, labels):
    """Return the same loss the plain way: all logits at once, gradients by autograd."""
    return loss.from_logits(hidden @ weight.T + (0 if bias is None else bias), labels)


def value_and_gradients(call, loss, hidden, weight, bias, labels):
    value = call(loss, hidden, weight, bias, labels)
    inputs = [tensor for tensor in (hidden, weight, bias) if tensor is not None and tensor.requires_grad]
    gradients = torch.autograd.grad(value, inputs)
    return [value.detach(), *gradients]


def fused(loss, hidden, weight, bias, labels):
    return loss(hidden, weight, bias, labels)


@every_loss
@every_shape
@pytest.mark.usefixtures("chunks_of_4")
class TestFusedEqualsDense:
    def test_value_and_gradients(self, loss, shape):
        inputs = make(shape)
        torch.testing.assert_close(value_and_gradients(fused, loss, *inputs), value_and_gradients(dense, loss, *inputs))

    def test_without_bias(self, loss, shape):
        hidden, weight, _, labels = make(shape)
        inputs = (hidden, weight, None, labels)
        torch.testing.assert_close(value_and_gradients(fused, loss, *inputs), value_and_gradients(dense, loss, *inputs))

    def test_only_one_input_needs_its_gradient(self, loss, shape):
        *tensors, labels = make(shape)
        for needed in tensors:
            inputs = [tensor.detach().requires_grad_(tensor is needed) for tensor in tensors]
            torch.testing.assert_close(
                value_and_gradients(fused, loss, *inputs, labels), value_and_gradients(dense, loss, *inputs, labels)
            )

    def test_no_input_is_modified_and_twice_gives_the_same(self, loss, shape):
        *tensors, labels = make(shape)
        before = [tensor.detach().clone() for tensor in (*tensors, labels.indptr, labels.indices)]
        first = value_and_gradients(fused, loss, *tensors, labels)
        second = value_and_gradients(fused, loss, *tensors, labels)
        after = [tensor.detach() for tensor in (*tensors, labels.indptr, labels.indices)]
        assert all(map(torch.equal, first, second))
        assert all(map(torch.equal, before, after))


@settings(deadline=None, max_examples=80)
@given(st.data(), st.integers(0, 6), st.integers(1, 12), st.integers(1, 4), st.integers(1, 14))
def test_fused_equals_dense_for_any_labels_and_chunk(data, batch, num_labels, width, size):
    row = st.lists(st.integers(0, num_labels - 1), max_size=num_labels)
    labels = SparseLabels.from_lists(data.draw(st.lists(row, min_size=batch, max_size=batch)), num_labels=num_labels)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, width, generator=generator).double() for rows in (batch, num_labels))
    inputs = (hidden.requires_grad_(), weight.requires_grad_(), None, labels)
    loss = FocalLoss(2, 0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "chunk_size", lambda batch, device: size)
        walked = value_and_gradients(fused, loss, *inputs)
    torch.testing.assert_close(walked, value_and_gradients(dense, loss, *inputs))


class TestValues:
    """At logit 0 every BCE term is log 2 and every slope is 1/2, with a minus at positives."""

    @pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("positives", 3), ("batch", 2), ("mean", 10)])
    def test_by_hand(self, reduction, divisor):
        labels = SparseLabels.from_lists([[0, 4], [4]], num_labels=5)
        hidden, weight, bias = torch.ones(2, 1), torch.zeros(5, 1), torch.zeros(5, requires_grad=True)
        value = BCELoss(reduction=reduction)(hidden, weight, bias, labels)
        value.backward()
        assert value.item() == pytest.approx(10 * math.log(2) / divisor)
        slopes = [-0.5 + 0.5, 0.5 + 0.5, 0.5 + 0.5, 0.5 + 0.5, -0.5 - 0.5]
        assert bias.grad.tolist() == pytest.approx([slope / divisor for slope in slopes])

    @pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("positives", 1), ("batch", 4), ("mean", 28)])
    def test_a_batch_without_positives(self, reduction, divisor):
        hidden, weight, bias, labels = make("no positives")
        value = BCELoss(reduction=reduction)(hidden, 0 * weight, 0 * bias, labels)
        assert value.item() == pytest.approx(28 * math.log(2) / divisor)

    @pytest.mark.parametrize("reduction", ["positives", "batch", "mean", "sum"])
    def test_an_empty_batch(self, reduction):
        hidden, weight, bias, labels = make("empty batch")
        value = BCELoss(reduction=reduction)(hidden, weight, bias, labels)
        value.backward()
        assert value.item() == 0
        assert not weight.grad.any()
        assert not bias.grad.any()

    def test_a_label_named_twice_counts_once(self):
        hidden, weight, bias, _ = make("duplicate labels")
        once, twice = (
            SparseLabels.from_lists(rows, num_labels=10) for rows in ([[4], [], [1]], [[4, 4], [], [1, 1, 1]])
        )
        assert torch.equal(BCELoss()(hidden, weight, bias, once), BCELoss()(hidden, weight, bias, twice))


@pytest.mark.usefixtures("chunks_of_4")
class TestGradients:
    @every_loss
    def test_gradcheck(self, loss):
        *tensors, labels = make("odd")
        assert torch.autograd.gradcheck(lambda *inputs: loss(*inputs, labels), tensors)

    def test_what_follows_the_loss_scales_them(self):
        inputs = make("odd")
        _, *plain = value_and_gradients(fused, BCELoss(), *inputs)
        _, *scaled = value_and_gradients(lambda *call: 3 * fused(*call), BCELoss(), *inputs)
        torch.testing.assert_close(scaled, [3 * gradient for gradient in plain])

    def test_what_precedes_the_loss_gets_them(self):
        hidden, weight, bias, labels = make("odd")
        FocalLoss()(hidden * 2, weight, bias, labels).backward()
        expected = value_and_gradients(dense, FocalLoss(), (2 * hidden).detach().requires_grad_(), weight, bias, labels)
        torch.testing.assert_close(hidden.grad, 2 * expected[1])

    def test_a_second_backward_gives_the_same_again(self):
        hidden, weight, bias, labels = make("odd")
        value = FocalLoss()(hidden, weight, bias, labels)
        value.backward(retain_graph=True)
        first = hidden.grad.clone()
        hidden.grad.zero_()  # must not reach what the graph keeps
        value.backward()
        assert torch.equal(hidden.grad, first)

    def test_a_gradient_of_the_gradient_is_refused(self):
        hidden, weight, bias, labels = make("odd")
        (gradient,) = torch.autograd.grad(BCELoss()(hidden, weight, bias, labels), hidden, create_graph=True)
        with pytest.raises(RuntimeError, match="does not require grad"):
            gradient.sum().backward()

    @every_loss
    def test_without_gradients_the_value_is_the_same(self, loss):
        inputs = make("odd")
        with torch.no_grad():
            value = loss(*inputs)
        assert not value.requires_grad
        assert torch.equal(value, loss(*inputs).detach())

    def test_inputs_may_be_views(self):
        hidden, weight, bias, labels = make("odd")
        views = [hidden.detach().T.contiguous().T, weight.detach().T.contiguous().T, bias.detach().expand(2, -1)[1]]
        views = [view.requires_grad_() for view in views]
        torch.testing.assert_close(
            value_and_gradients(fused, FocalLoss(), *views, labels),
            value_and_gradients(fused, FocalLoss(), hidden, weight, bias, labels),
        )


class TestStable:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    @every_loss
    def test_finite_at_every_logit(self, loss, dtype):
        """The logits are -100 to 100; the losses of the one chunk sum to more than 65504, the end of float16."""
        hidden = torch.linspace(-100, 100, 201, dtype=dtype)[:, None].requires_grad_()
        weight, bias = torch.ones(40, 1, dtype=dtype).requires_grad_(), torch.zeros(40, dtype=dtype).requires_grad_()
        labels = SparseLabels.from_lists([[row % 40] for row in range(201)], num_labels=40)
        for part in value_and_gradients(fused, loss, hidden, weight, bias, labels):
            assert part.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("loss", [BCELoss(), FocalLoss(0.5), FocalLoss(2, 0.25), FocalLoss(5)], ids=repr)
    @pytest.mark.usefixtures("chunks_of_4")
    def test_as_near_to_the_float64_truth_as_dense_maths(self, loss, dtype):
        inputs = make("aligned", dtype=dtype)
        exact = [tensor.detach().double().requires_grad_() for tensor in inputs[:3]]
        truth = value_and_gradients(dense, loss, *exact, inputs[3])
        for got, plain, true in zip(
            value_and_gradients(fused, loss, *inputs), value_and_gradients(dense, loss, *inputs), truth, strict=True
        ):
            rounding = torch.finfo(dtype).eps * true.abs().max()
            assert (got - true).abs().max() <= (plain - true).abs().max() + rounding

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_the_loss_of_half_precision_is_float32_and_its_gradients_are_not(self, dtype):
        value, *gradients = value_and_gradients(fused, FocalLoss(), *make("odd", dtype=dtype))
        assert value.dtype == torch.float32
        assert {gradient.dtype for gradient in gradients} == {dtype}


class TestChunks:
    @pytest.mark.parametrize(
        ("batch", "labels"), [(256, 2**18 // 256), (1, 2**18), (0, 2**18), (2**12, 64), (2**13, 64), (2**30, 64)]
    )
    def test_a_chunk_stays_in_cache_and_holds_64_labels_at_least(self, batch, labels):
        assert chunked.chunk_size(batch, CPU) == labels

    def test_a_gpu_takes_larger_chunks(self):
        assert chunked.chunk_size(256, torch.device("cuda")) == 2**26 // 256

    def test_the_logits_never_exist_as_a_whole(self, monkeypatch):
        monkeypatch.setattr(chunked, "CHUNK_NUMBERS_CPU", 1)  # the least: 64 labels
        seen = []

        class Spy(Squared):
            def negative(self, logits):
                seen.append(tuple(logits.shape))
                return super().negative(logits)

        labels = SparseLabels.from_lists([[0, 63, 64], [127, 128, 149], []], num_labels=150)
        inputs = (torch.randn(3, 2).double(), torch.randn(150, 2).double(), torch.randn(150).double(), labels)
        value = Spy()(*inputs)
        assert seen == [(3, 64), (3, 64), (3, 22)]
        torch.testing.assert_close(value, dense(Squared(), *inputs))


class TestErrors:
    LABELS = SparseLabels.from_lists([[0], [1]], num_labels=3)

    @pytest.mark.parametrize(
        ("hidden", "weight", "bias", "message"),
        [
            ((2, 4), (3, 5), (3,), r"expected hidden \(B, D\) and weight \(L, D\), got \(2, 4\) and \(3, 5\)"),
            ((2,), (3, 2), (3,), r"expected hidden \(B, D\) and weight \(L, D\), got \(2,\) and \(3, 2\)"),
            ((2, 4), (4,), (3,), r"expected hidden \(B, D\) and weight \(L, D\), got \(2, 4\) and \(4,\)"),
            ((5, 4), (3, 4), (3,), "labels are 2 rows over 3 labels, but hidden has 5 rows and weight 3 labels"),
            ((2, 4), (6, 4), (6,), "labels are 2 rows over 3 labels, but hidden has 2 rows and weight 6 labels"),
            ((2, 4), (3, 4), (4,), r"expected bias \(3,\), got \(4,\)"),
            ((2, 4), (3, 4), (3, 1), r"expected bias \(3,\), got \(3, 1\)"),
        ],
    )
    def test_shapes_that_do_not_match(self, hidden, weight, bias, message):
        with pytest.raises(ValueError, match=message):
            BCELoss()(torch.zeros(hidden), torch.zeros(weight), torch.zeros(bias), self.LABELS)
