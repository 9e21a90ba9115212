"""The sampled losses: the full losses if every label is drawn; with few draws unbiased, and hits do not count."""

import math

import pytest
import torch
from torch.nn import functional

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import BCELoss, GBCELoss, SampledSoftmaxLoss, SoftmaxLoss
from hyperfocal.losses.sampled import SampledLoss

ROWS = [[3], [], [0, 1, 5], [2, 4], [1]]
LABELS = SparseLabels.from_lists(ROWS, num_labels=6)
MASK = SparseLabels.from_lists([[0], [2], [1, 4], [], [1]], num_labels=6)
SINGLE = SparseLabels.from_lists([[3], [0], [5], [5], [1]], num_labels=6)
KINDS = (SampledSoftmaxLoss, GBCELoss)
every_kind = pytest.mark.parametrize("kind", KINDS)


def some_inputs(num_labels=6, batch=5):
    generator = torch.Generator().manual_seed(0)
    sizes = ((batch, 3), (num_labels, 3), (num_labels,))
    return [torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_() for size in sizes]


def logits_of(hidden, weight, bias):
    return (hidden @ weight.T + bias).detach()


def drawing(loss, ids):
    """Let a loss draw these labels."""
    loss.draw = lambda num_labels, device: torch.tensor(ids, device=device)
    return loss


class TestEveryLabelDrawn:
    def test_sampled_softmax_is_softmax(self):
        inputs = some_inputs()
        sampled, full = drawing(SampledSoftmaxLoss(6), range(6)), SoftmaxLoss()
        torch.testing.assert_close(sampled(*inputs, SINGLE), full(*inputs, SINGLE))

    def test_its_gradient_too(self):
        inputs = some_inputs()
        sampled, full = drawing(SampledSoftmaxLoss(6), range(6)), SoftmaxLoss()
        got, expected = (torch.autograd.grad(loss(*inputs, SINGLE), inputs) for loss in (sampled, full))
        torch.testing.assert_close(got, expected)

    @pytest.mark.parametrize("t", [0, 0.5, 1])
    def test_gbce_with_all_negatives_is_bce_for_every_t(self, t):
        """N = L - 1 negatives: b = 1, and N + 1 = L, so that it is the mean over all labels."""
        inputs = some_inputs()
        gbce = drawing(GBCELoss(5, t=t), range(6))
        torch.testing.assert_close(gbce(*inputs, SINGLE), BCELoss(reduction="mean")(*inputs, SINGLE))


class TestByHand:
    def test_several_positives_do_not_compete(self):
        """Drawn: 2, 3 and twice 4. The positives and masked labels of a row are not its negatives."""
        inputs, ids = some_inputs(), [2, 3, 4, 4]
        z, loss = logits_of(*inputs), drawing(SampledSoftmaxLoss(4, reduction="none"), ids)
        expected = []
        for row, (right, ignored) in enumerate(zip(ROWS, ([0], [2], [1, 4], [], [1]), strict=True)):
            counted = [label for label in right if label not in ignored]
            negatives = [z[row, label] - math.log(4 / 6) for label in ids if label not in (*right, *ignored)]
            each = [
                functional.cross_entropy(torch.stack([z[row, label], *negatives]), torch.tensor(0)) for label in counted
            ]
            expected.append(sum(each) / max(len(counted), 1))
        torch.testing.assert_close(loss(*inputs, LABELS, MASK), torch.tensor(expected, dtype=torch.float64))

    def test_gbce(self):
        """Zero logits: each term is log 2. L = 5, N = 2, t = 1/2: a = 1/2, b = 1/2 (1/2 (1 - 2) + 2) = 3/4."""
        labels = SparseLabels.from_lists([[0], [1, 2], []], num_labels=5)
        loss = drawing(GBCELoss(2, t=0.5, reduction="none"), [2, 4])
        value = loss(torch.ones(3, 1), torch.zeros(5, 1), None, labels)
        log2 = math.log(2)
        assert value.tolist() == pytest.approx([(0.75 + 2) * log2 / 3, (0.75 + 1) * log2 / 3, 0])

    @pytest.mark.parametrize(("t", "b"), [(0, 1), (1, 0.5)])
    def test_t_goes_from_plain_to_calibrated(self, t, b):
        labels = SparseLabels.from_lists([[0]], num_labels=5)
        value = drawing(GBCELoss(2, t=t), [0, 0])(torch.ones(1, 1), torch.zeros(5, 1), None, labels)  # no negative
        assert value.item() == pytest.approx(b * math.log(2) / 3)

    @every_kind
    def test_weights_scale_the_positives(self, kind):
        inputs, ids = some_inputs(), [2, 3, 3]
        weights = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        plain, weighted = (drawing(kind(3, reduction="none", **how), ids) for how in ({}, {"positive_weight": weights}))
        zero = drawing(kind(3, reduction="none", positive_weight=weights * 0 + 1e-30), ids)
        negatives = zero(*inputs, SINGLE)
        ratio = (weighted(*inputs, SINGLE) - negatives) / (plain(*inputs, SINGLE) - negatives)
        torch.testing.assert_close(ratio, torch.tensor([4, 1, 6, 6, 2], dtype=torch.float64))


class TestDraws:
    @pytest.mark.parametrize("distribution", [None, [8.0, 4.0, 2.0, 1.0, 1.0, 0.5]])
    def test_the_correction_makes_it_unbiased(self, distribution):
        """With many draws the sum over them is near the sum over all labels, for any distribution."""
        inputs, generator = some_inputs(), torch.Generator().manual_seed(0)
        loss = SampledSoftmaxLoss(200_000, distribution=distribution, generator=generator)
        assert loss(*inputs, SINGLE).item() == pytest.approx(SoftmaxLoss()(*inputs, SINGLE).item(), rel=0.01)
        plain = SampledSoftmaxLoss(200_000, distribution=distribution, generator=generator, correction=False)
        assert plain(*inputs, SINGLE).item() > SoftmaxLoss()(*inputs, SINGLE).item() + 5

    def test_in_proportion_to_the_distribution(self):
        loss = GBCELoss(40_000, distribution=[1, 0, 3, 0], generator=torch.Generator().manual_seed(0))
        shares = torch.bincount(loss.draw(4, torch.device("cpu")), minlength=4) / 40_000
        assert shares.tolist() == pytest.approx([0.25, 0, 0.75, 0], abs=0.01)
        assert shares[1] == shares[3] == 0

    @pytest.mark.parametrize(("point", "label"), [(0.0, 1), (0.25, 3), (0.999, 3)])
    def test_a_point_on_an_edge_belongs_to_the_label_that_begins_there(self, monkeypatch, point, label):
        monkeypatch.setattr(torch, "rand", lambda count, **_: torch.full((count,), point, dtype=torch.float64))
        assert GBCELoss(1, distribution=[0, 1, 0, 3]).draw(4, torch.device("cpu")).tolist() == [label]

    def test_without_one_all_labels_alike(self):
        drawn = GBCELoss(40_000, generator=torch.Generator().manual_seed(0)).draw(4, torch.device("cpu"))
        assert (torch.bincount(drawn, minlength=4) / 40_000).tolist() == pytest.approx([0.25] * 4, abs=0.01)

    @every_kind
    def test_a_generator_repeats_them(self, kind):
        inputs = some_inputs()
        one, other = (kind(3, generator=torch.Generator().manual_seed(7)) for _ in range(2))
        first, second = (one(*inputs, LABELS) for _ in range(2))
        assert torch.equal(other(*inputs, LABELS), first)
        assert not torch.equal(first, second)

    @every_kind
    def test_without_a_generator_torchs_seed_does(self, kind):
        inputs, values = some_inputs(), []
        for _ in range(2):
            torch.manual_seed(3)
            values.append(kind(3)(*inputs, LABELS))
        assert torch.equal(*values)


@every_kind
class TestCall:
    @pytest.mark.parametrize("reduction", ["positives", "batch", "mean", "sum", "none"])
    @pytest.mark.parametrize("ignore_empty", [False, True])
    def test_from_logits_and_reductions(self, kind, reduction, ignore_empty):
        inputs = some_inputs()
        how = {"reduction": reduction, "ignore_empty": ignore_empty}
        loss, rows = (drawing(kind(4, **options), [1, 2, 2, 5]) for options in (how, {"reduction": "none"}))
        counted = torch.tensor([1, 0, 1, 1, 0]) if ignore_empty else torch.ones(5)  # masked, row 4 is empty too
        terms = (counted * (6 - MASK.lengths)).sum()
        sizes = {"positives": 5, "batch": counted.sum(), "mean": terms, "sum": 1, "none": 1}
        each = rows(*inputs, LABELS, MASK) / sizes[reduction]
        got = loss(*inputs, LABELS, MASK)
        torch.testing.assert_close(got, each if reduction == "none" else each.sum())
        torch.testing.assert_close(loss.from_logits(logits_of(*inputs), LABELS, MASK), got)

    def test_gradcheck(self, kind):
        loss = drawing(kind(4), [1, 2, 2, 5])
        assert torch.autograd.gradcheck(lambda *inputs: loss(*inputs, LABELS, MASK), some_inputs())

    def test_labels_that_are_not_scored_get_no_gradient(self, kind):
        inputs = some_inputs(num_labels=9)
        labels = SparseLabels.from_lists([[0], [1], [0], [], [1]], num_labels=9)
        drawing(kind(2), [7, 3])(*inputs, labels).backward()
        assert inputs[1].grad.any(1).nonzero().flatten().tolist() == [0, 1, 3, 7]

    def test_only_hits_and_no_positives(self, kind):
        """A row whose draws are all hits has no negatives, and a row without positives no loss: neither gives NaN."""
        labels = SparseLabels.from_lists([[2], []], num_labels=6)
        inputs = some_inputs(batch=2)
        loss = drawing(kind(2, reduction="none"), [2, 2])
        value = loss(*inputs, labels)
        value.sum().backward()
        assert value[1] == 0
        assert all(tensor.grad.isfinite().all() for tensor in inputs)
        assert not inputs[0].grad[1].any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_finite_at_every_logit(self, kind, dtype):
        hidden = torch.linspace(-100, 100, 201, dtype=dtype)[:, None].requires_grad_()
        weight = torch.tensor([[1.0], [-1.0]], dtype=dtype).repeat(20, 1).requires_grad_()
        labels = SparseLabels.from_lists([[row % 40] for row in range(201)], num_labels=40)
        value = drawing(kind(10), range(10, 20))(hidden, weight, None, labels)
        value.backward()
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert hidden.grad.isfinite().all()
        assert weight.grad.isfinite().all()

    def test_an_empty_batch(self, kind):
        inputs = some_inputs(batch=0)
        value = kind(3)(*inputs, SparseLabels.from_lists([], num_labels=6))
        value.backward()
        assert value == 0
        assert not inputs[1].grad.any()


@every_kind
class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_negatives": 0}, "num_negatives = 0 is not allowed. Expected 1 or more"),
            (
                {"distribution": [1.0, -1.0]},
                "distribution has a number below 0, or none above 0. Expected 0 or more per label, not all 0",
            ),
            (
                {"distribution": [0.0, 0.0]},
                "distribution has a number below 0, or none above 0. Expected 0 or more per label, not all 0",
            ),
            ({"distribution": [math.nan]}, "distribution: label 0 has nan. Expected finite numbers"),
            ({"reduction": "rows"}, "reduction = 'rows' is not allowed."),
        ],
    )
    def test_options(self, kind, options, message):
        with pytest.raises(ConfigError) as caught:
            kind(**({"num_negatives": 3} | options))
        assert str(caught.value).startswith(message)

    @pytest.mark.parametrize("name", ["distribution", "positive_weight"])
    def test_vectors_of_another_length(self, kind, name):
        with pytest.raises(DataError, match=f"{name} has 2 numbers, but there are 6 labels"):
            kind(3, **{name: [1.0, 2.0]})(*some_inputs(), LABELS)

    def test_shapes(self, kind):
        with pytest.raises(DataError, match="labels are 5 rows over 6 labels, but hidden has 4 rows"):
            kind(3)(*some_inputs(batch=4), LABELS)

    def test_numbers_that_are_not_finite(self, kind):
        hidden, weight, bias = some_inputs()
        with pytest.raises(DataError, match="hidden holds nan"):
            kind(3, check_finite=True)(hidden * math.nan, weight, bias, LABELS)
        with pytest.raises(DataError, match="logits holds nan"):
            kind(3, check_finite=True).from_logits(torch.full((5, 6), math.nan), LABELS)


def test_t_out_of_range():
    with pytest.raises(ConfigError) as caught:
        GBCELoss(3, t=1.5)
    assert str(caught.value) == "t = 1.5 is not allowed. Expected a number from 0 to 1"


def test_a_loss_without_its_function():
    with pytest.raises(NotImplementedError, match=r"SampledLoss must define row_losses\(scores\)"):
        SampledLoss(3)(*some_inputs(), LABELS)


@every_kind
@pytest.mark.parametrize("option", [{"backend": "chunked"}, {"chunk_labels": 4}])
def test_an_option_of_the_fused_losses_only(kind, option):
    with pytest.raises(TypeError, match=r"SampledLoss\.__init__\(\) got an unexpected keyword argument"):
        kind(3, **option)
