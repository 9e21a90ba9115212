"""The head against dense matrices and dense autograd."""

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hyperfocal.config.classify import HeadSettings
from hyperfocal.models.text_head import Features, SparseRows, TextHead, wide_logits

quick = settings(deadline=None, max_examples=60)
FEATURES, LABELS, WIDTH = 6, 3, 4
PLAIN = HeadSettings(dropout=0.0)


@st.composite
def sparse_rows(draw, *, least: int = 0):
    """Return SparseRows: rows may be empty, unordered, and hold a feature more than once."""
    value = st.floats(-3, 3, width=32) | st.just(0.0)
    row = st.lists(st.tuples(st.integers(0, FEATURES - 1), value), max_size=5)
    return rows_of(draw(st.lists(row, min_size=least, max_size=5)))


def rows_of(rows: list[list[tuple[int, float]]]) -> SparseRows:
    indptr = torch.tensor([0, *map(len, rows)]).cumsum(0)
    columns = torch.tensor([feature for row in rows for feature, _ in row], dtype=torch.int64)
    return SparseRows(indptr, columns, torch.tensor([value for row in rows for _, value in row], dtype=torch.float32))


def dense_of(rows: SparseRows, features: int = FEATURES) -> Tensor:
    """Return (B, V), by scipy, which adds up what stands twice."""
    parts = (rows.values.numpy(), rows.columns.numpy(), rows.indptr.numpy())
    return torch.from_numpy(scipy.sparse.csr_array(parts, shape=(len(rows), features), dtype=np.float32).toarray())


def parameter(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), requires_grad=True)


def head_of(sparse: int = FEATURES, dense: int = WIDTH, options: HeadSettings = PLAIN) -> TextHead:
    torch.manual_seed(0)
    head = TextHead(sparse, dense, options, bias=torch.tensor([-1.0, 0.5, 2.0]))
    if head.wide is not None:
        head.wide.data.normal_()
    return head


class TestWideLogits:
    @quick
    @given(sparse_rows())
    def test_the_values_are_those_of_the_dense_product(self, rows):
        weight = parameter(FEATURES, LABELS)
        torch.testing.assert_close(wide_logits(rows, weight), dense_of(rows) @ weight)

    @quick
    @given(sparse_rows())
    def test_the_gradient_is_that_of_the_dense_product(self, rows):
        weight, other = parameter(FEATURES, LABELS), parameter(FEATURES, LABELS)
        upstream = torch.arange(1.0, len(rows) * LABELS + 1).reshape(len(rows), LABELS) - 4
        (wide_logits(rows, weight) * upstream).sum().backward()
        ((dense_of(rows) @ other) * upstream).sum().backward()
        assert weight.grad.is_sparse
        torch.testing.assert_close(weight.grad.to_dense(), other.grad)

    @quick
    @given(sparse_rows())
    def test_the_gradient_has_one_row_for_each_feature_of_the_batch_and_keeps_its_word(self, rows):
        weight = parameter(FEATURES, LABELS)
        (gradient,) = torch.autograd.grad(wide_logits(rows, weight).sum(), weight)
        assert gradient.is_coalesced()  # as promised to torch, which does not look
        assert gradient.indices()[0].tolist() == sorted(set(rows.columns.tolist()))
        assert gradient.values().shape == (gradient.indices().shape[1], LABELS)

    def test_a_gradient_that_is_one_number_for_all(self):
        """The gradient of a sum is an expanded tensor without memory of its own."""
        rows, weight = rows_of([[(0, 2.0), (4, 1.0)], [(4, 3.0)]]), parameter(FEATURES, 2)
        wide_logits(rows, weight).sum().backward()
        assert weight.grad.to_dense().tolist() == [[2, 2], [0, 0], [0, 0], [0, 0], [4, 4], [0, 0]]

    def test_a_second_derivative_is_that_of_dense_maths(self):
        """Of a penalty on the gradient; a feature stands twice in a row."""
        rows, results = rows_of([[(0, 2.0), (4, 1.0), (0, 1.0)], [(4, 3.0)]]), []
        for call in (wide_logits, lambda rows, weight: dense_of(rows) @ weight):
            weight = parameter(FEATURES, 2)
            value = call(rows, weight).sigmoid().sum()
            (gradient,) = torch.autograd.grad(value, weight, create_graph=True)
            (second,) = torch.autograd.grad(value + gradient.to_dense().square().sum(), weight)
            results.append(second.to_dense())
        torch.testing.assert_close(*results)

    def test_two_calls_add_up(self):
        rows, weight = rows_of([[(1, 1.0)], [(2, 5.0)]]), parameter(FEATURES, 1)
        for _ in range(2):
            wide_logits(rows, weight).sum().backward()
        assert weight.grad.to_dense()[:, 0].tolist() == [0, 2, 10, 0, 0, 0]


class TestSparseRows:
    @quick
    @given(sparse_rows(), st.data())
    def test_select(self, rows, data):
        numbers = st.lists(st.integers(0, len(rows) - 1), max_size=8) if len(rows) else st.just([])
        chosen = torch.tensor(data.draw(numbers), dtype=torch.int64)
        selected = rows.select(chosen)
        assert len(selected) == len(chosen)
        assert dense_of(selected).equal(dense_of(rows)[chosen])
        assert selected.indptr[0] == 0
        assert selected.indptr.dtype == selected.columns.dtype == torch.int64

    def test_dropout_drops_a_share_and_scales_the_others(self):
        torch.manual_seed(0)
        rows = rows_of([[(feature % FEATURES, 2.0) for feature in range(4_000)]])
        dropped_out = rows.dropout(0.25)
        assert set(dropped_out.values.tolist()) == {0.0, float(np.float32(2 / 0.75))}
        dropped = float((dropped_out.values == 0).double().mean())
        assert dropped == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 4_000) ** 0.5)  # four standard deviations
        assert dropped_out.columns.equal(rows.columns)
        assert rows.values.unique().tolist() == [2.0]  # the cached features stay

    def test_dropout_of_nothing(self):
        rows = rows_of([[(1, 2.0)], [(3, 4.0), (1, 0.5)]])
        assert rows.dropout(0.0).values.equal(rows.values)


class TestFeatures:
    SPARSE, DENSE = rows_of([[(0, 1.0)], [], [(5, 2.0), (1, 1.0)]]), torch.arange(12.0).reshape(3, 4)

    @pytest.mark.parametrize(("sparse", "dense"), [(SPARSE, DENSE), (SPARSE, None), (None, DENSE)])
    @pytest.mark.parametrize("chosen", [[], [2], [2, 0, 2]])
    def test_select_takes_the_same_documents_of_both(self, sparse, dense, chosen):
        features = Features(sparse, dense)
        selected = features.select(torch.tensor(chosen, dtype=torch.int64))
        assert (len(features), len(selected)) == (3, len(chosen))
        assert (selected.sparse is None, selected.dense is None) == (sparse is None, dense is None)
        if sparse is not None:
            assert dense_of(selected.sparse).equal(dense_of(sparse)[chosen])
        if dense is not None:
            assert selected.dense.equal(dense[chosen])


class TestHead:
    @quick
    @given(sparse_rows())
    def test_mlp_written_out(self, rows):
        """x_sparse @ wide + relu(x W + b) V^T + bias."""
        head = head_of(options=HeadSettings(width=5)).eval()
        dense = torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(2))
        first = head.hidden[0]
        deep = (dense @ first.weight.T + first.bias).clamp(min=0) @ head.weight.T
        torch.testing.assert_close(head(Features(rows, dense)), dense_of(rows) @ head.wide + deep + head.bias)

    def test_linear_written_out(self):
        head = head_of(options=HeadSettings(name="linear")).eval()
        rows, dense = rows_of([[(0, 1.0), (2, -2.0)], []]), torch.tensor([[1.0, 2, 3, 4], [0, 0, 0, 1]])
        expected = dense_of(rows) @ head.wide + dense @ head.weight.T + head.bias
        torch.testing.assert_close(head(Features(rows, dense)), expected)
        assert head.hidden is None

    @pytest.mark.parametrize("name", ["mlp", "linear"])
    @pytest.mark.parametrize("batch", [0, 1, 3])
    @pytest.mark.parametrize(("sparse", "dense"), [(FEATURES, WIDTH), (FEATURES, 0), (0, WIDTH)])
    def test_shapes_and_parts(self, name, batch, sparse, dense):
        head = head_of(sparse, dense, HeadSettings(name=name, width=7))
        rows = rows_of([[(0, 1.0)]] * batch) if sparse else None
        features = Features(rows, torch.randn(batch, dense) if dense else None)
        logits = head(features)
        assert logits.shape == (batch, LABELS)
        logits.sum().backward()
        assert [part.shape for part in head.sparse_parameters] == ([(FEATURES, LABELS)] if sparse else [])
        width = {"mlp": 7, "linear": WIDTH}[name]
        assert head.weight is None if not dense else head.weight.shape == (LABELS, width)
        assert all(parameter.grad is not None for parameter in head.parameters())

    def test_at_the_start_a_label_scores_its_bias(self):
        """A document without a known feature scores the priors; the wide part adds nothing before training."""
        bias = torch.tensor([-4.0, -2.0, 0.0])
        head = TextHead(FEATURES, 0, PLAIN, bias=bias)
        assert head(Features(rows_of([[], [(0, 3.0)]]), None)).tolist() == [[-4, -2, 0]] * 2
        head.bias.data.zero_()
        assert bias.tolist() == [-4, -2, 0]  # the caller's

    def test_hidden_of_is_what_the_last_layer_reads(self):
        head = head_of(0, options=HeadSettings(width=5)).eval()
        dense = torch.randn(3, WIDTH)
        expected = head.hidden_of(dense) @ head.weight.T + head.bias
        torch.testing.assert_close(head(Features(None, dense)), expected)

    def test_dropout_is_for_training(self):
        options = HeadSettings(width=64, dropout=0.5, input_dropout=0.5)
        head, rows = head_of(options=options), rows_of([[(feature, 1.0) for feature in range(FEATURES)]] * 2)
        features = Features(rows, torch.ones(2, WIDTH))
        assert not head(features).equal(head(features))
        head.eval()
        assert head(features).equal(head(features))

    def test_dropout_keeps_the_expected_logits(self):
        """The mean over many draws is the logit without dropout; both parts are linear here."""
        head = head_of(options=HeadSettings(name="linear", input_dropout=0.5))
        rows, dense = rows_of([[(0, 1.0), (3, 2.0)]] * 20_000), torch.ones(20_000, WIDTH)
        with torch.no_grad():
            mean, expected = head(Features(rows, dense)).mean(0), head.eval()(Features(rows, dense))[0]
        torch.testing.assert_close(mean, expected, atol=0.1, rtol=0)  # standard error about 0.02

    def test_the_gradients_of_both_parts_are_those_of_a_dense_head(self):
        head, twin = head_of(), head_of()
        rows, dense = rows_of([[(0, 1.0), (4, 2.0)], [], [(4, -1.0)]]), torch.randn(3, WIDTH)
        target = torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0]])
        loss = torch.nn.functional.binary_cross_entropy_with_logits
        loss(head(Features(rows, dense)), target).backward()
        logits = dense_of(rows) @ twin.wide + twin.hidden(dense) @ twin.weight.T + twin.bias
        loss(logits, target).backward()
        for (name, one), (_, other) in zip(head.named_parameters(), twin.named_parameters(), strict=True):
            torch.testing.assert_close(one.grad.to_dense(), other.grad, msg=name)

    @pytest.mark.parametrize("batch", [[], [[]], [[(2, 1.0), (5, 1.0)], [], [(2, -1.0), (2, 3.0)]]])
    def test_a_step_of_sgd_touches_the_rows_of_the_batchs_features_only(self, batch):
        head, rows = head_of(dense=0), rows_of(batch)
        before = head.wide.detach().clone()
        optimizer = torch.optim.SGD(head.sparse_parameters, lr=0.5)
        (head(Features(rows, None)) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        optimizer.step()
        moved = (head.wide != before).any(1).nonzero()[:, 0].tolist()
        assert moved == sorted(set(rows.columns.tolist()))
        sums = dense_of(rows).sum(0)[:, None]
        torch.testing.assert_close(head.wide.detach(), before - 0.5 * sums * torch.tensor([1.0, 2.0, 3.0]))

    def test_the_state_is_all_there_is(self):
        head, other = head_of().eval(), TextHead(FEATURES, WIDTH, PLAIN, bias=torch.zeros(LABELS)).eval()
        features = Features(rows_of([[(1, 1.0)]]), torch.ones(1, WIDTH))
        other.load_state_dict(head.state_dict())
        assert other(features).equal(head(features))
        assert set(head.state_dict()) == {"wide", "weight", "bias", "hidden.0.weight", "hidden.0.bias"}
