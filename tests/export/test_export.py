"""`hyperfocal export`: the folder answers as the run does, in a process that has neither torch nor hyperfocal."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from sklearn.utils import murmurhash3_32

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.cli import main
from hyperfocal.config.classify import FeatureSettings
from hyperfocal.data.documents import Documents
from hyperfocal.data.logs import Log
from hyperfocal.data.ngrams import Ngrams as Fitted
from hyperfocal.errors import ConfigError, RunError
from hyperfocal.export import graphs as onnx_graph
from hyperfocal.export.engine import open_engine
from hyperfocal.export.export import export_onnx, export_plain
from hyperfocal.export.standalone import classifier as standalone_classifier
from hyperfocal.export.standalone.classifier import Ngrams, chars, murmur3
from hyperfocal.models.sentence_encoder import find_encoder
from hyperfocal.recommend.blend import Blend
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.rules import Rules

ALONE = """
import sys
from dataclasses import replace
for name in ("torch", "sklearn", "scipy", "polars", "safetensors", "transformers", "hyperfocal"):
    sys.modules[name] = None  # an import of it fails
"""
SMALL = {"train.epochs": 2, "train.threads": 1, "train.learning_rate": 0.01, "model.embedding_width": 8}
SMALL |= {"model.layers": 1, "model.heads": 2, "model.hidden_widths": (12, 6), "train.warmup_steps": 0}
TEXTS = {"train.epochs": 2, "train.threads": 1, "head.width": 8, "features.min_documents": 1}
NAMES = ["sport", "travel", "music", "food"]
NETWORKS = {
    "transformer learned": {"model.name": "transformer", "model.blend": True},
    "gru": {"model.name": "gru", "model.layers": 2},
    "concat_mlp": {"model.name": "concat_mlp"},
    "mean": {"model.name": "mean", "model.blend": True},
    "transformer rotary": {"model.name": "transformer", "model.positions": "rotary"},
    "transformer filter": {"model.name": "transformer", "model.filter": 0.4},
}
slow = pytest.mark.slow
QUICK = ("transformer learned", "concat_mlp")
CASES = [name if name in QUICK else pytest.param(name, marks=slow) for name in NETWORKS]


def circle(users=40, items=15):
    """Return a log in which items follow one another in a circle, of users with histories of many lengths."""
    return Log.from_lists(
        [[f"i{(start * 7 + step) % items}" for step in range(2 + start % 9)] for start in range(users)]
    )


def fit(name="popularity", **settings):
    return Recommender(history=6, next_items=2, settings=SMALL | {"model.name": name} | settings).fit(circle())


def with_linear_blend(recommender):
    """Return the recommender with a linear blend, as runs of earlier versions and plain weights have it."""
    recommender.fit_ = replace(recommender.fit_, ranker=replace(recommender.ranker_, blend=None))
    recommender.metrics_.get("blend", {}).pop("weights", None)
    return recommender


def corpus(number=60):
    rng = np.random.default_rng(1)
    rows = [[name for name in NAMES if rng.random() < 0.4] for _ in range(number)]
    return [f"The old {' and '.join(row)} x Æther!" for row in rows], rows


def fit_texts(**settings):
    settings = TEXTS | {"features.kind": "ngrams"} | settings
    return MultiLabelClassifier(settings=settings).fit(*corpus())


def alone(folder, code, *, stdin=""):
    """Run code in a process of its own that cannot import torch or hyperfocal; return what it printed, as JSON."""
    command = [sys.executable, "-c", ALONE + code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, input=stdin, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def ranked_alone(folder, histories, k, *, repeats=False):
    code = f"""
import json
from pathlib import Path
from recommender import Recommender
found = Recommender(Path(".")).rank(json.loads(sys.stdin.read()), {k}, repeats={repeats})
print(json.dumps(found))
"""
    return alone(folder, code, stdin=json.dumps(histories))


def scored_alone(folder, texts):
    code = """
import json
from pathlib import Path
from classifier import Classifier
classifier = Classifier(Path("."))
scores = classifier.scores(json.loads(sys.stdin.read()))
print(json.dumps({"scores": scores.tolist(), "labels": classifier.decide(scores)}))
"""
    return alone(folder, code, stdin=json.dumps(texts))


def same_ranking(found, recommender, histories, k, *, repeats=False):
    """Every score is that of torch within 1e-4, and each item has the score that torch gives it."""
    log = Log.from_lists(histories)
    frame = recommender.predict(log, k, repeats=repeats).frame
    names = recommender.vocabulary_.names
    every = recommender.ranker_.scorer()(recommender.vocabulary_.encode_lists(histories)).detach().numpy()
    for user, (items, scores) in enumerate(found):
        expected = frame.filter(pl.col("user") == str(user))["score"].to_list() if histories[user] else None
        if expected is not None:
            np.testing.assert_allclose(scores, expected, atol=1e-4)
        np.testing.assert_allclose(scores, [every[user, names.index(item)] for item in items], atol=1e-4)
        assert len(set(items)) == len(items)
        assert repeats or not set(items) & set(histories[user])


HISTORIES = [["i3"], ["i4", "i5", "i6"], [f"i{n}" for n in range(12)], ["unknown", "i1"], ["i2", "i2", "i3"]]


class TestRanking:
    @pytest.mark.parametrize("name", CASES)
    def test_every_network_ranks_as_torch_does(self, name, tmp_path):
        recommender = fit(**NETWORKS[name])
        recommender.save(tmp_path / "run")
        assert export_onnx(tmp_path / "run", tmp_path / "onnx") == []
        found = ranked_alone(tmp_path / "onnx", HISTORIES, 4)
        same_ranking(found, recommender, HISTORIES, 4)
        assert [len(items) for items, _ in found] == [4, 4, 3, 4, 4]  # 15 items, 12 of them seen
        single = ranked_alone(tmp_path / "onnx", [["i4", "i5", "i6"]], 15, repeats=True)  # one row, other sizes
        same_ranking(single, recommender, [["i4", "i5", "i6"]], 15, repeats=True)

    @slow
    def test_features_of_items_are_baked_in(self, tmp_path):
        table = pl.DataFrame({"item": [f"i{n}" for n in range(15)], "kind": [f"k{n % 3}" for n in range(15)]})
        recommender = Recommender(model="gru", history=6, next_items=2, settings=SMALL).fit(circle(), items=table)
        assert recommender.features_ is not None
        recommender.save(tmp_path / "run")
        export_onnx(tmp_path / "run", tmp_path / "onnx")
        same_ranking(ranked_alone(tmp_path / "onnx", HISTORIES, 3), recommender, HISTORIES, 3)

    @pytest.mark.parametrize("name", ["popularity", "decayed_markov", "cooccurrence", "item_knn", "ease", "user_knn"])
    def test_what_only_counts_needs_no_graph(self, name, tmp_path):
        recommender = fit(name)
        recommender.save(tmp_path / "run")
        export_onnx(tmp_path / "run", tmp_path / "onnx")
        assert not (tmp_path / "onnx" / "model.onnx").exists()
        found = open_engine(tmp_path / "onnx").rank(HISTORIES, 3)
        same_ranking(found, recommender, HISTORIES, 3)

    def test_plain_weights_have_no_training_users(self, tmp_path):
        fit("user_knn").save(tmp_path / "run")
        with pytest.raises(ConfigError, match="searches the training users and has no weights"):
            export_plain(tmp_path / "run", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("best", ["ease", "user_knn", "blend", "concat_mlp"])
    def test_the_row_that_ranks_is_exported(self, best, tmp_path):
        recommender = fit("concat_mlp", **{"model.blend": "auto"})
        weights = {"network": 1.0, "user_knn": 0.5, "decayed_markov": 0.35}
        ranker = replace(recommender.ranker_, best=best, blend=Blend(weights))
        recommender.fit_ = replace(recommender.fit_, ranker=ranker)
        recommender.metrics_.update(model=best, blend=recommender.metrics_["blend"] | {"weights": weights})
        recommender.save(tmp_path / "run")
        assert export_onnx(tmp_path / "run", tmp_path / "onnx") == []
        assert (tmp_path / "onnx" / "model.onnx").exists() == (best in ("blend", "concat_mlp"))
        same_ranking(ranked_alone(tmp_path / "onnx", HISTORIES, 3), recommender, HISTORIES, 3)
        notes = export_plain(tmp_path / "run", tmp_path / "plain")
        assert [note.split(".")[0] for note in notes] == {
            "blend": ["The run ranks by a blend in logarithms"], "concat_mlp": [],
        }.get(best, [f"The run ranks by {best}"])  # fmt: skip

    @pytest.mark.parametrize("weight", [pytest.param(0.0, marks=slow), 1.0])
    def test_a_blend_of_one_part_alone(self, weight, tmp_path):
        recommender = with_linear_blend(fit("concat_mlp", **{"model.blend": True}))
        recommender.fit_ = replace(recommender.fit_, ranker=replace(recommender.ranker_, blend_weight=weight))
        recommender.metrics_["blend"]["weight"] = weight
        recommender.save(tmp_path / "run")
        engine = open_engine(tmp_path / "run")
        assert (engine.network is None, engine.counted is None) == (weight == 1, weight == 0)
        same_ranking(engine.rank(HISTORIES, 3), recommender, HISTORIES, 3)

    def test_rules_of_an_export(self, tmp_path):
        recommender = fit("decayed_markov")
        recommender.save(tmp_path / "run")
        export_onnx(tmp_path / "run", tmp_path / "onnx")
        engine, history = open_engine(tmp_path / "onnx"), ["i4", "i5"]
        for rules in (
            Rules(exclude=["i6", "unknown"]), Rules(only=["i1", "i6", "i4", "unknown"]),
            Rules(only=["i1", "i6"], exclude=["i6"]), Rules(only=["i4", "i7"], repeats=True),
        ):  # fmt: skip
            given = {"only": rules.only, "exclude": rules.exclude, "repeats": rules.repeats}
            ((items, _),) = engine.rank([history], 12, **given)  # all that are left: some scores tie
            assert set(items) == set(recommender.recommend([history], 12, rules=rules)[0])
        line = json.dumps({"history": history, "exclude": ["i6"]})
        command = [sys.executable, "predict.py", "12"]
        ended = subprocess.run(command, input=line, capture_output=True, text=True, cwd=tmp_path / "onnx", timeout=120)
        assert set(json.loads(ended.stdout)["items"]) == {f"i{n}" for n in range(15)} - {"i6", *history}

    def test_predict_py_is_short_and_answers_line_by_line(self, tmp_path):
        fit("markov").save(tmp_path / "run")
        export_onnx(tmp_path / "run", tmp_path / "onnx")
        code = (tmp_path / "onnx" / "predict.py").read_text()
        assert len(code.splitlines()) <= 22
        ended = subprocess.run(
            [sys.executable, "predict.py", "1"],
            input='["i3"]\n["i4"]\n["unknown"]\n[]\n',
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path / "onnx",
        )
        answers = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [answer["items"] for answer in answers[:2]] == [["i4"], ["i5"]]
        assert [answer["known"] for answer in answers] == [True, True, False, False]
        assert answers[2] == answers[3]

    @pytest.mark.parametrize("integers", [True, False])
    def test_ids_come_back_as_they_came_in(self, integers, tmp_path):
        rows = {"user": [user for user in range(12) for _ in range(4)], "item": [10, 11, 12, 13] * 12}
        if not integers:
            rows["item"] = [f"{item}.0" for item in rows["item"]]  # texts, all of which are whole numbers
        Recommender(model="markov", history=2, next_items=1).fit(rows).save(tmp_path / "run")
        engine = open_engine(tmp_path / "run")
        for history in ([10], [10.0], ["10"], ["10.0"], [np.int64(10)]):
            assert engine.rank([history], 1)[0][0] == ([11] if integers else ["11"])
            assert engine.known([history]) == [True]
        assert engine.known([["010"], ["x"], [10.5]]) == [False] * 3

    @pytest.mark.parametrize("k", [0, 16])
    def test_a_depth_out_of_range(self, k, tmp_path):
        fit().save(tmp_path / "run")
        with pytest.raises(ValueError, match=rf"k = {k} is not allowed\. Expected 1 to 15"):
            open_engine(tmp_path / "run").rank([["i1"]], k)

    def test_no_history_at_all(self, tmp_path):
        fit().save(tmp_path / "run")
        engine = open_engine(tmp_path / "run")
        assert engine.rank([], 3) == []
        assert len(engine.rank([[]], 3)[0][0]) == 3


ODD = [
    "",
    "   ",
    "The old sport",
    "SPORT sport sport and food",
    "naïve ☃ Æther\u2028æther",
    "a b c",
    "x" * 5000,
    "\u202e מוזיקה",
]


class TestLabels:
    def test_scores_and_decisions_are_those_of_the_run(self, tmp_path, monkeypatch):
        classifier = fit_texts(**{"features.char_ngrams": 4})
        classifier.save(tmp_path / "run")
        assert export_onnx(tmp_path / "run", tmp_path / "onnx") == []
        texts = [*corpus()[0], *ODD]
        found = scored_alone(tmp_path / "onnx", texts)
        np.testing.assert_allclose(found["scores"], classifier.decision_function(texts), atol=1e-4)
        assert found["labels"] == [sorted(row) for row in classifier.predict(texts)]
        expected = classifier.predict_documents(Documents.from_lists(texts))["known"].to_list()
        assert [text for text, known in zip(texts, expected, strict=True) if known] == [*corpus()[0], *ODD[2:5]]
        assert open_engine(tmp_path / "onnx").answer([*texts, "qqq"])[1].tolist() == [*expected, False]
        monkeypatch.setattr(standalone_classifier, "MOST_NUMBERS", 100)  # long texts go one by one
        scores, known = open_engine(tmp_path / "onnx").answer(texts)
        np.testing.assert_allclose(scores, found["scores"], atol=1e-6)
        assert known.tolist() == expected

    def test_predict_py_is_short_and_says_what_it_does_not_know(self, tmp_path):
        fit_texts().save(tmp_path / "run")
        export_onnx(tmp_path / "run", tmp_path / "onnx")
        assert len((tmp_path / "onnx" / "predict.py").read_text().splitlines()) <= 22
        ended = subprocess.run(
            [sys.executable, "predict.py"],
            input='"sport"\n"qqq"\n""\n',
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path / "onnx",
        )
        answers = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [answer["known"] for answer in answers] == [True, False, False]
        assert [list(answer) for answer in answers] == [["labels", "scores", "known"]] * 3

    @slow
    @pytest.mark.parametrize("settings", [{"decide.rule": "top_k", "decide.k": 2}, {"decide.minimum_one": True}])
    def test_every_rule_decides_as_the_run_does(self, settings, tmp_path):
        classifier = fit_texts(**settings)
        classifier.save(tmp_path / "run")
        texts = corpus()[0]  # without texts of no n-gram, whose scores tie
        engine = open_engine(tmp_path / "run")
        assert engine.decide(engine.scores(texts)) == [sorted(row) for row in classifier.predict(texts)]

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"char_ngrams": 4},
            {"word_ngrams": 0, "char_ngrams": 5},
            {"hashed": True, "max_features": 64, "char_ngrams": 3},
            {"hashed": True, "max_features": 1000, "word_ngrams": 3},
        ],
    )
    def test_ngrams_are_those_of_scikit_learn(self, settings):
        texts = pl.Series([*corpus()[0], *ODD])
        fitted = Fitted.fit(texts, FeatureSettings(min_documents=1, **settings))
        longest = {"words": fitted.settings.word_ngrams, "chars": fitted.settings.char_ngrams}
        value = {"longest": longest, "hashed": fitted.settings.hashed, "terms": fitted.terms, "idf": fitted.weights}
        columns, values = Ngrams(value).rows(texts.to_list())
        found = np.zeros((len(texts), fitted.num_columns))
        np.add.at(found, (np.arange(len(texts))[:, None], columns), values)
        np.testing.assert_allclose(found, fitted.transform(texts).toarray(), atol=1e-6)

    @slow
    def test_labels_bring_their_parents(self, tmp_path):
        tree = tmp_path / "tree.tsv"
        tree.write_text("id\tparent\tname\nsport\t\tSport\ntravel\tsport\tTravel\nmusic\t\tMusic\nfood\tmusic\tFood\n")
        settings = {"data.taxonomy": str(tree), "data.consistent": True, "data.add_parents": True}
        classifier = fit_texts(**settings)
        classifier.save(tmp_path / "run")
        texts = [*corpus()[0], "travel food"]
        engine = open_engine(tmp_path / "run")
        assert engine.settings["parents"] == {"travel": ["sport"], "food": ["music"]}
        assert engine.decide(engine.scores(texts)) == [sorted(row) for row in classifier.predict(texts)]

    @slow
    @pytest.mark.skipif(find_encoder() is None, reason="no sentence encoder is installed")
    @pytest.mark.parametrize("kind", ["encoder", "both"])
    def test_the_encoder_goes_along_with_its_tokenizer(self, kind, tmp_path):
        classifier = fit_texts(**{"features.kind": kind})
        classifier.save(tmp_path / "run")
        assert export_onnx(tmp_path / "run", tmp_path / "onnx") == []
        assert {"encoder.onnx", "tokenizer.json"} <= {path.name for path in (tmp_path / "onnx").iterdir()}
        texts = [*corpus(8)[0], *ODD, "long " * 400]
        found = scored_alone(tmp_path / "onnx", texts)
        np.testing.assert_allclose(found["scores"], classifier.decision_function(texts), atol=1e-4)

    @slow
    @pytest.mark.skipif(find_encoder() is None, reason="no sentence encoder is installed")
    def test_an_encoder_that_no_graph_holds_is_said_and_vectors_are_taken(self, tmp_path, monkeypatch):
        def fail(*_):
            raise RuntimeError("no such operator\nand more")

        monkeypatch.setattr("hyperfocal.export.export.write_encoder", fail)
        classifier = fit_texts(**{"features.kind": "encoder"})
        classifier.save(tmp_path / "run")
        (note,) = export_onnx(tmp_path / "run", tmp_path / "onnx")
        assert "not exported (RuntimeError: no such operator): give vectors of the texts to `scores`" in note
        with pytest.raises(RunError, match=r"was not exported, so ONNX cannot answer\. Use --engine torch"):
            open_engine(tmp_path / "onnx")
        texts = corpus(5)[0]
        np.save(tmp_path / "dense.npy", classifier.features_.make(pl.Series(texts)).dense.numpy())
        code = f"""
import json, numpy
from pathlib import Path
from classifier import Classifier
classifier = Classifier(Path("."))
try:
    classifier.scores(["a"])
except ValueError as error:
    said = str(error)
found = classifier.scores([""] * 5, numpy.load({str(tmp_path / "dense.npy")!r}))
print(json.dumps([said, found.tolist()]))
"""
        said, scores = alone(tmp_path / "onnx", code)
        assert "needs vectors of a sentence encoder" in said
        np.testing.assert_allclose(scores, classifier.decision_function(texts), atol=1e-4)


class TestLargeModels:
    @slow
    def test_weights_beyond_a_limit_are_in_a_file_beside(self, tmp_path, monkeypatch):
        monkeypatch.setattr(onnx_graph, "WHOLE_BYTES", 1000)
        classifier = fit_texts(**{"features.hashed": True, "features.max_features": 5000})
        classifier.save(tmp_path / "run")
        export_onnx(tmp_path / "run", tmp_path / "onnx")
        beside = tmp_path / "onnx" / "model.onnx.data"
        assert beside.stat().st_size >= classifier.head_.wide.nbytes
        texts = corpus(5)[0]
        scores = open_engine(tmp_path / "onnx").scores(texts)
        np.testing.assert_allclose(scores, classifier.decision_function(texts), atol=1e-4)


def norm(x, weights, name):
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def turned(x):
    """Turn (T, E) pairs as README.md says."""
    half = x.shape[1] // 2
    angles = np.arange(len(x))[:, None] * 10_000.0 ** (-2 * np.arange(half) / x.shape[1])
    first, second = x[:, :half], x[:, half:]
    return np.hstack(
        [first * np.cos(angles) - second * np.sin(angles), first * np.sin(angles) + second * np.cos(angles)]
    )


def filtered(a, weights, name):
    taps, high = weights[f"{name}.filter.taps"], weights[f"{name}.filter.high"]
    low = np.array([sum(taps[j] * a[t - j] for j in range(min(t + 1, 5))) for t in range(len(a))])
    return low + high**2 * (a - low)


def block(h, weights, name, heads, rotary, share):
    """One block of the transformer, as README.md says."""
    gelu = np.vectorize(lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2)
    a = norm(h, weights, f"{name}.norms.0")
    parts = np.split(linear(a, weights, f"{name}.project"), 3, axis=1)
    found = []
    for q, k, v in zip(*(np.split(part, heads, axis=1) for part in parts), strict=True):
        turn = turned if rotary else (lambda x: x)
        raw = turn(q) @ turn(k).T / np.sqrt(q.shape[1])
        raw[np.triu_indices(len(h), 1)] = -np.inf
        shares = np.exp(raw - raw.max(1, keepdims=True))
        found.append(shares / shares.sum(1, keepdims=True) @ v)
    f = linear(np.hstack(found), weights, f"{name}.combine")
    h = h + (f if share == 0 else (1 - share) * f + share * filtered(a, weights, name))
    return h + linear(
        gelu(linear(norm(h, weights, f"{name}.norms.1"), weights, f"{name}.widen")), weights, f"{name}.narrow"
    )


def gru(x, weights):
    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    for layer in range(2):
        w, u, b, c = (
            weights[f"encoder.layers.{part}_l{layer}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h, found = np.zeros(u.shape[1]), []
        for row in x:
            (wr, wz, wn), (ur, uz, un) = np.split(w @ row + b, 3), np.split(u @ h + c, 3)
            r, z = sigmoid(wr + ur), sigmoid(wz + uz)
            h = (1 - z) * np.tanh(wn + r * un) + z * h
            found.append(h)
        x = np.array(found)
    return x[-1]


def hidden_by_readme(weights, settings, numbers):
    """Return the hidden vector of a history, by the formulas of README.md alone."""
    model = settings["run"]["model"]
    x = np.sqrt(weights["items"].shape[1]) * weights["items"][numbers[-settings["history"] :]].astype(float)
    if model["name"] == "mean":
        ages = model["decay"] ** np.arange(len(x))[::-1]
        return ages @ x / ages.sum()
    if model["name"] == "gru":
        return gru(x, weights)
    h = x + weights["encoder.positions"][: len(x)] if model["positions"] == "learned" else x
    for number in range(model["layers"]):
        h = block(
            h, weights, f"encoder.blocks.{number}", model["heads"], model["positions"] == "rotary", model["filter"]
        )
    return norm(h, weights, "encoder.norm")[-1]


def logits_by_readme(weights, settings, numbers):
    if settings["run"]["model"]["name"] != "concat_mlp":
        return weights["items"] @ hidden_by_readme(weights, settings, numbers) + weights["bias"]
    history = settings["history"]
    own = numbers[-history:]
    x = np.zeros((history, weights["embedding"].shape[1]))
    x[history - len(own) :] = weights["embedding"][own]
    x = x.ravel()
    for layer in (0, 3):
        x = np.maximum(linear(x, weights, f"layers.{layer}"), 0)
    return weights["weight"] @ x + weights["bias"]


class TestPlainWeights:
    """The README of the plain weights says enough: numpy alone, by its formulas, gives the scores of torch."""

    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_formulas_of_every_network(self, name, tmp_path):
        recommender = fit(**NETWORKS[name])
        recommender.save(tmp_path / "run")
        export_plain(tmp_path / "run", tmp_path / "plain")
        weights = load_file(tmp_path / "plain" / "model.safetensors")
        settings, items = (
            json.loads((tmp_path / "plain" / f"{part}.json").read_text()) for part in ("settings", "vocabulary")
        )
        readme = (tmp_path / "plain" / "README.md").read_text()
        assert all(part in readme for part in weights)
        assert not re.search(r"\b(ROTATION|HEADS|LAYERS|WINDOW|DECAY)\b", readme)
        for history in HISTORIES[:3]:
            numbers = [items["items"].index(item) for item in history]
            expected = (
                recommender.ranker_.scorer_alone()(recommender.vocabulary_.encode_lists([history])).detach().numpy()[0]
            )
            np.testing.assert_allclose(logits_by_readme(weights, settings, numbers), expected, atol=1e-4)

    def test_the_formulas_of_labels(self, tmp_path):
        classifier = fit_texts()
        classifier.save(tmp_path / "run")
        export_plain(tmp_path / "run", tmp_path / "plain")
        weights = load_file(tmp_path / "plain" / "model.safetensors")
        ngrams = json.loads((tmp_path / "plain" / "vocabulary.json").read_text())["ngrams"]
        words = ["old", "sport", "old sport"]  # of the text "old sport", each once
        values = {word: ngrams["idf"]["words"][ngrams["terms"]["words"].index(word)] for word in words}
        length = math.sqrt(sum(value**2 for value in values.values()))
        columns = [ngrams["terms"]["words"].index(word) for word in words]
        logits = weights["bias"] + sum(
            value / length * weights["wide"][column] for value, column in zip(values.values(), columns, strict=True)
        )
        np.testing.assert_allclose(logits, classifier.decision_function(["old sport"])[0], atol=1e-4)


class TestParts:
    @pytest.mark.parametrize("text", ["", "a", "ab", "abc", "hello", "☃ snow"])
    def test_murmur3_is_that_of_scikit_learn(self, text):
        assert murmur3(text.encode()) == murmurhash3_32(text, seed=0)

    def test_characters_of_short_and_long_words(self):
        assert list(chars("a bcd", 4)) == [" a ", " bc", "bcd", "cd ", " bcd", "bcd "]


def run_command(*arguments):
    return CliRunner().invoke(main, ["export", *map(str, arguments)])


def refused(*arguments):
    result = run_command(*arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run that counts."""
    path = tmp_path_factory.mktemp("counted") / "run"
    fit("markov").save(path)
    return path


class TestRefusals:
    def test_both_forms_in_one_command_and_again_with_overwrite(self, run, tmp_path):
        both = (run, "--onnx", tmp_path / "onnx", "--safetensors", tmp_path / "plain")
        assert run_command(*both).exit_code == 0
        assert "holds an export already. Replace it with --overwrite" in refused(*both)
        assert run_command(*both, "--overwrite").exit_code == 0
        assert sorted(path.name for path in tmp_path.iterdir()) == ["onnx", "plain"]  # nothing is left aside

    def test_nothing_asked_for(self, run):
        assert "nothing to export. Give --onnx DIR" in refused(run)

    def test_one_folder_for_both(self, run, tmp_path):
        assert "Give two different folders" in refused(run, "--onnx", tmp_path, "--safetensors", tmp_path)

    def test_a_folder_with_other_files_is_left_alone(self, run, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        assert "holds files that are not an export" in refused(run, "--onnx", tmp_path, "--overwrite")
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_a_file_in_place_of_the_folder(self, run, tmp_path):
        (tmp_path / "x").write_text("")
        assert "is a file, not a folder" in refused(run, "--onnx", tmp_path / "x")

    def test_no_run(self, tmp_path):
        assert "no such folder" in refused(tmp_path / "nowhere", "--onnx", tmp_path / "onnx")
        assert not (tmp_path / "onnx").exists()

    def test_a_damaged_run_leaves_nothing(self, tmp_path):
        fit("markov").save(tmp_path / "run")
        (tmp_path / "run" / "model.safetensors").write_bytes(b"x")
        assert "model.safetensors is damaged" in refused(tmp_path / "run", "--onnx", tmp_path / "onnx")
        assert [path.name for path in tmp_path.iterdir()] == ["run"]

    def test_a_missing_extra_is_named(self, run, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        monkeypatch.setattr(onnx_graph.importlib.util, "find_spec", lambda name: None)
        message = refused(run, "--onnx", tmp_path / "onnx")
        assert "`pip install 'hyperfocal[export]'`" in message
        assert "onnxruntime" in message

    def test_a_damaged_export(self, run, tmp_path):
        export_onnx(run, tmp_path / "onnx")
        (tmp_path / "onnx" / "settings.json").write_text("{")
        with pytest.raises(RunError, match="the export is damaged"):
            open_engine(tmp_path / "onnx")
