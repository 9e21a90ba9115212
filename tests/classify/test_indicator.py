"""Labels as scikit-learn has them, and as people write them."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy.sparse import coo_matrix, csr_array, csr_matrix

from hyperfocal.classify.indicator import Indicator, as_indicator, as_label_lists, check_form
from hyperfocal.errors import DataError
from hyperfocal.labels import SparseLabels

DENSE = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
LISTS = [["0", "2"], [], ["1"]]


class TestFile:
    def test_there_and_back(self):
        assert Indicator.from_json(4, ["0", "3"]) == Indicator(4)
        assert Indicator.from_json(4, ["0", "3"]).sparse  # as in earlier versions
        assert not Indicator.from_json(4, ["0", "3"], sparse=False).sparse

    @pytest.mark.parametrize("width", [3, 10**308, 1e3, "4", -1])
    def test_a_width_of_no_matrix_of_these_labels(self, width):
        with pytest.raises(DataError, match=r"columns cannot have the labels 0, 3$"):
            Indicator.from_json(width, ["0", "3"])


class TestReading:
    @pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, np.float32, bool])
    @pytest.mark.parametrize("kind", [np.asarray, csr_matrix, csr_array, coo_matrix])
    def test_a_matrix_is_lists_of_its_columns(self, kind, dtype):
        labels = kind(DENSE.astype(dtype))
        assert Indicator.of(labels) == Indicator(3)
        assert as_label_lists(labels) == LISTS

    def test_frames_and_tensors_of_two_dimensions_are_matrices_too(self):
        for labels in (pl.DataFrame(DENSE), torch.from_numpy(DENSE)):
            assert Indicator.of(labels) == Indicator(3)
            assert as_label_lists(labels) == LISTS

    def test_a_stored_zero_is_no_label(self):
        stored = csr_matrix((np.array([1, 0, 1]), np.array([0, 1, 2]), np.array([0, 3, 3, 3])), shape=(3, 3))
        assert as_label_lists(stored) == [["0", "2"], [], []]

    def test_the_caller_keeps_his_matrix(self):
        stored = csr_matrix((np.array([1, 0]), np.array([0, 1]), np.array([0, 2])), shape=(1, 3))
        as_label_lists(stored)
        assert stored.nnz == 2

    @pytest.mark.parametrize(
        ("labels", "where"),
        [
            (2 * DENSE, "row 0, column 0 is 2"),
            (-DENSE, "row 0, column 0 is -1"),
            (DENSE - 100 * (DENSE == 0), "row 0, column 1 is -100"),
            (DENSE * 0.1, r"row 0, column 0 is 0\.1"),
            (csr_matrix(3 * DENSE), "row 0, column 0 is 3"),
        ],
    )
    def test_a_matrix_of_anything_else_is_refused(self, labels, where):
        with pytest.raises(DataError, match=f"Unknown label type: labels: {where}\\. Expected 0 or 1: "):
            as_label_lists(labels)

    @pytest.mark.parametrize("labels", [DENSE.astype(str), np.array([["a", "b"]], dtype=object)])
    def test_a_matrix_of_texts_is_refused(self, labels):
        with pytest.raises(DataError, match=r"Unknown label type: a matrix of \S+\. Give an indicator matrix"):
            as_label_lists(labels)

    @pytest.mark.parametrize("dtype", ["boolean", "Int8", "float64", object])
    def test_pandas_frames_of_any_dtype(self, dtype):
        assert as_label_lists(pd.DataFrame(DENSE).astype(bool).astype(dtype)) == LISTS

    def test_lists_hold_texts_or_numbers(self):
        lists = [["a", "b"], [], (3,), np.array(["c"])]
        assert Indicator.of(lists) is None
        assert as_label_lists(lists) == [["a", "b"], [], ["3"], ["c"]]

    def test_lists_in_any_container(self):
        rows = (("a", "b"), {"c"}, ["d"])
        for labels in (rows, pd.Series(rows), pl.Series([["a", "b"], ["c"], ["d"]]), np.array(rows, dtype=object)):
            assert as_label_lists(labels) == [["a", "b"], ["c"], ["d"]]
        assert as_label_lists([np.array([2, 3]), torch.tensor([3])]) == [["2", "3"], ["3"]]

    @pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
    def test_a_missing_list_is_empty(self, missing):
        assert as_label_lists(pd.Series([["a"], missing])) == [["a"], []]
        assert as_label_lists(pa.array([["a", None], None])) == [["a"], []]
        with pytest.raises(DataError, match="as a numpy array"):
            as_label_lists([[0, 1], missing, [1, 0]])

    @pytest.mark.parametrize(
        "labels",
        [
            ["sport", "travel"],
            [0, 1],
            np.array(["a", "b"]),
            pd.Series(["sport", "travel"]),
            pl.Series(["sport"]),
            torch.tensor([1, 0]),
            [b"sport"],
            [{"sport": 1}],
        ],
    )
    def test_one_label_a_document_must_be_a_list_too(self, labels):
        with pytest.raises(DataError, match=r"is not a list of labels\. Give a list of labels per document"):
            as_label_lists(labels)

    @pytest.mark.parametrize("labels", ["tags", None, {"a": ["b"]}])
    def test_a_value_that_is_not_a_list_of_lists(self, labels):
        with pytest.raises(DataError, match="is not one list of labels per text"):
            as_label_lists(labels)

    @pytest.mark.parametrize("labels", [[[["a"], ["b"]]], [["a", ("b",)]]])
    def test_lists_inside_of_lists_of_labels(self, labels):
        with pytest.raises(DataError, match=r"in place of a label\. Give one flat list per document"):
            as_label_lists(labels)

    @pytest.mark.parametrize(
        "labels",
        [
            DENSE.tolist(),
            DENSE.astype(float).tolist(),
            [*DENSE],
            [*torch.from_numpy(DENSE)],
            [*DENSE.astype(bool)],
            [[True, False], [True]],
            [[np.True_]],
            [[0.1, 0.9], [0.8, 0.2]],
            [[1, -100], [0, 1]],
            [[1, None], [0, 1]],
        ],
    )
    def test_a_matrix_in_lists_is_not_taken_for_labels_called_0_and_1(self, labels):
        with pytest.raises(DataError, match="as a numpy array"):
            as_label_lists(labels)

    @pytest.mark.parametrize("labels", [[[0], [1]], [[0, 1], [1]], [[0, 2], [1, 0]], [["0", "1"], ["1", "0"]], []])
    def test_what_cannot_be_a_matrix_is_labels(self, labels):
        assert as_label_lists(labels) == [[str(name) for name in row] for row in labels]


class TestRows:
    @pytest.mark.parametrize("labels", [DENSE.tolist(), [*DENSE], tuple(map(tuple, DENSE.astype(float)))])
    def test_of_0_and_1_become_a_matrix(self, labels):
        np.testing.assert_array_equal(as_indicator(labels), DENSE)

    @pytest.mark.parametrize(
        "labels", [[[0], [1]], [[0, 1], [1]], [[0, 2], [1, 0]], [["0", "1"], ["1", "0"]], [], [[], []], ["a"], LISTS]
    )
    def test_anything_else_stays(self, labels):
        assert as_indicator(labels) is labels


class TestForm:
    @pytest.mark.parametrize(
        ("labels", "fitted"), [(DENSE, Indicator(3)), (LISTS, None), (pl.DataFrame(DENSE), Indicator(3))]
    )
    def test_of_training(self, labels, fitted):
        check_form(labels, fitted, "labels")

    @pytest.mark.parametrize(
        ("labels", "fitted", "message"),
        [
            (DENSE, Indicator(4), "an indicator matrix of 4 columns and these are an indicator matrix of 3 columns"),
            (LISTS, Indicator(3), "an indicator matrix of 3 columns and these are lists of labels"),
            (DENSE, None, "lists of labels and these are an indicator matrix of 3 columns"),
        ],
    )
    def test_another_one(self, labels, fitted, message):
        with pytest.raises(DataError, match=f"^valid: training labels are {message}\\. Give a (list|matrix) "):
            check_form(labels, fitted, "valid")


class TestWriting:
    def test_decided_labels_go_to_the_columns_of_their_names(self):
        decided = SparseLabels.from_lists([[0, 1], [], [1]], num_labels=2)
        found = Indicator(4).matrix(decided, ["3", "1"])
        assert found.dtype == np.int64
        assert found.toarray().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]]
        assert Indicator(4, sparse=False).matrix(decided, ["3", "1"]).tolist() == found.toarray().tolist()

    def test_scores_too_and_columns_of_no_label_are_filled(self):
        found = Indicator(4).widened(np.array([[5, 6]], dtype=np.float32), ["3", "1"], -9)
        assert found.tolist() == [[-9, 6, -9, 5]]
