"""The fused losses under torch.func, forward-mode AD, vmap, and on tensors without data.

The oracle is `from_logits` under the same transform.
"""

import pytest
import torch
from torch.autograd import forward_ad
from torch.autograd.functional import jacobian
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import FocalLoss, GBCELoss, SampledSoftmaxLoss, ShardedLoss, SoftmaxLoss
from loss_cases import LOSSES, SHAPES, dense, fused, make, penalised, rest_is_slow, some_weights

FAMILIES = ("focal, weighted", "asymmetric, detached", "distribution-balanced", "user's lines", "softmax, all")
ALL = (0, 1, 2)

every_family = pytest.mark.parametrize("build", [LOSSES[name] for name in FAMILIES], ids=FAMILIES)
every_value = pytest.mark.parametrize("reduction", ["positives", "none"])
CALLS = rest_is_slow(
    {f"{name}-{way}": (LOSSES[name], way) for name in FAMILIES for way in ("positives", "none")},
    ("focal, weighted-none", "softmax, all-positives"),
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script:DeprecationWarning"
)  # forward mode of torch does that


def squares(gradients):
    return sum(gradient.square().sum() for gradient in gradients)


def summed(f):
    return lambda *x: f(*x).sum()


def two(x):
    return torch.stack([x, 2 * x.cos()])


PROGRAMS = {  # name -> (f, x, v) -> result; f returns the loss of x = hidden, weight, bias
    "grad": lambda f, x, v: grad(summed(f), argnums=ALL)(*x),
    "vjp": lambda f, x, v: vjp(f, *x)[1](3 * f(*x)),
    "jvp": lambda f, x, v: jvp(f, x, v),
    "jacrev": lambda f, x, v: jacrev(f, argnums=ALL)(*x),
    "jacfwd": lambda f, x, v: jacfwd(f, argnums=ALL)(*x),
    "hessian": lambda f, x, v: hessian(summed(f), argnums=ALL)(*x),
    "jacrev of jacrev": lambda f, x, v: jacrev(jacrev(summed(f)))(*x),
    "jacrev of jacfwd": lambda f, x, v: jacrev(jacfwd(summed(f)), argnums=ALL)(*x),
    "jacfwd of jacfwd": lambda f, x, v: jacfwd(jacfwd(summed(f)))(*x),
    "forward over reverse": lambda f, x, v: jvp(grad(summed(f), argnums=ALL), x, v),
    "reverse over forward": lambda f, x, v: grad(lambda *y: jvp(f, y, v)[1].sum(), argnums=ALL)(*x),
    "penalty": lambda f, x, v: grad(lambda *y: squares(grad(summed(f), argnums=ALL)(*y)), argnums=ALL)(*x),
    "vmap": lambda f, x, v: vmap(f, in_dims=(0, None, None))(two(x[0]), *x[1:]),
    "vmap of all": lambda f, x, v: vmap(f, in_dims=(1, 0, 0))(two(x[0]).transpose(0, 1), two(x[1]), two(x[2])),
    "vmap of vmap": lambda f, x, v: vmap(vmap(f, in_dims=(0, None, None)), in_dims=(None, 0, None))(
        two(x[0]), two(x[1]), x[2]
    ),
    "vmap of grad": lambda f, x, v: vmap(grad(summed(f)), in_dims=(0, None, None))(two(x[0]), *x[1:]),
    "grad of vmap": lambda f, x, v: grad(lambda h: vmap(f, in_dims=(0, None, None))(two(h), *x[1:]).square().sum())(
        x[0]
    ),
}


def both(build, reduction, program):
    """Return what a program makes of the fused call, and of the logits."""
    *tensors, labels, mask = make("odd")
    loss = build(13, reduction=reduction, chunk_labels=4)
    x = tuple(tensor.detach() for tensor in tensors)
    v = tuple(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)).double() for tensor in x)
    return [program(lambda *y, call=call: call(loss, *y, labels, mask), x, v) for call in (fused, dense)]


@pytest.mark.parametrize(("build", "reduction"), CALLS)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_transforms_of_torch_func(build, reduction, program):
    torch.testing.assert_close(*both(build, reduction, program))


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_after_the_native_pass(program):
    *tensors, labels, mask = make("odd", dtype=torch.float32)
    loss = FocalLoss(reduction="none")
    x, v = (tuple(map(function, tensors)) for function in (torch.Tensor.detach, torch.rand_like))
    v = tuple(tensor.detach() for tensor in v)
    got, expected = (program(lambda *y, call=call: call(loss, *y, labels, mask), x, v) for call in (fused, dense))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@every_family
@every_value
class TestForwardMode:
    """torch.autograd.forward_ad, with and without a graph."""

    def test_forward(self, build, reduction):
        def program(f, x, v):
            with forward_ad.dual_level():
                return list(forward_ad.unpack_dual(f(*map(forward_ad.make_dual, x, v))))

        torch.testing.assert_close(*both(build, reduction, program))

    def test_forward_over_reverse(self, build, reduction):
        def program(f, x, v):
            x = [tensor.clone().requires_grad_() for tensor in x]
            with forward_ad.dual_level():
                gradients = torch.autograd.grad(f(*map(forward_ad.make_dual, x, v)).sum(), x)
                tangents = [forward_ad.unpack_dual(gradient).tangent for gradient in gradients]
            return [torch.zeros_like(y) if tangent is None else tangent for y, tangent in zip(x, tangents, strict=True)]

        torch.testing.assert_close(*both(build, reduction, program))

    def test_reverse_over_forward(self, build, reduction):
        """The oracle is torch.func over the fused call: log_softmax of a dual tensor goes backward with an error."""

        def program(f, x, v):
            x = [tensor.clone().requires_grad_() for tensor in x]
            with forward_ad.dual_level():
                tangent = forward_ad.unpack_dual(f(*map(forward_ad.make_dual, x, v))).tangent
            return torch.autograd.grad(tangent.sum(), x)

        *tensors, labels, mask = make("odd")
        loss = build(13, reduction=reduction, chunk_labels=4)
        x, v = (tuple(function(tensor.detach()) for tensor in tensors) for function in (torch.clone, torch.cos))

        def f(*y):
            return fused(loss, *y, labels, mask)

        torch.testing.assert_close(program(f, x, v), PROGRAMS["reverse over forward"](f, x, v))

    def test_forward_over_a_penalty_is_refused(self, build, reduction):
        def program(f, x, v):
            x = [tensor.clone().requires_grad_() for tensor in x]
            with forward_ad.dual_level():
                gradients = torch.autograd.grad(f(*map(forward_ad.make_dual, x, v)).sum(), x, create_graph=True)
                return torch.autograd.grad(squares(gradients), x)

        with pytest.raises(ConfigError, match=r"forward_ad cannot reach the second derivative .* Use torch\.func\.jvp"):
            both(build, reduction, program)


class TestOlderVmap:
    """`vectorize=True` of torch.autograd calls no rule of an autograd function."""

    def test_of_a_scalar_loss(self):
        *tensors, labels, mask = make("odd")
        x = tuple(tensor.detach() for tensor in tensors)
        got, expected = (
            jacobian(lambda *y, call=call: call(FocalLoss(), *y, labels, mask), x, vectorize=True)
            for call in (fused, dense)
        )
        torch.testing.assert_close(got, expected)

    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    def test_of_a_loss_per_row_is_refused(self, strategy):
        *tensors, labels, mask = make("odd")
        loss = FocalLoss(reduction="none")
        with pytest.raises(ConfigError, match=r"cannot be batched by `vectorize=True` .* of torch\.func"):
            jacobian(
                lambda h: loss(h, *tensors[1:], labels, mask), tensors[0].detach(), vectorize=True, strategy=strategy
            )


class TestRefusedUnderVmap:
    def test_labels_that_differ(self):
        *tensors, labels, _ = make("odd")
        stacked = torch.stack([labels.indices, labels.indices])
        message = r"labels are batched by torch\.func\.vmap\. Call the loss once for all rows"
        with pytest.raises(DataError, match=message):
            vmap(lambda ids: FocalLoss()(*tensors, SparseLabels(labels.indptr, ids, 13)))(stacked)
        with pytest.raises(DataError, match=message):
            vmap(lambda all: FocalLoss()(*tensors, SparseLabels(all, labels.indices, 13)))(two(labels.indptr).long())

    @pytest.mark.parametrize("backend", ["auto", "reference"])
    def test_a_gradient_per_example(self, backend):
        hidden, weight, bias, *_ = (tensor.detach() for tensor in make("odd")[:3])

        def one(row, ids):
            labels = SparseLabels(torch.tensor([0, 1]), ids, 13)
            return FocalLoss(backend=backend)(row[None], weight, bias, labels)

        with pytest.raises(DataError, match=r"labels are batched by torch\.func\.vmap"):
            vmap(grad(one))(hidden, torch.arange(5)[:, None])

    @pytest.mark.parametrize(
        "loss", [FocalLoss(backend="reference", check_finite=True), GBCELoss(3, check_finite=True)]
    )
    def test_a_check_of_numbers(self, loss):
        hidden, weight, bias, labels, _ = make("odd")
        with pytest.raises(ConfigError, match="`check_finite=True` cannot read hidden under torch"):
            vmap(lambda h: loss(h, weight, bias, labels))(two(hidden))
        with pytest.raises(ConfigError, match="`check_finite=True` cannot read hidden under torch"):
            vmap(grad(lambda h: loss(h, weight, bias, labels)))(two(hidden))
        FocalLoss(check_finite=True)(hidden, weight, bias, labels)

    def test_a_walk_checks_each_element(self):
        hidden, weight, bias, labels, _ = make("odd")
        batch = two(hidden).detach()
        batch[1, 2, 0] = torch.nan
        with pytest.raises(DataError, match=r"hidden holds nan at \[2, 0\]"):
            vmap(lambda h: FocalLoss(check_finite=True)(h, weight, bias, labels))(batch)


@pytest.mark.parametrize("reduction", ["positives", "none"])
def test_vmap_over_an_empty_batch(reduction):
    *tensors, labels, mask = make("odd")
    hidden, weight, bias = (tensor.detach() for tensor in tensors)
    for loss in (FocalLoss(reduction=reduction), SoftmaxLoss(reduction=reduction)):
        for program in (lambda f: f, lambda f: grad(summed(f)), lambda f: hessian(summed(f))):
            got, expected = (
                vmap(program(lambda h, call=call, loss=loss: call(loss, h, weight, bias, labels, mask)))(
                    hidden.new_empty(0, 5, 3)
                )
                for call in (fused, dense)
            )
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("missing", ["peek_interpreter_stack", "is_legacy_batchedtensor"])
def test_a_torch_without_a_private_function_trains(monkeypatch, missing):
    *tensors, labels, mask = make("odd")
    for loss in (FocalLoss(), FocalLoss(reduction="none")):
        expected = penalised(fused, loss, *tensors, labels, mask)
        with monkeypatch.context() as patch:
            patch.delattr(torch._C._functorch, missing)
            torch.testing.assert_close(penalised(fused, loss, *tensors, labels, mask), expected)


WITHOUT_DATA = {
    "focal": lambda **o: FocalLoss(positive_weight=some_weights(13), check_finite=True, **o),
    "softmax": lambda **o: SoftmaxLoss(**o),
    "distribution-balanced": lambda **o: LOSSES["distribution-balanced"](13, **o),
    "reference": lambda **o: FocalLoss(backend="reference", check_finite=True, **o),
    "softmax reference": lambda **o: SoftmaxLoss(backend="reference", **o),
    "sampled softmax": lambda **o: SampledSoftmaxLoss(5, check_finite=True, **o),
    "gbce": lambda **o: GBCELoss(5, **o),
}


@pytest.mark.parametrize("build", WITHOUT_DATA.values(), ids=WITHOUT_DATA)
@every_value
class TestWithoutData:
    """Device "meta" and FakeTensor: shapes and dtypes, as of any module of torch."""

    def check(self, loss, tensors, labels, mask):
        tensors = [tensor.requires_grad_() for tensor in tensors]
        value = loss(*tensors, labels, mask)
        assert value.shape == ((5,) if loss.reduction == "none" else ())
        assert value.dtype == torch.float32
        value.sum().backward()
        assert [tensor.grad.shape for tensor in tensors] == [(5, 3), (13, 3), (13,)]
        return value.device.type

    @pytest.mark.parametrize("where", ["cpu", "meta"])
    def test_meta(self, build, reduction, where):
        loss = build(reduction=reduction)
        *tensors, labels, mask = make("odd", dtype=torch.bfloat16)
        for masked in (None, mask.to(where)):
            for moved in (loss, build(reduction=reduction).to("meta")):
                meta = [tensor.detach().to("meta") for tensor in tensors]
                assert self.check(moved, meta, labels.to(where), masked) == "meta"

    def test_fake(self, build, reduction):
        loss = build(reduction=reduction)
        with torch._subclasses.FakeTensorMode():
            pointers, ids = (torch.empty(size, dtype=torch.int64) for size in (6, 8))
            labels = SparseLabels(pointers, ids, 13)
            for mask in (None, labels):
                assert self.check(loss, [torch.empty(size) for size in ((5, 3), (13, 3), (13,))], labels, mask) == "cpu"

    def test_a_penalty(self, build, reduction):
        *tensors, labels, mask = make("odd")
        tensors = [tensor.detach().to("meta").requires_grad_() for tensor in tensors]
        value = build(reduction=reduction)(*tensors, labels, mask)
        squares(torch.autograd.grad(value.sum(), tensors, create_graph=True)).backward()
        assert [tensor.grad.shape for tensor in tensors] == [(5, 3), (13, 3), (13,)]


def test_logits_without_data():
    _, _, _, labels, mask = make("odd")
    assert SoftmaxLoss().from_logits(torch.empty(5, 13, device="meta"), labels, mask).shape == ()


@pytest.mark.parametrize("name", ["labels", "mask"])
def test_labels_without_data(name):
    *tensors, labels, mask = make("odd")
    sparse = {"labels": labels, "mask": mask} | {name: labels.to("meta")}
    for loss in (FocalLoss(), GBCELoss(3)):
        with pytest.raises(DataError, match=f"{name} are on meta, without data. Build them on a device that holds"):
            loss(*tensors, **sparse)


class TestSharded:
    """Its gradients are exchanged between processes, once."""

    @pytest.mark.parametrize("loss", [FocalLoss(), SoftmaxLoss()], ids=repr)
    def test_a_second_derivative_is_refused_and_a_graph_alone_is_not(self, loss):
        hidden, weight, bias, *sparse = make("odd")
        value = ShardedLoss(loss, 13)(hidden, weight, bias, *sparse)
        gradients = torch.autograd.grad(value, (hidden, weight, bias), create_graph=True)
        expected = torch.autograd.grad(loss(hidden, weight, bias, *sparse), (hidden, weight, bias))
        torch.testing.assert_close(gradients, expected)
        for total in (squares(gradients), value + squares(gradients[:1])):
            with pytest.raises(RuntimeError, match="a ShardedLoss has no second derivative, which `create_graph=True`"):
                torch.autograd.grad(total, weight, retain_graph=True)
        with pytest.raises(RuntimeError, match="has no second derivative"):
            squares(gradients).backward()

    def test_transforms_and_tensors_without_data_are_refused(self):
        hidden, weight, bias, *sparse = make("odd")
        loss = ShardedLoss(FocalLoss(), 13)
        with pytest.raises(ConfigError, match=r"allows neither torch\.func nor forward-mode AD"):
            grad(lambda h: loss(h, weight, bias, *sparse))(hidden)
        with pytest.raises(DataError, match="hidden is on meta, without data"):
            loss(hidden.to("meta"), weight, bias, *sparse)


@pytest.mark.parametrize("reduction", ["batch", "none"])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own compiler does that
def test_a_compiled_call_refuses_a_second_derivative(reduction):
    *tensors, labels, mask = make("odd", dtype=torch.float32)
    loss = FocalLoss(reduction=reduction, chunk_labels=4)
    torch._dynamo.reset()
    compiled = torch.compile(lambda *x: loss(*x, labels, mask).sum(), fullgraph=True, backend="aot_eager")
    value = compiled(*tensors)
    gradients = torch.autograd.grad(value, tensors, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        torch.autograd.grad(value + squares(gradients), tensors)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(shape):
    *tensors, labels, mask = make(shape)
    x = tuple(tensor.detach() for tensor in tensors)
    for loss in (FocalLoss(chunk_labels=4), SoftmaxLoss(chunk_labels=4)):
        for name in ("jvp", "forward over reverse", "vmap"):
            got, expected = (
                PROGRAMS[name](lambda *y, call=call, loss=loss: call(loss, *y, labels, mask), x, x)
                for call in (fused, dense)
            )
            torch.testing.assert_close(got, expected)
