"""A loss over labels that are partitioned over processes: value, gradients, and the best k of all labels."""

import pytest
import torch

from distributed_cases import launch
from hyperfocal.distributed import processes, world_size
from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import BCELoss, FocalLoss, GBCELoss, SampledSoftmaxLoss, ShardedLoss, SoftmaxLoss
from hyperfocal.losses.sharded import shard_of
from hyperfocal.metrics.ranking import sharded_top_k, stable_top_k, top_k
from loss_cases import LOSSES, SHAPES, make

REDUCTIONS = ("positives", "batch", "mean", "sum")


def check_loss(name, shape, masked, **options):
    """Compare a loss over this process's labels with the same loss over all labels, in this process."""
    hidden, weight, bias, labels, mask = make(shape)
    mask = mask if masked else None
    whole = LOSSES[name](len(weight), **options)
    sharded = ShardedLoss(whole, len(weight))
    own = [tensor.detach()[sharded.part].requires_grad_() for tensor in (weight, bias)]
    seen = hidden.detach().requires_grad_()
    value, expected = sharded(seen, *own, labels, mask), whole(hidden, weight, bias, labels, mask)
    torch.testing.assert_close(value, expected)
    (3 * value).backward()
    (3 * expected).backward()
    torch.testing.assert_close(seen.grad, hidden.grad)
    torch.testing.assert_close(own[0].grad, weight.grad[sharded.part])
    torch.testing.assert_close(own[1].grad, bias.grad[sharded.part])


def check_losses():
    for name in LOSSES:
        for shape in SHAPES:
            check_loss(name, shape, masked=shape != "aligned", reduction=REDUCTIONS[len(name + shape) % 4])
    check_loss("softmax, all", "odd", masked=True, ignore_empty=True, chunk_labels=2)
    check_loss("focal 2", "odd", masked=True, ignore_empty=True, chunk_labels=2)


def check_options():
    """No bias; a frozen last layer; float32 by the compiled pass; half precision."""
    generator = torch.Generator().manual_seed(3)
    hidden, weight = torch.randn(6, 5, generator=generator), torch.randn(11, 5, generator=generator)
    labels = SparseLabels.from_lists([[0], [10], [5, 6], [], [1], [9]], num_labels=11)
    for loss in (BCELoss(), FocalLoss(2.0, 0.25), SoftmaxLoss(gamma=1.0)):
        sharded = ShardedLoss(loss, 11)
        own = weight[sharded.part]
        for dtype, near in ((torch.float32, 1e-6), (torch.bfloat16, 0.05)):
            seen = hidden.to(dtype, copy=True).requires_grad_()
            sharded(seen, own.to(dtype), None, labels).backward()
            expected = hidden.to(dtype, copy=True).requires_grad_()
            loss(expected, weight.to(dtype), None, labels).backward()
            assert seen.grad.dtype == dtype
            torch.testing.assert_close(seen.grad, expected.grad, atol=near, rtol=near)
        with torch.no_grad():
            torch.testing.assert_close(sharded(hidden, own, None, labels), loss(hidden, weight, None, labels))
    if world_size() > 1:
        with pytest.raises(DataError, match=r"the rows of labels \d+ to \d+, got"):
            sharded(hidden, weight, None, labels)


def check_top_k():
    generator = torch.Generator().manual_seed(4)
    for rows, width, k in ((4, 9, 3), (3, 5, 5), (2, 2, 2), (1, 1, 1), (0, 6, 2), (5, 64, 20)):
        scores = torch.randn(rows, width, generator=generator)
        part = shard_of(width)
        best, labels = sharded_top_k(scores[:, part], k, first=part.start, num_labels=width)
        expected = top_k(scores, k)
        assert torch.equal(best, expected[0])
        assert torch.equal(labels, expected[1])
        tied = scores.round()  # many alike, and some that may not be recommended
        tied[:, ::3] = -torch.inf
        best, labels = sharded_top_k(tied[:, part], k, first=part.start, num_labels=width)
        values, order = tied.sort(stable=True, dim=1, descending=True)  # the lower label first
        assert torch.equal(best, values[:, :k])
        assert torch.equal(labels, order[:, :k])


def check_all():
    check_losses()
    check_options()
    check_top_k()


def test_one_process_alone():
    check_all()


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes(count):
    done = launch([__file__], count=count)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (SampledSoftmaxLoss(3), "SampledSoftmaxLoss cannot be sharded. Expected a separable loss"),
        (GBCELoss(3), "GBCELoss cannot be sharded"),
        (torch.nn.CrossEntropyLoss(), "CrossEntropyLoss cannot be sharded"),
        (FocalLoss(reduction="none"), "reduction = 'none' is not allowed in a ShardedLoss"),
        (SoftmaxLoss(backend="reference"), "backend = 'reference' is not allowed in a ShardedLoss of a SoftmaxLoss"),
        (BCELoss(backend="reference"), "Expected one of auto, chunked, native, triton"),
    ],
)
def test_what_cannot_be_sharded(loss, message):
    with pytest.raises(ConfigError, match=message):
        ShardedLoss(loss, 10)


def test_shapes_that_do_not_match():
    loss, labels = ShardedLoss(FocalLoss(), 4), SparseLabels.from_lists([[1]], num_labels=4)
    with pytest.raises(DataError, match=r"expected hidden \(B, D\) and weight \(4, D\), the rows of labels 0 to 3"):
        loss(torch.zeros(1, 2), torch.zeros(3, 2), None, labels)
    with pytest.raises(DataError, match=r"expected bias \(4,\), got \(3,\)"):
        loss(torch.zeros(1, 2), torch.zeros(4, 2), torch.zeros(3), labels)
    with pytest.raises(DataError, match="labels are 1 rows over 4 labels, but hidden has 2 rows and num_labels = 4"):
        loss(torch.zeros(2, 2), torch.zeros(4, 2), None, labels)
    with pytest.raises(ConfigError, match="k = 5 is not allowed"):
        sharded_top_k(torch.zeros(1, 4), 5, first=0, num_labels=4)


def test_it_goes_back_once():
    weight = torch.zeros(4, 2, requires_grad=True)
    value = ShardedLoss(FocalLoss(), 4)(torch.ones(1, 2), weight, None, SparseLabels.from_lists([[1]], num_labels=4))
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="a ShardedLoss allows one backward pass"):
        value.backward()


def test_of_equal_scores_the_lower_label_is_first():
    scores = torch.tensor([[2.0, 2.0, 5.0, 2.0], [0.0, -torch.inf, -torch.inf, 0.0]])
    values, columns = stable_top_k(scores, 3)
    assert values.tolist() == [[5, 2, 2], [0, 0, -torch.inf]]
    assert columns.tolist() == [[2, 0, 1], [0, 3, 1]]


if __name__ == "__main__":
    with processes():
        check_all()
