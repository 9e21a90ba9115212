"""The Extreme Classification format, against scikit-learn's reader of a similar one, and on real data."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_svmlight_file

from hyperfocal.data import extreme
from hyperfocal.data.extreme import read_extreme
from hyperfocal.errors import DataError
from packing import PACK, pack

DATA = Path(__file__).parents[2].parent / "shared" / "data"
SHAPES = {  # examples, features, labels
    ("bibtex", "train"): (4_880, 1_836, 159),
    ("bibtex", "test"): (2_515, 1_836, 159),
    ("delicious", "train"): (12_920, 500, 983),
    ("delicious", "test"): (3_185, 500, 983),
}
SMALL = "3 4 3\n0,2 1:1 3:0.5\n 0:-2e1\n1\n"


def error(path):
    with pytest.raises(DataError) as caught:
        read_extreme(path)
    return str(caught.value).removeprefix(f"{path}").lstrip(": ")


@pytest.mark.parametrize("ending", ["", *PACK])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_small_file(put, ending, end):
    data = read_extreme(put(f"train.txt{ending}", SMALL.replace("\n", end)))
    assert data.features.toarray().tolist() == [[0, 1, 0, 0.5], [-20, 0, 0, 0], [0, 0, 0, 0]]
    assert data.features.dtype == np.float32
    assert data.labels.to_dense().tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("text", "features", "labels"),
    [
        ("1 2 2\n0   1:1  0:2 \n", [[2, 1]], [[1, 0]]),  # several spaces, unordered features
        ("1 2 2\n1,0\t1:1\t0:2\n", [[2, 1]], [[1, 1]]),
        ("1 2 2\n0:3\n", [[3, 0]], [[0, 0]]),  # no label and no space before
        ("2 2 2\n \n\n", [[0, 0], [0, 0]], [[0, 0], [0, 0]]),
        ("1 2 2\n0 1:1\n\n \n\n", [[0, 1]], [[1, 0]]),  # blank lines at the end
        ("\ufeff1 2 2\n0,0 1:+.5", [[0, 0.5]], [[1, 0]]),
        ("1 2 2\n0 1:1.\n", [[0, 1]], [[1, 0]]),
        ("1 2 0\n 1:0\n", [[0, 0]], [[]]),
    ],
)
def test_lines_as_others_write_them(put, text, features, labels):
    data = read_extreme(put("train.txt", text))
    assert data.features.toarray().tolist() == features
    assert data.labels.to_dense().tolist() == labels


def test_no_examples(put):
    data = read_extreme(put("train.txt", "0 5 3\n"))
    assert data.features.shape == (0, 5)
    assert (len(data.labels), data.labels.num_labels) == (0, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0,3 1:1", "label '3' is out of range, because line 1 says 3 labels. Ids begin at 0"),
        ("-1 1:1", "label '-1' is not an integer. Expected ids such as 3,17 before the first space"),
        ("a 1:1", "label 'a' is not an integer"),
        ("0,,1 1:1", "label '' is not an integer"),
        ("0, 1 1:1", "label '' is not an integer"),
        ("0;1 1:1", "label '0;1' is not an integer"),
        ("1.0 1:1", "label '1.0' is not an integer"),
        ("99999999999999999999 1:1", "label '99999999999999999999' is out of range"),
        ("9" * 5_000 + " 1:1", f"label '{'9' * 40}' is out of range"),
        ("0 " + "9" * 5_000 + ":1", f"feature '{'9' * 40}' is out of range"),
        ("0 4:1", "feature '4' is out of range, because line 1 says 4 features. Ids begin at 0"),
        ("0 -1:1", "'-1:1' is not a feature. Expected an id and a value, such as 5:0.5"),
        ("0 1.5:1", "'1.5:1' is not a feature"),
        ("0 1 2:1", "'1' is not a feature"),
        ("0 1:1 2", "'2' is not a feature"),
        ("0 1:", "feature 1 has the value ''. Expected a finite number"),
        ("0 1:x", "feature 1 has the value 'x'. Expected a finite number"),
        ("0 1:nan", "feature 1 has the value 'nan'. Expected a finite number"),
        ("0 1:-inf", "feature 1 has the value '-inf'. Expected a finite number"),
        ("0 1:1e39", "feature 1 has the value '1e39'. Expected a finite number"),
        ("0 1:1:2", "feature 1 has the value '1:2'. Expected a finite number"),
        ("0 1:1:2 3", "feature 1 has the value '1:2'. Expected a finite number"),
        ("0 1:1,2:2", "feature 1 has the value '1,2:2'. Expected a finite number"),
        ("0 1:1 2:1 1:2", "feature 1 occurs twice. Write it once"),
        ("0 1:é", "feature 1 has the value 'é'. Expected a finite number"),
    ],
)
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("block", [1, 2**26])
def test_a_wrong_line_is_named(put, monkeypatch, line, message, ending, block):
    monkeypatch.setattr(extreme, "BLOCK_BYTES", block)
    path = put(f"train.txt{ending}", f"3 4 3\n0 1:1\n{line}\n 2:1\n")
    assert error(path).startswith(f"line 3: {message}")


@pytest.mark.parametrize("number", [1, 4, 0])
def test_another_number_of_lines(put, number):
    message = error(put("train.txt", SMALL.replace("3 4 3", f"{number} 4 3")))
    assert message.startswith(f"line 1: says {number} examples, but 3 lines follow. The file may be truncated")


@pytest.mark.parametrize("first", ["", "3 4", "3 4 x", "user item", "3 4 3 1", "3,4,3", "0 1:1", "9" * 300, "-1 4 3"])
def test_a_wrong_first_line(put, first):
    message = error(put("train.txt", f"{first}\n0 1:1\n"))
    assert "is not `N F L`, the numbers of examples, features and labels" in message


def test_sizes_that_are_too_large(put):
    for sizes in (f"1 {2**31} 1", f"1 1 {10**60}"):
        assert "is too large. At most 2,147,483,647 is allowed" in error(put("train.txt", f"{sizes}\n0 0:1\n"))
    assert read_extreme(put("train.txt", f"1 {2**31 - 1} {2**31 - 1}\n0 0:1\n")).features.shape == (1, 2**31 - 1)


def test_files_that_cannot_be_read(tmp_path, put):
    assert error(tmp_path / "no.txt").startswith("no such file")
    path = put("train.txt.gz", SMALL * 100)
    path.write_bytes(path.read_bytes()[:-9])
    assert "is truncated or damaged" in error(path)
    assert error(put("train.txt", b"PK\x03\x04" + bytes(40))) == "is a zip archive. Unpack it"


examples = st.lists(
    st.tuples(
        st.lists(st.integers(0, 6), unique=True, max_size=4),
        st.dictionaries(st.integers(0, 8), st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False), max_size=5),
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None, max_examples=100)
@given(examples, st.sampled_from(["", *PACK]), st.sampled_from([1, 30, 2**26]))
def test_any_examples(tmp_path_factory, rows, ending, block):
    """The oracle is scikit-learn's reader of svmlight files with several labels."""
    path = tmp_path_factory.mktemp("any") / f"train.txt{ending}"
    lines = [
        ",".join(map(str, labels)) + " " + " ".join(f"{name}:{value!r}" for name, value in sorted(features.items()))
        for labels, features in rows
    ]
    path.write_bytes(pack(path.name, f"{len(rows)} 9 7\n{chr(10).join(lines)}\n".encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extreme, "BLOCK_BYTES", block)
        data = read_extreme(path)
    known = [line if line.strip() else "6 0:0" for line in lines]  # scikit-learn skips empty lines
    features, labels = load_svmlight_file(
        io.BytesIO("\n".join(known).encode()), n_features=9, multilabel=True, zero_based=True, dtype=np.float32
    )
    np.testing.assert_allclose(data.features.toarray(), features.toarray(), rtol=1e-6)
    expected = [() if not line.strip() else row for line, row in zip(lines, labels, strict=True)]
    found = data.labels.to_dense().numpy()
    assert [tuple(np.flatnonzero(row)) for row in found] == [tuple(sorted(map(int, row))) for row in expected]


@pytest.mark.parametrize(("name", "part"), SHAPES)
def test_real_data(name, part):
    path = DATA / name / f"{part}.txt.gz"
    if not path.is_file():
        pytest.skip(f"no shared data: {name}")
    data = read_extreme(path)
    rows, features, labels = SHAPES[name, part]
    assert data.features.shape == (rows, features)
    assert (len(data.labels), data.labels.num_labels) == (rows, labels)
    with gzip.open(path, "rt") as file:
        next(file)
        for number, line in enumerate(file):
            names, _, values = line.rstrip("\n").partition(" ")
            start, end = data.features.indptr[number : number + 2]
            pairs = zip(data.features.indices[start:end], data.features.data[start:end], strict=True)
            assert {f"{feature}:{value:g}" for feature, value in pairs} == set(values.split())
            first, last = data.labels.indptr[number : number + 2]
            assert data.labels.indices[first:last].tolist() == sorted(map(int, filter(None, names.split(","))))
