"""Feature matrices in .npz files: every layout gives the same documents, and no file does harm."""

import io
import json
import pickle
import zipfile

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from command_cases import TINY, done, refused
from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.data import memory
from hyperfocal.data.npz import read_npz
from hyperfocal.errors import DataError

DRAW = np.random.default_rng(0)
X = np.where(DRAW.random((60, 8)) < 0.5, DRAW.normal(size=(60, 8)), 0).astype(np.float32)
Y = np.stack([X[:, 0] > 0, X[:, 1] > 0, X[:, 2] != 0], 1).astype(int)
NAMES = [[str(label) for label in np.flatnonzero(row)] for row in Y]
CSR_X, CSR_Y = sparse.csr_matrix(X), sparse.csr_matrix(Y)


def parts(name, matrix):
    return {
        f"{name}_data": matrix.data, f"{name}_indices": matrix.indices, f"{name}_indptr": matrix.indptr,
        f"{name}_shape": matrix.shape,
    }  # fmt: skip


LAYOUTS = {
    "dense": {"X": X, "Y": Y},
    "bool": {"X": X.astype(np.float64), "Y": Y.astype(bool)},
    "sparse": parts("X", CSR_X) | parts("Y", CSR_Y),
    "mixed": parts("X", CSR_X) | {"Y": Y, "notes": np.array(["not read"])},
    "version 2": None,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout, tmp_path):
    if layout == "version 2":
        with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in LAYOUTS["dense"].items():
                content = io.BytesIO()
                np.lib.format.write_array(content, array, version=(2, 0))
                archive.writestr(f"{name}.npy", content.getvalue())
    else:
        np.savez_compressed(tmp_path / "a.npz", **LAYOUTS[layout])
    read = read_npz(tmp_path / "a.npz")
    features = read.features.toarray() if sparse.issparse(read.features) else read.features
    np.testing.assert_array_equal(features, X)
    assert read.labels == NAMES


@pytest.mark.parametrize("kind", ["csr", "csc", "coo"])
def test_what_scipy_saves(kind, tmp_path):
    sparse.save_npz(tmp_path / "a.npz", CSR_X.asformat(kind))
    read = read_npz(tmp_path / "a.npz")
    assert read.labels is None
    np.testing.assert_array_equal(read.features.toarray(), X)


def test_one_label_of_each_row(tmp_path):
    np.savez(tmp_path / "a.npz", X=X[:3], y=np.array(["cat", "dog", "cat"]))
    assert read_npz(tmp_path / "a.npz").labels == [["cat"], ["dog"], ["cat"]]
    np.savez(tmp_path / "b.npz", X=X[:3], y=np.array([2, 0, 2]))
    assert read_npz(tmp_path / "b.npz").labels == [["2"], ["0"], ["2"]]


class Harm:
    def __reduce__(self):
        return print, ("this ran",)


def with_indices(indices):
    return parts("X", CSR_X) | {"X_indices": indices}


BAD = {
    "objects": ({"X": np.array([[Harm()]], dtype=object)}, "X holds Python objects, which may run code"),
    "no matrix": ({"A": X}, "has no feature matrix: its arrays are A"),
    "three dimensions": ({"X": X[None]}, "X has 3 dimensions. Expected 2"),
    "fewer labels": ({"X": X, "Y": Y[:9]}, r"Y has the shape \(9, 3\), but X has 60 rows"),
    "no indicator": ({"X": X, "Y": Y * 2}, "Y has values other than 0 and 1"),
    "nan in Y": ({"X": X, "Y": np.where(Y, np.nan, 0)}, "Y has values other than 0 and 1"),
    "texts in Y": ({"X": X, "Y": Y.astype(str)}, "Y has values other than 0 and 1"),
    "a part": ({"X_data": X}, "X_indices is missing beside X_data"),
    "outside": (with_indices(CSR_X.indices + 8), "X is no valid sparse matrix"),
    "negative": (with_indices(CSR_X.indices - 9), "X is no valid sparse matrix"),
    "nan in X": ({"X": np.where(X, np.nan, 0), "Y": Y}, "Input X contains NaN"),
    "infinity": ({"X": np.where(X, np.inf, 0), "Y": Y}, "Input X contains infinity"),
    "complex": ({"X": X * 1j, "Y": Y}, "Complex data not supported"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name, tmp_path, capfd):
    arrays, message = BAD[name]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        MultiLabelClassifier().fit(tmp_path / "bad.npz")
    assert "bad.npz" in str(error.value)
    assert "this ran" not in capfd.readouterr().out


def test_files_that_are_none(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_npz(tmp_path / "none.npz")
    whole = tmp_path / "whole.npz"
    np.savez_compressed(whole, X=X, Y=Y)
    content = whole.read_bytes()
    for name, damaged in {
        "empty": b"", "text": b"a,b\n1,2\n", "cut": content[: len(content) // 2], "pickle": pickle.dumps([1]),
        "flipped": content[:200] + bytes([content[200] ^ 255]) + content[201:],
    }.items():  # fmt: skip
        (tmp_path / "bad.npz").write_bytes(damaged)
        with pytest.raises(DataError, match=r"bad\.npz: .*(no intact .npz file|no feature matrix|damaged)"):
            read_npz(tmp_path / "bad.npz")
        assert name


def test_a_header_that_claims_more_than_there_is(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)})
    with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
        archive.writestr("X.npy", header.getvalue() + b"\0" * 64)
    with pytest.raises(DataError, match="claims 8,000,000,000,000 bytes and has"):
        read_npz(tmp_path / "bad.npz")


def test_more_than_the_memory_takes(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", X=np.zeros((2_000, 1_000), dtype=np.float32))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr(memory, "free_memory", lambda: (2**20, "this test"))
    with pytest.raises(DataError, match=r"reading it needs about 7\.6 MiB of memory, but this test leaves 1\.0 MiB"):
        read_npz(tmp_path / "bomb.npz")


def test_the_commands(tmp_path):
    """Fit, predict, evaluate and inspect; predictions are those of the arrays in Python."""
    np.savez(tmp_path / "train.npz", X=X, Y=Y)
    sparse.save_npz(tmp_path / "new.npz", CSR_X)
    assert "X" in done("inspect", tmp_path / "train.npz")
    done("classify", "fit", tmp_path / "train.npz", "--out", tmp_path / "run", *TINY)
    done("classify", "predict", tmp_path / "run", tmp_path / "new.npz", "--out", tmp_path / "p.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    fitted = MultiLabelClassifier.load(tmp_path / "run")
    assert [row["labels"] for row in lines] == fitted.predict(X)
    scores = json.loads(done("classify", "evaluate", tmp_path / "run", tmp_path / "train.npz", "--json"))
    assert scores["documents"] == 60
    assert "--block" in refused(
        "classify", "predict", tmp_path / "run", tmp_path / "new.npz", "--out", tmp_path / "q.jsonl", "--block", 9
    )
    assert isinstance(pl.read_ndjson(tmp_path / "p.jsonl"), pl.DataFrame)
