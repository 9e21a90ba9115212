"""Batches of a Ray Dataset get the predictions of `predict`."""

import json
import os
import subprocess
import sys

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.errors import DataError, RunError
from hyperfocal.export.ray_data import BatchPredictor
from hyperfocal.recommend.recommender import Recommender
from serve_cases import DOCUMENTS

pytest.importorskip("pyarrow")

TEXTS = pl.DataFrame({"id": [f"d{place}" for place in range(len(DOCUMENTS))], "text": list(DOCUMENTS)})
USERS = pl.DataFrame(
    {"user": ["u", "v", "w", "x"], "item": [["Algebra", "Geometry"], ["Harmony"], ["Film", "nobody's"], ["nobody's"]]}
)


def test_documents_get_what_predict_gives_them(classify_path):
    found = pl.from_arrow(BatchPredictor(classify_path)(TEXTS.to_arrow()))
    plain = MultiLabelClassifier.load(classify_path).predict_documents(TEXTS)
    assert_frame_equal(found.select("id", "labels", "known"), plain.select("id", "labels", "known"))
    pairs = [{pair["label"]: pair["probability"] for pair in row} for row in found["scores"].to_list()]
    assert pairs == plain["scores"].to_list()


@pytest.mark.parametrize("options", [{}, {"k": 7, "repeats": True}])
def test_users_get_what_predict_gives_them(recommend_path, options):
    found = pl.from_arrow(BatchPredictor(recommend_path, **options)(USERS.to_arrow()))
    plain = Recommender.load(recommend_path).predict(USERS.explode("item"), **options).frame
    assert_frame_equal(found, plain)
    assert set(found.filter(~pl.col("known"))["user"]) == {"x"}


def test_a_text_of_which_nothing_is_known(classify_path):
    asked = pl.DataFrame({"id": ["a", "b", "c"], "text": ["red wine", "xyzzy", ""]})
    assert pl.from_arrow(BatchPredictor(classify_path)(asked.to_arrow()))["known"].to_list() == [True, False, False]


def test_documents_without_id_are_refused(classify_path):
    with pytest.raises(DataError, match="no id in the columns text"):
        BatchPredictor(classify_path)(TEXTS.select("text").to_arrow())


@pytest.mark.parametrize("wrong", [USERS.explode("item"), USERS.with_columns(more=1), USERS.select("item")])
def test_rows_that_are_not_users_are_refused(recommend_path, wrong):
    with pytest.raises(DataError, match="Give two, a user and a list of the user's items"):
        BatchPredictor(recommend_path)(wrong.to_arrow())


def test_batches_of_another_format_are_refused(classify_path):
    with pytest.raises(DataError, match="Give map_batches batch_format='pyarrow'"):
        BatchPredictor(classify_path)({"text": ["a"]})


def test_without_a_run_it_is_refused(tmp_path):
    with pytest.raises(RunError):
        BatchPredictor(tmp_path / "none")


SCRIPT = """
import sys
import ray
from hyperfocal.export.ray_data import BatchPredictor

run, rows, out, batch = *sys.argv[1:4], int(sys.argv[4])
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
actors = {"compute": ray.data.ActorPoolStrategy(size=1), "batch_format": "pyarrow", "batch_size": batch}
ray.data.read_parquet(rows).map_batches(BatchPredictor, fn_constructor_args=(run,), **actors).write_parquet(out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("job", ["classify", "recommend"])
def test_a_dataset_is_mapped(job, classify_path, recommend_path, tmp_path):
    """In a process of its own, with Ray's own warnings: rows of all batches together are those of one batch."""
    pytest.importorskip("ray")
    run, rows = (classify_path, TEXTS) if job == "classify" else (recommend_path, USERS)
    rows.write_parquet(tmp_path / "rows.parquet")
    words = [run, tmp_path / "rows.parquet", tmp_path / "out", 2]
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, words)],
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = pl.read_parquet(tmp_path / "out" / "*.parquet")
    whole = pl.from_arrow(BatchPredictor(run)(rows.to_arrow()))
    order = [whole.columns[0], *({"rank"} & {*whole.columns})]
    assert json.dumps(found.sort(order).to_dicts()) == json.dumps(whole.sort(order).to_dicts())
