"""Opinions of label texts through whole runs: saved, loaded, exported, served, streamed, in folds and in grids."""

import json
import shutil
from dataclasses import replace

import httpx
import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.combination import Combination
from hyperfocal.classify.grid import TextSource
from hyperfocal.classify.service import ClassifyPredictor
from hyperfocal.cli import main
from hyperfocal.cli.report import run_page
from hyperfocal.cli.serve import engine_by_name
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.data.documents import Documents
from hyperfocal.errors import DataError, RunError
from hyperfocal.export.engine import open_engine
from hyperfocal.export.export import export_onnx, export_plain
from hyperfocal.grid.local import LocalPool
from hyperfocal.grid.points import Point
from hyperfocal.grid.search import GridJob, run_grid
from hyperfocal.models.name_matching import stem
from hyperfocal.models.sentence_encoder import find_encoder
from hyperfocal.serve.live import load_predictor
from hyperfocal.serve.messages import ClassifyRequest, NewLabel
from hyperfocal.training.watch import Watch
from serve_cases import service
from tail_cases import QUICK, RARE, tail_corpus

TEXTS, LABELS = tail_corpus()
NEW, NEW_LABELS = tail_corpus(200, seed=1)
ODD = ["", "zaboras\nmirulm", "ZABORA zaboras", "\u202ezabora", "zabora" * 400]
FILES = ("opinions.json", "label_vectors.safetensors")


def fit(*, out=None, valid=None, texts=TEXTS, labels=LABELS, **settings):
    settings = QUICK | {name.replace("__", "."): value for name, value in settings.items()}
    return MultiLabelClassifier(settings=settings).fit(texts, labels, valid=valid, out=out)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return a fitted classifier and its run folder."""
    out = tmp_path_factory.mktemp("run") / "run"
    return fit(out=out), out


@pytest.fixture
def run(fitted, tmp_path):
    """Return a copy of the run, which a test may damage."""
    shutil.copytree(fitted[1], tmp_path / "run")
    return tmp_path / "run"


def same(found, expected, atol=1e-5):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), atol=atol)


class TestFit:
    def test_rare_labels_with_names_in_the_texts_rank_better(self, fitted):
        values = fitted[0].evaluate((NEW, NEW_LABELS))["values"]
        off = fit(features__label_texts="off")
        without = off.evaluate((NEW, NEW_LABELS))["values"]
        assert values["tail_ap"] > without["tail_ap"] + 0.2
        assert values["macro_ap"] > without["macro_ap"] + 0.2
        assert values["precision@1"] >= without["precision@1"] - 0.01
        assert values["half.macro_f1"] == without["half.macro_f1"]  # that of the head alone
        assert torch.equal(fitted[0].head_.wide, off.head_.wide)  # training stays as it is
        assert off.metrics_["opinions"] == {"accepted": False, "weights": {}, "limit": None, "rows": []}

    def test_metrics_have_what_each_opinion_adds(self, fitted):
        opinions = fitted[0].metrics_["opinions"]
        assert opinions["accepted"]
        assert opinions["weights"].keys() == {"text", "first_line"}
        assert opinions["weights"]["text"] > 0
        rows = {row["scores"]: row for row in opinions["rows"]}
        assert rows["head + all opinions"]["macro_ap"] > rows["head"]["macro_ap"] + 0.1
        assert rows["head + all opinions"]["macro_ap"] == pytest.approx(fitted[0].metrics_["values"]["macro_ap"])

    def test_names_that_are_nowhere_are_refused(self):
        texts = [text.replace(name, "word") for text in TEXTS for name in ["zab"]]
        for name in (name[:3] for name in RARE):
            texts = [text.replace(name, "qqq") for text in texts]
        refused = fit(texts=texts)
        assert not refused.metrics_["opinions"]["accepted"]
        assert len(refused.metrics_["opinions"]["rows"]) == 5
        assert refused.fit_.model.combination.weights == {}
        assert torch.equal(
            refused.fit_.model.answer(pl.Series(texts)).scores, refused.fit_.model.answer(pl.Series(texts)).logits
        )

    def test_out_of_fold_scores_are_combined(self, tmp_path):
        folded = fit(train__folds=3, out=tmp_path / "run")
        assert folded.metrics_["opinions"]["accepted"]
        assert folded.metrics_["documents"] == len(TEXTS)
        same(MultiLabelClassifier.load(tmp_path / "run").decision_function(NEW), folded.decision_function(NEW))

    def test_a_refitted_head_keeps_the_opinions(self):
        refitted = fit(train__refit=True)
        assert refitted.metrics_["opinions"]["accepted"]
        values = refitted.evaluate((NEW, NEW_LABELS))["values"]
        assert (
            values["tail_ap"]
            > fit(train__refit=True, features__label_texts="off").evaluate((NEW, NEW_LABELS))["values"]["tail_ap"]
        )

    def test_a_file_gives_ids_their_names(self, tmp_path, fitted):
        ids = {name: f"id{number}" for number, name in enumerate(sorted({each for row in LABELS for each in row}))}
        table = tmp_path / "names.csv"
        table.write_text("label,name\n" + "".join(f"{each},{name}\n" for name, each in ids.items()))
        numbered = [[ids[name] for name in row] for row in LABELS]
        plain, named = fit(labels=numbered), fit(labels=numbered, features__label_texts=str(table))
        assert not plain.metrics_["opinions"]["accepted"]
        assert named.metrics_["opinions"]["accepted"]
        order = [list(named.classes_).index(ids[name]) for name in fitted[0].classes_]
        assert named.evaluate((NEW, [[ids[name] for name in row] for row in NEW_LABELS]))["values"]["tail_ap"] > 0.5
        assert sorted(order) == list(range(len(order)))

    def test_an_indicator_matrix_has_no_names(self):
        names = sorted({each for row in LABELS for each in row})
        matrix = np.array([[name in row for name in names] for row in LABELS], dtype=np.int64)
        assert fit(labels=matrix).metrics_["opinions"]["rows"] == []

    @pytest.mark.parametrize("source", ["none.csv", "nmes"])
    def test_a_missing_file_leaves_nothing_behind(self, source, tmp_path):
        with pytest.raises(DataError, match=r"no such file\. Expected names, off, or a table"):
            fit(out=tmp_path / "run", features__label_texts=source)
        assert not (tmp_path / "run").exists()
        pl.DataFrame({"text": TEXTS, "labels": ["|".join(row) for row in LABELS]}).write_csv(tmp_path / "t.csv")
        arguments = ["classify", "fit", str(tmp_path / "t.csv"), "--out", str(tmp_path / "run")]
        ended = CliRunner().invoke(main, [*arguments, "--label-texts", source])
        assert ended.exit_code == 2
        assert source in ended.output
        assert not (tmp_path / "run").exists()


class TestRun:
    def test_a_loaded_run_answers_the_same(self, fitted, tmp_path):
        classifier, out = fitted
        assert (out / "opinions.json").is_file()
        loaded = MultiLabelClassifier.load(out)
        loaded.save(tmp_path / "again")
        for other in (loaded, MultiLabelClassifier.load(tmp_path / "again")):
            same(other.decision_function(NEW + ODD), classifier.decision_function(NEW + ODD), atol=0)
            assert other.predict(NEW + ODD) == classifier.predict(NEW + ODD)
            assert other.metrics_["opinions"] == classifier.metrics_["opinions"]
            one, two = (each.evaluate((NEW, NEW_LABELS))["values"] for each in (other, classifier))
            assert one == pytest.approx(two, nan_ok=True)
        assert (tmp_path / "again" / "opinions.json").read_bytes() == (out / "opinions.json").read_bytes()

    def test_files_are_predicted_and_evaluated_alike(self, fitted, tmp_path):
        pl.DataFrame({"text": NEW, "labels": [" ".join(row) for row in NEW_LABELS]}).write_ndjson(
            tmp_path / "new.jsonl"
        )
        out = tmp_path / "predictions.jsonl"
        arguments = [
            "classify",
            "predict",
            str(fitted[1]),
            str(tmp_path / "new.jsonl"),
            "--out",
            str(out),
            "--block",
            "64",
        ]
        ended = CliRunner().invoke(main, arguments)
        assert ended.exit_code == 0, ended.output
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        assert [row["labels"] for row in rows] == fitted[0].predict(NEW)
        best = fitted[0].predict_proba(NEW)
        columns = {name: place for place, name in enumerate(fitted[0].classes_)}
        for number, row in enumerate(rows):
            for label, value in row["scores"].items():
                assert value == pytest.approx(best[number, columns[label]], abs=2e-6)

    def test_opinions_are_what_the_formula_says(self, fitted):
        model = fitted[0].fit_.model
        logits = model.answer(pl.Series(NEW)).logits
        expected = logits.clone()
        names = list(fitted[0].classes_)
        limit = model.combination.limit
        for row, text in enumerate(NEW):
            for column, name in enumerate(names):
                if limit is None or model.labels.counts[column] < limit:
                    for opinion, part in {"text": text, "first_line": text.split("\n")[0]}.items():
                        words = {stem(word) for word in part.split()}
                        expected[row, column] += model.combination.weights[opinion] * (stem(name) in words)
        same(fitted[0].decision_function(NEW), expected, atol=1e-4)

    def test_a_run_of_an_earlier_version_has_the_scores_of_its_head(self, fitted, run):
        (run / "opinions.json").unlink()
        metrics = json.loads((run / "metrics.json").read_text())
        del metrics["opinions"]
        (run / "metrics.json").write_text(json.dumps(metrics))
        old = MultiLabelClassifier.load(run)
        same(old.decision_function(NEW), fitted[0].fit_.model.answer(pl.Series(NEW)).logits, atol=0)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda text: text[:50],
            lambda text: "[]",
            lambda text: text.replace('"text"', '"smell"', 1),
            lambda text: text.replace('"names": [', '"names": ["one more", '),
            lambda text: text.replace('"descriptions": [', '"descriptions": ["one more", '),
            lambda text: text.replace("[", '["one more", '),
            lambda text: text.replace('"weights": {', '"weights": {"similarity": 1.0, ', 1),
            lambda text: text.replace('"combination"', '"combined"'),
            lambda text: text.replace('"headless"', '"headed"'),
            lambda text: text.replace('"offset": ', '"offset": 1e999, "other": '),
            lambda text: (
                text[: text.index('"headless"')] + text[text.index('"headless"') :].replace('"text"', '"smell"')
            ),
        ],
    )
    def test_a_damaged_file_is_named(self, damage, run):
        text = (run / "opinions.json").read_text()
        assert damage(text) != text
        (run / "opinions.json").write_text(damage(text))
        with pytest.raises(RunError, match=r"opinions\.json"):
            MultiLabelClassifier.load(run)

    def test_accepted_opinions_may_not_be_missing(self, run):
        (run / "opinions.json").unlink()
        with pytest.raises(RunError, match=r"opinions\.json"):
            MultiLabelClassifier.load(run)

    def test_verify_checks_it(self, run):
        runner = CliRunner()
        assert runner.invoke(main, ["verify", str(run)]).exit_code == 0
        with (run / "opinions.json").open("a") as file:
            file.write(" ")
        ended = runner.invoke(main, ["verify", str(run)])
        assert ended.exit_code != 0
        assert "opinions.json" in ended.output

    def test_metrics_without_a_value_are_null(self, tmp_path):
        """Validation documents without labels have no average precision."""
        valid = (["zaboras", "old"], [[], ["sport"]])
        fit(valid=valid, out=tmp_path / "run")
        json.loads((tmp_path / "run" / "metrics.json").read_text(), parse_constant=pytest.fail)


class TestOtherDoors:
    def test_streamed_documents_give_the_same_run(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HYPERFOCAL_CACHE", str(tmp_path / "cache"))
        path = tmp_path / "train.jsonl"
        path.write_text(
            "".join(json.dumps({"text": t, "labels": row}) + "\n" for t, row in zip(TEXTS, LABELS, strict=True))
        )
        fits = [fit(texts=path, labels=None, data__stream=stream) for stream in ("on", "off")]
        assert fits[0].metrics_["opinions"]["accepted"]
        one, two = (each.fit_.model.combination for each in fits)
        assert one.limit == two.limit
        assert dict(one.weights) == pytest.approx(dict(two.weights), rel=1e-3)
        same(fits[0].decision_function(NEW), fits[1].decision_function(NEW), atol=1e-3)

    def test_onnx_gives_the_same_scores(self, fitted, tmp_path):
        assert export_onnx(fitted[1], tmp_path / "onnx") == []
        engine = open_engine(tmp_path / "onnx")
        same(engine.scores(NEW + ODD), fitted[0].decision_function(NEW + ODD), atol=1e-4)
        assert engine.decide(engine.scores(NEW)) == [sorted(row) for row in fitted[0].predict(NEW)]

    def test_plain_weights_and_the_readme_are_enough(self, fitted, tmp_path):
        export_plain(fitted[1], tmp_path / "plain")
        assert "opinions.json" in (tmp_path / "plain" / "README.md").read_text()
        value = json.loads((tmp_path / "plain" / "opinions.json").read_text())
        expected = fitted[0].fit_.model.answer(pl.Series(NEW)).logits.numpy()
        for row, text in enumerate(NEW):
            for opinion, part in {"text": text, "first_line": text.split("\n")[0]}.items():
                for each in {stem(word) for word in part.split()} & value["stems"].keys():
                    for label, share in value["stems"][each]:
                        expected[row, label] += value["weights"][opinion] * share * value["labels"][label]
        same(fitted[0].decision_function(NEW), expected, atol=1e-4)

    def test_a_grid_of_two_workers_has_the_scores_of_a_fit(self, tmp_path, fitted):
        def chosen(**changes):
            overrides = QUICK | {name.replace("__", "."): value for name, value in changes.items()}
            return resolve(ClassifySettings, overrides=overrides)

        points = [Point("plain", 0, chosen()), Point("focal", 0, chosen(loss__name="focal"))]
        source = TextSource(Documents.from_lists(TEXTS, LABELS), None, tmp_path / "cache")
        job = GridJob(source, chosen(), tmp_path / "grid", by="macro_ap", pool=LocalPool(2, 1), watch=Watch())
        run_grid(job, points, "plain")
        _, store = job.prepare(points)
        values = {result.name: result.values for result in store.results()}
        assert values["plain"]["macro_ap"] == pytest.approx(fitted[0].metrics_["values"]["macro_ap"], abs=1e-6)


class TestShown:
    def test_fit_prints_what_they_add(self, tmp_path):
        pl.DataFrame({"text": TEXTS, "labels": [" ".join(row) for row in LABELS]}).write_ndjson(tmp_path / "t.jsonl")
        options = [part for name, value in QUICK.items() for part in ("--set", f"{name}={value}")]
        arguments = ["classify", "fit", str(tmp_path / "t.jsonl"), "--out", str(tmp_path / "run"), *options]
        ended = CliRunner().invoke(main, arguments)
        assert ended.exit_code == 0, ended.output
        assert "What the label texts add" in ended.output
        assert "head + name in first line" in ended.output
        ended = CliRunner().invoke(main, [*arguments, "--label-texts", "off", "--overwrite"])
        assert ended.exit_code == 0, ended.output
        assert "abel texts" not in ended.output

    def test_the_page_has_a_section(self, fitted, run):
        page = run_page(fitted[1])
        (section,) = [each for each in page.sections if each.title == "What the label texts add"]
        words, table = section.blocks
        assert words.text.startswith("Label texts count.")
        assert table.columns == ["", "macro AP", "micro AP", "P@1", "nDCG@5"]
        rows = fitted[0].metrics_["opinions"]["rows"]
        assert [row[0].text for row in table.rows] == [row["scores"] for row in rows]
        assert [row[1].value for row in table.rows] == [row["macro_ap"] for row in rows]
        assert [table.rows[place][0].text for place in table.marked] == ["head + all opinions"]
        metrics = json.loads((run / "metrics.json").read_text())
        for opinions, number in (
            (metrics["opinions"] | {"accepted": False}, 1),
            (metrics["opinions"] | {"rows": []}, 0),
        ):
            (run / "metrics.json").write_text(json.dumps(metrics | {"opinions": opinions}))
            sections = [each for each in run_page(run).sections if each.title == "What the label texts add"]
            assert len(sections) == number
            assert [table.rows[place][0].text for section in sections for place in section.blocks[1].marked] == [
                "head"
            ] * number
        del metrics["opinions"]
        (run / "metrics.json").write_text(json.dumps(metrics))
        assert len(run_page(run).sections) == len(page.sections) - 1

    @pytest.mark.parametrize("engine", ["torch", "onnx"])
    def test_the_service_scores_alike_and_names_the_words(self, engine, fitted):
        text = "about zaboras\nold ZABORA and mirulm, sp0"
        with (
            service(fitted[1], "--engine", engine) as running,
            httpx.Client(base_url=running.address, timeout=60) as client,
        ):
            answers = client.post("/v1/classify", json={"texts": [text, "old", *NEW[:4]], "explain": True}).json()[
                "answers"
            ]
            card = client.get("/v1/model").json()
        probabilities = fitted[0].predict_proba([text, "old", *NEW[:4]])
        columns = {name: place for place, name in enumerate(fitted[0].classes_)}
        for answer, row in zip(answers, probabilities, strict=True):
            for one in answer["scores"]:
                assert one["score"] == pytest.approx(row[columns[one["label"]]], abs=1e-5)
        assert (answers[0]["explained"], answers[0]["name_words"]) == ("zabora", ["zaboras", "zabora"])
        assert answers[1]["name_words"] == []
        assert card["metrics"]["opinions"]["weights"] == dict(fitted[0].fit_.model.combination.weights)

    def test_labels_that_opinions_do_not_count_for_have_no_words(self, fitted):
        model = fitted[0].fit_.model
        request = ClassifyRequest(texts=["about zaboras"], explain=True)
        for changed in (
            replace(model, combination=Combination(model.combination.weights, limit=1)),
            replace(model, combination=Combination()),
            replace(model, reader=None, combination=Combination()),
        ):
            (answer,) = ClassifyPredictor(replace(fitted[0].fit_, model=changed), "v").answer([request])
            assert answer.answers[0].explained
            assert answer.answers[0].name_words is None

    def test_new_labels_have_the_words_of_their_names(self, fitted):
        new = [NewLabel(label="harbor", name="old harbors"), NewLabel(label="x1", name="quay")]
        request = ClassifyRequest(texts=["a harbor, quays"], explain=True, new_labels=new)
        (answer,) = ClassifyPredictor(fitted[0].fit_, "v").answer([request])
        expected = {"harbor": ["harbor"], "x1": ["quays"]}
        assert answer.answers[0].name_words == expected[answer.answers[0].explained]

    def test_the_service_reloads_when_the_texts_change(self, fitted, run):
        engine = engine_by_name("torch")
        before = load_predictor(run, engine).version
        assert load_predictor(run, engine).version == before
        value = json.loads((run / "opinions.json").read_text())
        value["combination"]["weights"]["text"] += 1
        (run / "opinions.json").write_text(json.dumps(value))
        assert load_predictor(run, engine).version != before


THINGS = {
    "vehicle": ["a fast car", "two old trucks", "the bus to town"], "animal": ["a dog", "wild horses", "a cat"],
    "drink": ["cold beer", "red wine", "hot tea"], "illness": ["a bad flu", "high fever", "a cough"],
    "weather": ["heavy rain", "strong wind", "snow"], "sea": ["big waves", "the ocean", "a sandy beach"],
}  # fmt: skip


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Return a classifier with a barely trained head, its run, and texts on things that the labels' names are about."""
    rng = np.random.default_rng(0)
    rows = [[name] for name in THINGS for _ in range(20)]
    days = ("today", "yesterday", "again")
    texts = [f"I saw {THINGS[row[0]][rng.integers(3)]} {days[rng.integers(3)]}" for row in rows]
    out = tmp_path_factory.mktemp("run") / "run"
    settings = {"features__kind": "encoder", "train__epochs": 1, "head__name": "linear"}
    return fit(texts=texts, labels=rows, out=out, **settings), out, texts


@pytest.mark.skipif(find_encoder() is None, reason="no sentence encoder is installed")
class TestEncoder:
    def test_similarity_counts_and_is_kept(self, encoded):
        classifier, out, texts = encoded
        assert classifier.metrics_["opinions"]["accepted"]
        assert classifier.metrics_["opinions"]["weights"]["similarity"] > 0
        loaded = MultiLabelClassifier.load(out)
        same(loaded.decision_function(texts + ODD), classifier.decision_function(texts + ODD))

    def test_plain_weights_have_the_vectors(self, encoded, tmp_path):
        export_plain(encoded[1], tmp_path / "plain")
        arrays = load_file(tmp_path / "plain" / "model.safetensors")
        reader = encoded[0].fit_.model.reader
        same(arrays["label_vectors"], reader.vectors)
        same(arrays["label_means"], reader.vectors @ reader.center)

    @pytest.mark.slow
    def test_onnx_gives_the_same_scores(self, encoded, tmp_path):
        assert export_onnx(encoded[1], tmp_path / "onnx") == []
        engine = open_engine(tmp_path / "onnx")
        texts = encoded[2][:20] + ODD
        same(engine.scores(texts), encoded[0].decision_function(texts), atol=1e-3)

    @pytest.mark.parametrize("damage", ["cut", "gone", "short", "thin"])
    def test_damaged_vectors_are_named(self, encoded, damage, tmp_path):
        shutil.copytree(encoded[1], tmp_path / "run")
        file = tmp_path / "run" / "label_vectors.safetensors"
        if damage == "cut":
            file.write_bytes(file.read_bytes()[:-8])
        elif damage == "gone":
            file.unlink()
        else:
            arrays = load_file(file)
            arrays["vectors"] = arrays["vectors"][:-1] if damage == "short" else arrays["vectors"][:, :-1].copy()
            save_file(arrays, file)
        with pytest.raises(RunError, match=r"label_vectors\.safetensors"):
            MultiLabelClassifier.load(tmp_path / "run")
