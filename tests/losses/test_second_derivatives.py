"""Derivatives of derivatives in eager torch: every loss, reduction and backend is right, or refuses with an error.

The oracle is plain autograd over `from_logits`.
"""

import weakref

import pytest
import torch
from torch.autograd.functional import hessian, hvp, vhp
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hyperfocal.labels import SparseLabels
from hyperfocal.losses import FocalLoss, GBCELoss, SampledSoftmaxLoss, SeparableLoss, SoftmaxLoss, walk
from hyperfocal.losses.options import REDUCTIONS
from loss_cases import LOSSES, SHAPES, Squared, dense, fused, make, penalised, rest_is_slow, value_and_gradients

COMPILED = ("bce, weighted", "focal 0.5", "focal, weighted")  # what the native pass covers
FAMILIES = ("focal, weighted", "asymmetric, detached", "distribution-balanced", "user's lines", "softmax, all")

every_loss = pytest.mark.parametrize("build", LOSSES.values(), ids=LOSSES)
every_family = pytest.mark.parametrize("build", [LOSSES[name] for name in FAMILIES], ids=FAMILIES)
every_reduction = pytest.mark.parametrize("reduction", REDUCTIONS)
CALLS = rest_is_slow(
    {f"{way}-{backend}": (way, backend) for way in REDUCTIONS for backend in ("reference", "chunked", "auto")},
    ("positives-chunked", "none-chunked"),
)


def assert_same_penalty(loss, *inputs, **near):
    torch.testing.assert_close(penalised(fused, loss, *inputs), penalised(dense, loss, *inputs), **near)


@every_loss
class TestGradientPenalty:
    """A function of the gradients is added to the loss, as in a gradient penalty."""

    @pytest.mark.parametrize(("reduction", "backend"), CALLS)
    def test_every_reduction_and_backend(self, build, reduction, backend):
        *tensors, labels, mask = make("odd")
        loss = build(13, reduction=reduction, backend=backend, chunk_labels=4)
        for masked in (None, mask):
            assert_same_penalty(loss, *tensors, labels, masked)

    def test_without_bias_and_without_empty_rows(self, build):
        hidden, weight, _, *sparse = make("odd")
        assert_same_penalty(build(13, chunk_labels=4, ignore_empty=True), hidden, weight, None, *sparse)

    @pytest.mark.parametrize("needed", [0, 1, 2], ids=["hidden", "weight", "bias"])
    def test_only_one_input_needs_its_gradient(self, build, needed):
        *tensors, labels, mask = make("odd")
        tensors = [tensor.detach().requires_grad_(number == needed) for number, tensor in enumerate(tensors)]
        for reduction in ("sum", "none"):
            assert_same_penalty(build(13, reduction=reduction, chunk_labels=4), *tensors, labels, mask)

    def test_a_masked_logit_can_be_anything(self, build):
        hidden, weight, bias, labels, _ = make("aligned")
        mask = SparseLabels.from_lists([[5]] * 8, num_labels=16)
        loss = build(16, chunk_labels=4)
        _, *expected = penalised(fused, loss, hidden, weight, bias, labels, mask)
        bias = bias.detach().clone()
        bias[5] = torch.nan
        _, *got = penalised(fused, loss, hidden, weight, bias.requires_grad_(), labels, mask)
        torch.testing.assert_close(got, expected)

    def test_finite_at_logits_from_minus_100_to_100(self, build):
        hidden = torch.linspace(-100, 100, 41, dtype=torch.float32)[:, None].requires_grad_()
        weight = torch.ones(20, 1).requires_grad_()
        labels = SparseLabels.from_lists([[row % 20] for row in range(41)], num_labels=20)
        for part in penalised(fused, build(20, reduction="mean"), hidden, weight, None, labels):
            assert part.isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_lower_precision(self, build, dtype):
        """The second derivative is computed in float32; gradients have the dtype of their input."""
        *tensors, labels, mask = make("odd", dtype=dtype)
        loss = build(13, chunk_labels=4, reduction="mean")
        exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
        value, *gradients = penalised(fused, loss, *tensors, labels, mask)
        _, *expected = penalised(dense, loss, *exact, labels, mask)
        near = {torch.float32: 1e-4, torch.bfloat16: 0.06, torch.float16: 0.01}[dtype]
        assert {gradient.dtype for gradient in gradients} == {dtype}
        assert value.dtype == torch.float32
        for got, right in zip(gradients, expected, strict=True):
            assert (got - right).norm() <= near * right.norm()

    def test_gradgradcheck(self, build):
        *tensors, labels, mask = make("odd")
        loss = build(13, chunk_labels=4, reduction="none")
        if "detach" in repr(loss) and loss.detach:
            pytest.skip("the gradient is not that of the value")
        assert torch.autograd.gradgradcheck(lambda *inputs: loss(*inputs, labels, mask), tensors, fast_mode=True)


@pytest.mark.parametrize("build", rest_is_slow({name: (build,) for name, build in LOSSES.items()}, FAMILIES))
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(build, shape):
    *tensors, labels, mask = make(shape)
    loss = build(SHAPES[shape][1], chunk_labels=4)
    for masked in (None, mask):
        assert_same_penalty(loss, *tensors, labels, masked)


@pytest.mark.parametrize("build", [LOSSES[name] for name in COMPILED], ids=COMPILED)
def test_after_the_native_pass(build):
    """float32 gradients of the native pass, plain torch for their derivatives."""
    inputs = make("odd", dtype=torch.float32)
    for reduction in ("batch", "none"):
        assert_same_penalty(build(13, reduction=reduction), *inputs, rtol=1e-4, atol=1e-2)


@every_family
class TestHigherOrders:
    @every_reduction
    def test_hessian_times_a_vector(self, build, reduction):
        *tensors, labels, mask = make("odd")
        loss = build(13, reduction=reduction, chunk_labels=4)
        tensors = tuple(tensor.detach() for tensor in tensors)
        vectors = tuple(torch.randn_like(tensor) for tensor in tensors)
        for product in (hvp, vhp):
            got, expected = (
                product(lambda *x, call=call: call(loss, *x, labels, mask).sum(), tensors, vectors)
                for call in (fused, dense)
            )
            torch.testing.assert_close(got, expected)

    def test_hessian(self, build):
        *tensors, labels, mask = make("odd")
        loss, tensors = build(13, chunk_labels=4), tuple(tensor.detach() for tensor in tensors)
        got, expected = (
            hessian(lambda *x, call=call: call(loss, *x, labels, mask), tensors) for call in (fused, dense)
        )
        torch.testing.assert_close(got, expected)

    @pytest.mark.parametrize("reduction", ["batch", "none"])
    def test_third_and_fourth_derivatives(self, build, reduction):
        *tensors, labels, mask = make("odd")
        loss = build(13, reduction=reduction, chunk_labels=4)
        torch.testing.assert_close(*(fourth(call, loss, *tensors, labels, mask) for call in (fused, dense)))


def fourth(call, loss, *inputs):
    value = call(loss, *inputs).sin().sum()
    for power in (2, 3, 2):
        gradients = torch.autograd.grad(value, inputs[:3], create_graph=True)
        value = sum(gradient.pow(power).sum() for gradient in gradients)
    return torch.autograd.grad(value, inputs[:3])


class TestUsersLoop:
    @pytest.mark.parametrize("loss", [FocalLoss(chunk_labels=8), SoftmaxLoss(chunk_labels=8)], ids=repr)
    def test_a_penalty_on_the_gradient_of_the_encoders_output(self, loss):
        """Three steps of SGD through a module, with the fused call and with the logits."""
        weights = [self.train(loss, fuse) for fuse in (True, False)]
        torch.testing.assert_close(*weights)
        without = self.train(loss, True, strength=0)
        assert (weights[0][-1] - without[-1]).abs().max() > 1e-3

    def train(self, loss, fuse, strength=3.0):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 20)).double()
        head, optimizer = model[2], torch.optim.SGD(model.parameters(), lr=0.5)
        data = torch.randn(6, 5, dtype=torch.float64)
        labels = SparseLabels.from_lists([[row, 3 * row] for row in range(6)], num_labels=20)
        for _ in range(3):
            hidden = model[:2](data)
            value = loss(hidden, head.weight, head.bias, labels) if fuse else loss.from_logits(head(hidden), labels)
            (gradient,) = torch.autograd.grad(value, hidden, create_graph=True)
            optimizer.zero_grad()
            (value + strength * gradient.square().sum()).backward()
            optimizer.step()
        return [parameter.detach() for parameter in model.parameters()]

    def test_a_penalty_under_autocast(self):
        hidden, weight, bias, *sparse = make("odd", dtype=torch.float32)
        loss = FocalLoss(chunk_labels=4)
        with torch.autocast("cpu", torch.bfloat16):
            got = penalised(fused, loss, hidden, weight, bias, *sparse)
        for one, exact in zip(got[1:], penalised(dense, loss, hidden, weight, bias, *sparse)[1:], strict=True):
            assert one.dtype == torch.float32
            assert (one - exact).norm() <= 0.05 * exact.norm()

    def test_under_checkpoint(self):
        *tensors, labels, mask = make("odd")
        loss = SoftmaxLoss(chunk_labels=4)

        def saved(*call):
            return torch.utils.checkpoint.checkpoint(lambda *x: fused(loss, *x, *call[4:]), *call[1:4], use_reentrant=0)

        torch.testing.assert_close(
            penalised(saved, loss, *tensors, labels, mask), penalised(dense, loss, *tensors, labels, mask)
        )

    @pytest.mark.parametrize("build", [SampledSoftmaxLoss, GBCELoss])
    def test_a_sampled_loss_is_plain_autograd(self, build):
        *tensors, labels, mask = make("odd")
        loss = build(6, reduction="none", generator=torch.Generator())

        def drawn(*call):
            loss.generator.manual_seed(0)
            return (fused if loss.fuse else dense)(*call)

        results = []
        for loss.fuse in (True, False):
            results.append(penalised(drawn, loss, *tensors, labels, mask))
        torch.testing.assert_close(*results)


class TestFirstOrder:
    """What needs no second derivative costs and gives what it did."""

    @pytest.mark.parametrize("reduction", ["positives", "none"])
    def test_gradients_are_the_same_bytes(self, reduction):
        hidden, weight, bias, *sparse = make("odd", dtype=torch.float32)
        loss = FocalLoss(chunk_labels=4, reduction=reduction)
        _, *plain = value_and_gradients(fused, loss, hidden, weight, bias, *sparse)
        value = fused(loss, hidden, weight, bias, *sparse)
        factors = 1 + torch.arange(value.numel(), dtype=value.dtype).reshape(value.shape)
        total = (factors * value).sum()
        graph = torch.autograd.grad(total, (hidden, weight, bias), create_graph=True)
        again = torch.autograd.grad(total, (hidden, weight, bias))
        assert all(gradient.requires_grad for gradient in graph)
        for others in (graph, again):
            assert all(map(torch.equal, plain, others))

    def test_one_walk(self, monkeypatch):
        walks, walk_of = [], FocalLoss.walk

        def spy(self, problem):
            walks.append(list(problem.needs))
            return walk_of(self, problem)

        monkeypatch.setattr(FocalLoss, "walk", spy)
        monkeypatch.setattr(SeparableLoss, "curvature", None)
        FocalLoss()(*make("odd")).backward()
        assert walks == [[True] * 3]

    @pytest.mark.parametrize("kind", [SeparableLoss, SoftmaxLoss])
    def test_the_logits_never_exist_as_a_whole(self, monkeypatch, kind):
        seen, logits_of = [], walk.Walk.logits

        def spy(self, chunk):
            logits = logits_of(self, chunk)
            seen.append(tuple(logits.shape))
            return logits

        monkeypatch.setattr(walk.Walk, "logits", spy)
        *tensors, labels, _ = make("odd")
        penalised(fused, Squared(chunk_labels=4) if kind is SeparableLoss else kind(chunk_labels=4), *tensors, labels)
        assert set(seen) == {(5, 4), (5, 1)}


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that were made inside it and are alive."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.untyped_storage().data_ptr() not in self.seen:
                self.count(leaf.untyped_storage())
        return result

    def count(self, storage):
        place, size = storage.data_ptr(), storage.nbytes()
        self.seen.add(place)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.give_up, place, size)

    def give_up(self, place, size):
        self.seen.discard(place)
        self.now -= size


@pytest.mark.parametrize("name", ["focal 2", "asymmetric", "distribution-balanced", "softmax, all"])
def test_memory_is_some_twenty_tensors_of_one_chunk(name):
    batch, chunk = 64, 512
    for chunks in (1, 5):
        weight = torch.randn(chunks * chunk, 2, requires_grad=True)
        hidden = torch.randn(batch, 2, requires_grad=True)
        labels = SparseLabels.from_lists([[row, 2 * row + 1] for row in range(batch)], num_labels=len(weight))
        loss = LOSSES[name](len(weight), chunk_labels=chunk)
        gradients = torch.autograd.grad(loss(hidden, weight, None, labels), (hidden, weight), create_graph=True)
        penalty = sum(gradient.square().sum() for gradient in gradients)
        with LiveBytes() as live:
            torch.autograd.grad(penalty, (hidden, weight))
        assert 5 < live.peak / (batch * chunk * 4) < 25


class TestGraph:
    def test_the_loss_may_be_given_up(self):
        hidden, weight, bias, *sparse = make("odd")
        value = FocalLoss(chunk_labels=4)(hidden, weight, bias, *sparse)
        (gradient,) = torch.autograd.grad(value, hidden, create_graph=True)
        gradient.square().sum().backward()
        assert weight.grad.any()

    def test_a_gradient_of_one_input_reaches_the_others(self):
        hidden, weight, bias, *sparse = make("odd")
        results = []
        for call in (fused, dense):
            (gradient,) = torch.autograd.grad(call(FocalLoss(), hidden, weight, bias, *sparse), bias, create_graph=True)
            results.append(torch.autograd.grad(gradient.square().sum(), (hidden, weight), allow_unused=True))
        torch.testing.assert_close(*results)

    @pytest.mark.parametrize("reduction", ["batch", "none"])
    def test_an_input_that_changes_before_another_walk_is_an_error(self, reduction):
        hidden, weight, bias, *sparse = make("odd")
        changed = 1 * hidden
        value = FocalLoss(reduction=reduction)(changed, weight, bias, *sparse).sum()
        changed += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(value, weight, create_graph=True)

    def test_a_changed_input_leaves_first_gradients_right(self):
        """They were computed with the value."""
        hidden, weight, bias, *sparse = make("odd")
        _, _, expected, _ = value_and_gradients(fused, FocalLoss(), hidden, weight, bias, *sparse)
        changed = 1 * hidden
        value = FocalLoss()(changed, weight, bias, *sparse)
        changed += 1
        value.backward()
        torch.testing.assert_close(weight.grad, expected)

    def test_expanded_inputs(self):
        _, weight, bias, labels, mask = make("odd")
        row = torch.randn(1, 3, dtype=torch.float64)
        wide = [row.expand(5, 3).requires_grad_(), weight.detach()[:1].expand(13, 3).requires_grad_(), bias]
        assert_same_penalty(FocalLoss(chunk_labels=4), *wide, labels, mask)
        torch.testing.assert_close(
            value_and_gradients(fused, FocalLoss(), *wide, labels),
            value_and_gradients(dense, FocalLoss(), *wide, labels),
        )
