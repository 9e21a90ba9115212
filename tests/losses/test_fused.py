"""The fused call: values by hand, autograd, chunks, log and errors."""

import logging
import math

import pytest
import torch

from hyperfocal.errors import ConfigError, DataError
from hyperfocal.labels import SparseLabels
from hyperfocal.losses import BCELoss, FocalLoss, SeparableLoss, SoftmaxLoss, walk
from loss_cases import LOSSES, Squared, dense, fused, make, value_and_gradients

CPU = torch.device("cpu")


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

    def test_weights_and_mask_by_hand(self):
        """Of 10 terms, label 2 of both rows and the positive (0, 4) do not count; positive 0 counts 3 times."""
        labels = SparseLabels.from_lists([[0, 4], [4]], num_labels=5)
        mask = SparseLabels.from_lists([[2, 4], [2]], num_labels=5)
        hidden, weight, bias = torch.ones(2, 1), torch.zeros(5, 1), torch.zeros(5, requires_grad=True)
        loss = BCELoss(positive_weight=[3.0, 1.0, 1.0, 1.0, 2.0])
        value = loss(hidden, weight, bias, labels, mask)
        value.backward()
        assert value.item() == pytest.approx((3 + 2 + 5) * math.log(2) / 2)  # 2 positives and 5 negatives count
        assert bias.grad.tolist() == pytest.approx([(-1.5 + 0.5) / 2, 1 / 2, 0, 1 / 2, -1 / 2])

    def test_each_row_by_hand(self):
        labels = SparseLabels.from_lists([[0], []], num_labels=2)
        hidden, weight, bias = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]]), torch.zeros(2)
        value = BCELoss(reduction="none")(hidden, weight, bias, labels)
        softplus = [math.log(1 + math.exp(z)) for z in (0, 1, 2)]
        assert value.tolist() == pytest.approx([2 * softplus[0], softplus[1] + softplus[2]])

    def test_a_label_named_twice_counts_once(self):
        hidden, weight, bias, *_ = make("duplicate labels")
        once, twice = (
            SparseLabels.from_lists(rows, num_labels=10) for rows in ([[4], [], [1]], [[4, 4], [], [1, 1, 1]])
        )
        assert torch.equal(BCELoss()(hidden, weight, bias, once), BCELoss()(hidden, weight, bias, twice))


class TestAutograd:
    LOSSES = (FocalLoss(chunk_labels=4), SoftmaxLoss(chunk_labels=4), FocalLoss(chunk_labels=4, reduction="none"))
    every_family = pytest.mark.parametrize("loss", LOSSES, ids=repr)

    def test_what_follows_the_loss_scales_them(self):
        inputs = make("odd")
        _, *plain = value_and_gradients(fused, BCELoss(), *inputs)
        _, *scaled = value_and_gradients(lambda *call: 3 * fused(*call), BCELoss(), *inputs)
        torch.testing.assert_close(scaled, [3 * gradient for gradient in plain])

    def test_what_precedes_the_loss_gets_them(self):
        hidden, weight, bias, *sparse = make("odd")
        FocalLoss()(hidden * 2, weight, bias, *sparse).backward()
        inputs = ((2 * hidden).detach().requires_grad_(), weight, bias, *sparse)
        expected = value_and_gradients(dense, FocalLoss(), *inputs)
        torch.testing.assert_close(hidden.grad, 2 * expected[1])

    @every_family
    def test_a_second_backward_gives_the_same_again(self, loss):
        hidden, weight, bias, *sparse = make("odd")
        value = loss(hidden, weight, bias, *sparse).sum()
        value.backward(retain_graph=True)
        first = [tensor.grad.clone() for tensor in (hidden, weight, bias)]
        for tensor in (hidden, weight, bias):
            tensor.grad.zero_()  # must not change the gradients that the graph keeps
        value.backward()
        assert all(map(torch.equal, first, [tensor.grad for tensor in (hidden, weight, bias)]))

    @every_family
    def test_gradients_of_two_batches_add_up(self, loss):
        hidden, weight, bias, *sparse = make("odd")
        _, *once = value_and_gradients(lambda *call: fused(*call).sum(), loss, hidden, weight, bias, *sparse)
        for factor in (1, 3):
            (factor * loss(hidden, weight, bias, *sparse).sum()).backward()
        torch.testing.assert_close([hidden.grad, weight.grad, bias.grad], [4 * gradient for gradient in once])

    @pytest.mark.parametrize("factor", [1, 0.5])
    def test_the_gradient_of_the_weight_exists_once(self, factor):
        """`weight.grad` is what the walk wrote: at a million labels a copy would be as large as the model."""
        hidden, weight, bias, *sparse = make("odd")
        value = FocalLoss()(hidden, weight, bias, *sparse)
        walked = value.grad_fn.gradients[1].data_ptr()
        (factor * value).backward()
        assert weight.grad.data_ptr() == walked

    def test_a_loss_that_nobody_holds_lives_until_the_last_backward(self):
        hidden, weight, bias, *sparse = make("odd")
        value = FocalLoss(reduction="none")(hidden, weight, bias, *sparse)
        value.sum().backward()
        assert hidden.grad.any()

    def test_work_that_is_not_needed_is_not_done(self, monkeypatch):
        def refuse(*_):
            raise AssertionError("a gradient that nobody asked for")

        hidden, weight, bias, *sparse = make("odd")
        monkeypatch.setattr(walk, "_put_product", refuse)
        FocalLoss()(hidden, weight.detach(), bias, *sparse).backward()
        with torch.no_grad():
            FocalLoss()(hidden, weight, bias, *sparse)
        monkeypatch.setattr(walk, "_add_product", refuse)
        FocalLoss()(hidden.detach(), weight.detach(), bias, *sparse).backward()
        with pytest.raises(AssertionError, match="nobody asked for"):
            FocalLoss()(hidden.detach(), weight, bias, *sparse)

    def test_inputs_may_be_views(self):
        hidden, weight, bias, *sparse = make("odd")
        views = [hidden.detach().T.contiguous().T, weight.detach().T.contiguous().T, bias.detach().expand(2, -1)[1]]
        views = [view.requires_grad_() for view in views]
        torch.testing.assert_close(
            value_and_gradients(fused, FocalLoss(), *views, *sparse),
            value_and_gradients(fused, FocalLoss(), hidden, weight, bias, *sparse),
        )

    def test_a_users_function_must_be_elementwise(self):
        class Mean(Squared):
            def negative(self, logits):
                return logits.mean()

        with pytest.raises(
            ConfigError, match=r"Mean.negative gave \(\) for logits \(5, 13\). Expected one loss per logit"
        ):
            Mean()(*make("odd"))


class TestChunks:
    @pytest.mark.parametrize(
        ("batch", "num_labels", "size"),
        [(256, 5_501, 1_376), (256, 1_536, 1_552), (256, 1_000, 1_008), (1, 10, 16), (0, 0, 16), (2**30, 640, 64)],
    )
    def test_equal_chunks_that_stay_in_cache_and_are_no_power_of_two(self, batch, num_labels, size):
        """1,376 = ceil(5,501 / 4) up to 16 numbers: 4 chunks of at most 3 * 2^17 / 256 = 1,536 labels."""
        assert walk.chunk_size(batch, num_labels, CPU) == size

    def test_a_gpu_takes_larger_chunks(self):
        assert walk.chunk_size(256, 10**6, torch.device("cuda")) == 16 * -(-(10**6) // (16 * 4))

    @pytest.mark.parametrize("kind", [SeparableLoss, SoftmaxLoss])
    def test_the_logits_never_exist_as_a_whole(self, monkeypatch, kind):
        monkeypatch.setattr(walk, "CHUNK_NUMBERS_CPU", 1)  # the least: 64 labels
        seen, logits_of = [], walk.Walk.logits

        def spy(self, chunk):
            logits = logits_of(self, chunk)
            seen.append(tuple(logits.shape))
            return logits

        monkeypatch.setattr(walk.Walk, "logits", spy)
        labels = SparseLabels.from_lists([[0, 63, 64], [127, 128, 149], []], num_labels=150)
        inputs = (torch.randn(3, 2).double(), torch.randn(150, 2).double(), torch.randn(150).double(), labels)
        loss = Squared() if kind is SeparableLoss else SoftmaxLoss()
        value = loss(*inputs)
        assert seen == [(3, 64), (3, 64), (3, 22)]
        torch.testing.assert_close(value, dense(loss, *inputs))

    def test_its_size_can_be_set(self):
        sizes = []

        class Spy(Squared):
            def negative(self, logits):
                sizes.append(logits.shape[1])
                return super().negative(logits)

        Spy(chunk_labels=5)(*make("odd"))
        assert sizes == [5, 5, 3]


class TestLog:
    @pytest.fixture(autouse=True)
    def empty_log(self, monkeypatch):
        monkeypatch.setattr(walk, "_logged", set())

    def test_backend_and_chunk_are_logged_once(self, caplog):
        with caplog.at_level(logging.INFO, logger="hyperfocal"):
            for _ in range(2):
                FocalLoss(backend="chunked")(*make("odd"))
        assert caplog.messages == [
            "losses: backend chunked on cpu for FocalLoss (asked for)",
            "losses: a chunk holds 13 labels (5 rows per batch)",
        ]

    def test_a_forced_backend_is_logged_too(self, caplog):
        with caplog.at_level(logging.INFO, logger="hyperfocal"):
            FocalLoss(backend="reference")(*make("odd"))
        assert caplog.messages == ["losses: backend reference (asked for)"]

    def test_the_reference_backend_is_dense(self, monkeypatch):
        monkeypatch.setattr(walk.Walk, "logits", None)
        inputs = make("odd")
        torch.testing.assert_close(FocalLoss(backend="reference")(*inputs), dense(FocalLoss(), *inputs))


class TestErrors:
    LABELS = SparseLabels.from_lists([[0], [1]], num_labels=3)

    @pytest.mark.parametrize("loss", [BCELoss(), BCELoss(backend="reference"), SoftmaxLoss()], ids=repr)
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
    def test_shapes_that_do_not_match(self, loss, hidden, weight, bias, message):
        with pytest.raises(DataError, match=message):
            loss(torch.zeros(hidden), torch.zeros(weight), torch.zeros(bias), self.LABELS)

    def test_a_mask_of_another_shape(self):
        mask = SparseLabels.from_lists([[0]], num_labels=3)
        with pytest.raises(DataError, match="mask are 1 rows over 3 labels, but hidden has 2 rows and weight 3 labels"):
            BCELoss()(torch.zeros(2, 4), torch.zeros(3, 4), None, self.LABELS, mask)

    def test_labels_that_are_dense(self):
        with pytest.raises(
            DataError, match=r"labels are a Tensor\. Expected SparseLabels; see SparseLabels\.from_lists and from_dense"
        ):
            BCELoss()(torch.zeros(2, 4), torch.zeros(3, 4), None, self.LABELS.to_dense())

    @pytest.mark.parametrize("backend", ["chunked", "auto", "reference"])
    @pytest.mark.parametrize("wrong", [-1, 3])
    def test_label_ids_of_no_label(self, backend, wrong):
        """SparseLabels built by hand are not checked; the compiled walk would read memory that is not theirs."""
        labels = SparseLabels(torch.tensor([0, 1, 2]), torch.tensor([2, wrong]), 3)
        with pytest.raises(DataError, match=rf"labels have the label id {wrong}\. Expected 0 to 2; .*from_padded"):
            BCELoss(backend=backend)(torch.zeros(2, 4), torch.zeros(3, 4), None, labels)
        with pytest.raises(DataError, match=f"mask have the label id {wrong}"):
            BCELoss(backend=backend)(torch.zeros(2, 4), torch.zeros(3, 4), None, self.LABELS, labels)

    @pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_tensors_that_are_no_floats(self, dtype, place):
        tensors = [torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3)]
        tensors[place] = tensors[place].to(dtype)
        with pytest.raises(DataError, match=rf"{('hidden', 'weight', 'bias')[place]} is {dtype}. Expected a float"):
            BCELoss()(*tensors, self.LABELS)
        with pytest.raises(DataError, match=rf"logits is {dtype}. Expected a float"):
            BCELoss().from_logits(torch.zeros(2, 3, dtype=dtype), self.LABELS)

    def test_several_dtypes(self):
        message = "hidden is torch.bfloat16 but weight torch.float32. Convert one, or call under torch.autocast"
        with pytest.raises(DataError, match=message):
            BCELoss()(torch.zeros(2, 4, dtype=torch.bfloat16), torch.zeros(3, 4), None, self.LABELS)

    def test_several_devices(self):
        with pytest.raises(DataError, match=r"hidden is on cpu but weight on meta\. Move them to one device"):
            BCELoss()(torch.zeros(2, 4), torch.zeros(3, 4, device="meta"), None, self.LABELS)

    @pytest.mark.parametrize("backend", ["reference", "chunked"])
    @pytest.mark.parametrize("loss", [BCELoss, SoftmaxLoss])
    def test_weights_of_another_length(self, loss, backend):
        with pytest.raises(DataError, match="positive_weight has 2 numbers, but there are 3 labels"):
            loss(positive_weight=[1.0, 2.0], backend=backend)(torch.zeros(2, 4), torch.zeros(3, 4), None, self.LABELS)

    @pytest.mark.parametrize("number", [math.nan, math.inf])
    @pytest.mark.parametrize("backend", ["reference", "chunked"])
    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_numbers_that_are_not_finite(self, number, backend, place):
        tensors = [torch.zeros(2, 4), torch.zeros(3, 4), torch.zeros(3, 1)]
        tensors[place][1, 0] = number
        inputs = (*tensors[:2], tensors[2][:, 0], self.LABELS)
        name, where = (("hidden", r"\[1, 0\]"), ("weight", r"\[1, 0\]"), ("bias", r"\[1\]"))[place]
        with pytest.raises(DataError, match=rf"{name} holds {number} at {where}. Expected finite numbers"):
            BCELoss(check_finite=True, backend=backend)(*inputs)
        BCELoss(backend=backend)(*inputs)  # off by default

    def test_logits_that_are_not_finite(self):
        with pytest.raises(DataError, match=r"logits holds nan at \[0, 2\]"):
            BCELoss(check_finite=True).from_logits(torch.tensor([[0, 0, math.nan], [0, 0, 0]]), self.LABELS)


class TestOptions:
    @pytest.mark.parametrize("build", LOSSES.values(), ids=LOSSES)
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"reduction": "avg"},
                "reduction = 'avg' is not allowed. Expected one of positives, batch, mean, sum, none",
            ),
            ({"reduction": "Sum"}, "reduction = 'Sum' is not allowed. Did you mean 'sum'?"),
            ({"backend": "chunk"}, "backend = 'chunk' is not allowed. Did you mean 'chunked'?"),
            ({"chunk_labels": 0}, "chunk_labels = 0 is not allowed. Expected 1 or more, or None"),
        ],
    )
    def test_not_allowed(self, build, options, message):
        with pytest.raises(ConfigError) as caught:
            build(3, **options)
        assert str(caught.value).startswith(message)

    @pytest.mark.parametrize("kind", [BCELoss, SoftmaxLoss])
    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ([1.0, 0.0], "positive_weight: label 1 has 0.0. Expected numbers above 0"),
            ([-1.0, 1.0], "positive_weight: label 0 has -1.0. Expected numbers above 0"),
            ([1.0, math.inf], "positive_weight: label 1 has inf. Expected finite numbers"),
            ([[1.0]], r"positive_weight is (1, 1). Expected one number per label, (L,)"),
        ],
    )
    def test_weights_not_allowed(self, kind, weights, message):
        with pytest.raises(ConfigError) as caught:
            kind(positive_weight=weights)
        assert str(caught.value) == message

    def test_an_unknown_option(self):
        with pytest.raises(TypeError, match="reducton"):
            FocalLoss(2, reducton="sum")

    def test_weights_are_kept_apart_from_the_callers(self):
        weights = torch.ones(3)
        loss = BCELoss(positive_weight=weights)
        weights[0] = 9
        assert loss.positive_weight.tolist() == [1, 1, 1]

    def test_weights_move_with_the_loss_but_are_no_part_of_a_checkpoint(self):
        loss = BCELoss(positive_weight=[1.0, 2.0])
        assert loss.to("meta").positive_weight.device.type == "meta"
        assert loss.state_dict() == {}
