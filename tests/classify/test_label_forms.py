"""Labels to score against must have the form of the training labels."""

import numpy as np
import polars as pl
import pytest
from scipy.sparse import csr_matrix

from hyperfocal import MultiLabelClassifier
from hyperfocal.errors import DataError
from text_cases import FAST, corpus, matrix

TEXTS, LABELS = corpus()
ONES = matrix(LABELS)
FORMS = {"lists": LABELS, "matrix": ONES}


@pytest.fixture(scope="module")
def fitted():
    return {name: MultiLabelClassifier(settings=FAST).fit(TEXTS, labels) for name, labels in FORMS.items()}


@pytest.mark.parametrize("form", FORMS)
def test_the_form_of_training_is_scored(fitted, form, tmp_path):
    assert fitted[form].score(TEXTS, FORMS[form]) > 0.3
    fitted[form].save(tmp_path / "run")
    loaded = MultiLabelClassifier.load(tmp_path / "run")
    assert loaded.score(TEXTS, FORMS[form]) == fitted[form].score(TEXTS, FORMS[form])


WRONG = {
    "lists": [
        (ONES, "training labels are lists of labels and these are an indicator matrix of 6 columns"),
        (csr_matrix(ONES), "training labels are lists of labels and these are an indicator matrix of 6 columns"),
        (["sport"] * len(TEXTS), "'sport' is not a list of labels"),
        (np.array(["sport"] * len(TEXTS)), "'sport' is not a list of labels"),
        (pl.Series(["sport"] * len(TEXTS)), "'sport' is not a list of labels"),
        ([["Sport"]] * len(TEXTS), "not one of 160 has a label that training has; they have other labels, such as 'Sp"),
        (ONES.tolist(), "may be labels or rows of an indicator matrix"),
        (LABELS[:-1], "different lengths"),
    ],
    "matrix": [
        (ONES[:, :5], "an indicator matrix of 6 columns and these are an indicator matrix of 5 columns"),
        (LABELS, "an indicator matrix of 6 columns and these are lists of labels"),
        (pl.DataFrame(np.insert(ONES, 0, 0, axis=1)), "these are an indicator matrix of 7 columns"),
        (ONES * 2, "is 2. Expected 0 or 1"),
        (ONES[:, 0], "training labels are an indicator matrix of 6 columns and these are lists of labels"),
    ],
}
CASES = [(form, labels, message) for form, rows in WRONG.items() for labels, message in rows]


@pytest.mark.parametrize(("form", "labels", "message"), CASES)
def test_another_form_is_refused(fitted, form, labels, message):
    with pytest.raises(DataError) as caught:
        fitted[form].score(TEXTS, labels)
    assert message in str(caught.value)


@pytest.mark.parametrize("form", FORMS)
def test_a_pair_is_evaluated_as_documents_are(fitted, form):
    metrics = fitted[form].evaluate((TEXTS, FORMS[form]))
    assert metrics["values"]["tuned.micro_f1"] == pytest.approx(fitted[form].score(TEXTS, FORMS[form]))
    assert metrics["data"]["documents"] == 160


@pytest.mark.parametrize(("form", "labels", "message"), CASES)
def test_a_pair_of_another_form_is_not_evaluated(fitted, form, labels, message):
    with pytest.raises(DataError) as caught:
        fitted[form].evaluate((TEXTS, labels))
    assert message in str(caught.value)


@pytest.mark.parametrize(("form", "labels", "message"), CASES)
def test_validation_labels_of_another_form_are_refused(form, labels, message):
    with pytest.raises(DataError) as caught:
        MultiLabelClassifier(settings=FAST).fit(TEXTS, FORMS[form], valid=(TEXTS, labels))
    assert message in str(caught.value)


def test_a_frame_takes_lists_and_not_a_matrix_to_validate_on():
    frame = pl.DataFrame({"text": TEXTS, "labels": LABELS})
    with pytest.raises(DataError, match="valid: training labels are lists of labels and these are an indicator"):
        MultiLabelClassifier(settings=FAST).fit(frame, valid=(TEXTS, ONES))


def test_labels_that_training_never_saw_count_as_misses(fitted):
    """Of 2 decided labels at most 1 is right if each text has its labels and 1 more."""
    more = [[*row, "never"] for row in LABELS]
    assert 0 < fitted["lists"].score(TEXTS, more) < fitted["lists"].score(TEXTS, LABELS)


def test_texts_without_labels_are_scored(fitted):
    assert fitted["lists"].score(TEXTS[:2], [[], []]) == 0
