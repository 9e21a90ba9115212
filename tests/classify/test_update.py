"""Going on from a run of labels: new documents and labels, and nothing of the old forgotten."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix, random

from command_cases import done, names_below, process, refused
from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.head import make_loss, score_documents
from hyperfocal.classify.update_scores import _centred, _weight
from hyperfocal.classify.wider import new_bias, wider_head
from hyperfocal.config.classify import ClassifySettings, HeadSettings
from hyperfocal.config.recipes import resolve
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.models.text_head import Features, TextHead
from hyperfocal.thresholds import Decisions
from text_cases import FAST, NAMES, corpus, matrix
from watch_cases import on_step

LEARNT = FAST | {"train.epochs": 20, "train.batch_size": 16, "features.hashed": True, "features.max_features": 4_000}
MORE = [*NAMES, "film", "ski"]
ALREADY = "the run has these documents already, so that they would count twice"


def fitted(number=200, *, names=NAMES, **more):
    return MultiLabelClassifier(settings=LEARNT | more).fit(*corpus(number, names=names))


def fresh(number=300, *, names=MORE):
    return corpus(number, seed=7, names=names)


def write(path, texts, labels):
    path.write_text("".join(json.dumps({"text": t, "labels": y}) + "\n" for t, y in zip(texts, labels, strict=True)))
    return path


class TestRows:
    def test_scores_of_a_wider_head_written_out(self):
        """The old logits are the same, and the new ones are the bias alone."""
        head = TextHead(0, 3, HeadSettings(width=4), bias=torch.tensor([0.5, -1.0]))
        dense = torch.randn(5, 3)
        before = score_documents(head, Features(None, dense))
        after = score_documents(wider_head(head, torch.tensor([-3.0])), Features(None, dense))
        assert torch.equal(after[:, :2], before)
        assert after[:, 2].tolist() == [-3.0] * 5

    def test_training_the_copy_does_not_change_the_head(self):
        head = TextHead(6, 3, HeadSettings(width=4), bias=torch.zeros(2))
        wider = wider_head(head, torch.zeros(0))
        with torch.no_grad():
            for parameter in wider.parameters():
                parameter += 1
        assert not any((a == b).any() for a, b in zip(head.parameters(), wider.parameters(), strict=True))

    def test_bias_is_the_log_odds_of_the_frequency(self):
        """Of 1,000 documents of the update 9 have the label, and 256 more count as without it."""
        bias = new_bias(ClassifySettings(), torch.tensor([9]), 1_000, 50_000)
        assert bias.item() == pytest.approx(np.log(10 / (1_256 - 9 + 1)))
        assert new_bias(ClassifySettings(), torch.tensor([1]), 1, 3).item() == pytest.approx(np.log(2 / 3))

    @pytest.mark.parametrize(("adjust", "share"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
    def test_bias_of_a_softmax(self, adjust, share):
        settings = resolve(ClassifySettings, None, {"data.single": True, "loss.adjust": adjust})
        bias = new_bias(settings, torch.tensor([8]), 144, 10_000)
        assert bias.item() == pytest.approx(share * np.log(8 / 400))

    def test_offsets_of_one_label_are_averaged_around_0(self):
        """Offsets decide by their differences alone, thresholds by their values."""
        for one, expected in (("balanced", [-1.0, 0.0, 1.0]), ("", [1.0, 2.0, 3.0])):
            assert _centred(Decisions(torch.tensor([1.0, 2.0, 3.0]), one=one)).tolist() == expected

    @pytest.mark.parametrize(("common", "weights"), [(False, [0.25, 0.0, 0.0, 1.0]), (True, [0.5] * 4)])
    def test_weight_of_tuned_thresholds(self, common, weights):
        """The second label has no held-out document, the third none in the update; the last one is new."""
        added, counts, true = (torch.tensor(row) for row in ([1, 2, 0, 3], [4, 4, 1, 3], [1, 0, 1, 0]))
        assert _weight(added, counts, true, common=common).tolist() == weights


class TestLearning:
    def test_new_labels_are_learnt_and_earlier_ones_not_forgotten(self):
        classifier = fitted().update(*fresh(600))
        assert classifier.classes_.tolist() == [*sorted(NAMES), "film", "ski"]
        facts = classifier.metrics_["data"]["update"]
        assert (facts["documents"], facts["new_labels"], facts["held_out"], facts["decisions"]) == (600, 2, 90, "tuned")
        assert facts["after"]["macro_ap"] > max(0.9, facts["before"]["macro_ap"] - 0.01)
        assert facts["new"]["macro_ap"] > 0.9
        both, other = map(set, classifier.predict(["the film0 and the old sport1", "a travel0"]))
        assert {"sport", "film"} <= both
        assert "travel" in other
        assert not other & {"sport", "film"}

    def test_counts_add_up(self):
        """Half of 200 documents have sport; 85% of both sets are trained on."""
        before = fitted()
        counts, number = before.counts_, before.num_documents_
        after = before.update(*fresh(300))
        labels = {name: sum(name in row for row in fresh(300)[1]) for name in MORE}
        added = dict(zip(after.classes_, (after.counts_ - torch.cat([counts, torch.zeros(2)])).tolist(), strict=True))
        assert after.num_documents_ == number + 255
        assert all(abs(added[name] - 0.85 * labels[name]) <= 1 for name in MORE)
        assert after.metrics_["data"]["train"]["documents"] == number + 255
        assert after.labels_[0]["label"] == "sport"
        assert sorted(row["label"] for row in after.labels_) == sorted(MORE)

    def test_the_order_of_documents_does_not_name_labels(self):
        texts, labels = fresh()
        turned = fitted().update(texts[::-1], labels[::-1])
        assert turned.classes_.tolist() == fitted().update(texts, labels).classes_.tolist()

    def test_the_features_stay(self):
        classifier = fitted(**{"features.hashed": False})
        checksum = classifier.features_.checksum
        assert classifier.update(*fresh()).features_.checksum == checksum

    def test_the_loss_counts_new_documents_by_weight(self, monkeypatch):
        """18 documents are too few to hold any out. Their weights of 1 and 3 keep their mean of 2."""
        classifier, asked = fitted(), []
        monkeypatch.setattr(
            "hyperfocal.classify.update.make_loss", lambda *given: asked.append(given[1:]) or make_loss(*given)
        )
        before, number = classifier.counts_.double(), classifier.num_documents_
        (texts, labels), weights = corpus(18, seed=7), [1.0, 3.0] * 9
        classifier.update(texts, labels, sample_weight=weights)
        added = [sum(w for w, row in zip(weights, labels, strict=True) if name in row) for name in classifier.classes_]
        counts, documents = asked[0]
        assert counts.tolist() == (before + torch.tensor(added)).tolist()
        assert documents == number + 36

    def test_few_documents_are_all_trained_on_and_nothing_is_tuned(self):
        classifier = fitted()
        before, thresholds = classifier.metrics_["values"], classifier.decisions_.thresholds
        number = classifier.num_documents_
        texts, labels = fresh(19)
        classifier.update(texts, labels)
        assert classifier.metrics_["data"]["update"]["held_out"] == 0
        assert classifier.num_documents_ == number + 19
        assert classifier.metrics_["values"] == before
        assert torch.equal(classifier.decisions_.thresholds[: len(thresholds)], thresholds)

    def test_one_document(self):
        """The new threshold is the median of the others (all six are the nearest), and at least the bias."""
        before = fitted()
        median, bias = before.decisions_.thresholds.median().item(), np.log(2 / (before.num_documents_ + 1))
        classifier = before.update(["a film0"], [["film"]])
        assert int(classifier.counts_[-1]) == 1
        assert classifier.decisions_.thresholds[-1].item() == pytest.approx(max(median, bias))
        assert classifier.labels_[-1] | {"true_documents": 0, "f1": None} == classifier.labels_[-1] | {"f1": None}

    def test_one_that_is_cut_short_changes_nothing(self):
        classifier = fitted()
        before, weights = dict(vars(classifier)), classifier.head_.bias.clone()

        def stop(*_):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            classifier.update(*fresh(), watch=on_step(stop))
        assert vars(classifier) == before
        assert torch.equal(classifier.head_.bias, weights)

    def test_of_a_saved_run_is_the_same(self, tmp_path):
        classifier = fitted()
        classifier.save(tmp_path / "run")
        loaded = MultiLabelClassifier.load(tmp_path / "run")
        ours, theirs = (each.update(*fresh()).predict_proba(fresh()[0]) for each in (classifier, loaded))
        assert (ours == theirs).all()

    def test_after_folds_and_with_refit(self):
        for key in ({"train.folds": 2}, {"train.refit": True}):
            classifier = fitted(**key).update(*fresh(), epochs=2)
            assert not classifier.metrics_["data"]["out_of_fold"]
            assert classifier.metrics_["data"]["update"]["refit"] == ("train.refit" in key)
            assert len(classifier.history_) == 2

    @pytest.mark.parametrize("rule", ["half", "global", "top_k", "per_label"])
    def test_rules(self, rule):
        classifier = fitted(**{"decide.rule": rule}).update(*fresh())
        thresholds = classifier.decisions_.thresholds
        assert len(thresholds) == 8
        assert len(thresholds.unique()) == {"half": 1, "global": 1, "top_k": 1}.get(rule, 8)

    @pytest.mark.parametrize("epochs", [0, True, 1.5, "1", None])
    def test_epochs_that_are_no_number_of_passes(self, epochs):
        with pytest.raises(ConfigError, match=r"epochs = .* is not allowed\. Expected a whole number from 1 to "):
            fitted().update(*fresh(), epochs=epochs)


class TestAgain:
    """A run knows its documents by their checksums, in any order and format."""

    def test_documents_of_the_fit_and_of_updates(self):
        classifier = fitted()
        texts, labels = corpus(200)
        for again in (False, True):  # before and after an update
            with pytest.raises(DataError, match=ALREADY):
                classifier.update(texts[::-1], labels[::-1])
            if not again:
                classifier.update(*fresh())
        with pytest.raises(DataError, match=ALREADY):
            classifier.update(*fresh())
        assert len(classifier.update(*fresh(), again=True).fit_.logs) == 3

    def test_other_labels_of_the_same_texts(self):
        texts, labels = corpus(200)
        trained = [text for text in texts if text]
        with pytest.raises(DataError, match="which would count twice"):
            fitted().update(trained, [[*row, "film"] for row in labels])

    def test_cumulative(self):
        texts, labels = (first + second for first, second in zip(corpus(200), fresh(), strict=True))
        with pytest.raises(DataError, match="the documents are cumulative: they have"):
            fitted().update(texts, labels)

    def test_some_that_recur_are_counted(self):
        texts, labels = fresh()
        old, theirs = corpus(200)
        facts = fitted().update(texts + old[:20], labels + theirs[:20]).metrics_["data"]["update"]
        assert 5 < facts["repeated"] <= 20

    def test_a_feature_matrix(self):
        features = random(60, 30, density=0.3, random_state=0, format="csr")
        labels = matrix(corpus(60)[1])
        classifier = MultiLabelClassifier(settings=FAST).fit(features, labels)
        with pytest.raises(DataError, match=ALREADY):
            classifier.update(features.toarray()[::-1], labels[::-1])


class TestForms:
    def test_indicator_matrices(self):
        """Column 6 has its first document in the update."""
        texts, labels = corpus(200)
        classifier = MultiLabelClassifier(settings=LEARNT).fit(texts, matrix(labels, MORE))
        assert len(classifier.vocabulary_) == 6
        texts, labels = fresh()
        classifier.update(texts, csr_matrix(matrix(labels, MORE)))
        assert classifier.predict(texts).shape == (300, 8)
        assert len(classifier.vocabulary_) == 8
        assert classifier.predict(["a film0"])[0, 6] == 1

    def test_indicator_matrix_of_another_width(self):
        texts, labels = corpus(100)
        classifier = MultiLabelClassifier(settings=FAST).fit(texts, matrix(labels))
        with pytest.raises(DataError, match="an indicator matrix of 6 columns and these are an indicator matrix of 8"):
            classifier.update(*(fresh()[0], matrix(fresh()[1], MORE)))
        with pytest.raises(DataError, match="an indicator matrix of 6 columns and these are lists of labels"):
            classifier.update(*fresh())

    @pytest.mark.parametrize("decide", ["argmax", "balanced"])
    def test_one_label(self, decide):
        rng = np.random.default_rng(0)
        settings = LEARNT | {"decide.rule": decide}

        def draw(number, classes):
            y = rng.choice(classes, number)
            return [f"the word{each} word{each}" for each in y], y

        classifier = MultiLabelClassifier(settings=settings).fit(*draw(200, [1, 2, 3]))
        classifier.update(*draw(400, [1, 2, 7, 30]))
        assert classifier.classes_.tolist() == [1, 2, 3, 7, 30]
        assert classifier.predict(["word3 word3", "word30 word30", "word7"]).tolist() == [3, 30, 7]
        assert classifier.predict_proba(["word1"]).sum() == pytest.approx(1)
        assert "accuracy" in str(sorted(classifier.metrics_["values"]))

    def test_classes_of_another_type(self):
        classifier = MultiLabelClassifier(settings=FAST).fit(["one two", "four five"] * 20, [1, 2] * 20)
        with pytest.raises(DataError, match="training labels are of type integer and these of type text"):
            classifier.update(["a"] * 3, ["x", "y", "z"])
        frame = pl.DataFrame({"text": ["a", "b"], "labels": ["1", "x"]})
        with pytest.raises(
            DataError, match="the training labels are of type integer, and new ones such as 'x' are not"
        ):
            classifier.update(frame)

    def test_a_matrix_of_another_width(self):
        rng = np.random.default_rng(0)
        classifier = MultiLabelClassifier(settings=FAST).fit(rng.random((60, 5)), matrix(corpus(60)[1]))
        with pytest.raises(DataError, match="X has 4 features, but MultiLabelClassifier is expecting 5 features"):
            classifier.update(rng.random((60, 4)), matrix(corpus(60)[1]))
        with pytest.raises(DataError, match="training read a feature matrix and these are texts"):
            classifier.update(["a text"], matrix([["sport"]]))

    def test_a_matrix_in_place_of_texts(self):
        with pytest.raises(DataError, match="training read texts and these are a feature matrix"):
            fitted().update(np.eye(3), [["sport"]] * 3)

    def test_vectors_and_fields(self):
        def frame(texts, labels):
            rng = np.random.default_rng(len(texts))
            vectors = [[float("film" in row), *rng.random(2)] for row in labels]
            sections = [row[0] if row else "none" for row in labels]
            return pd.DataFrame({"text": texts, "labels": labels, "vector": vectors, "section": sections})

        classifier = MultiLabelClassifier(vectors="vector", fields="section", settings=LEARNT)
        classifier.fit(frame(*corpus(200))).update(frame(*fresh()), epochs=1)
        assert len(classifier.classes_) == 8
        with pytest.raises(DataError, match="no column 'section'"):
            classifier.update(frame(*fresh(30)).drop(columns="section"))

    def test_without_a_label(self):
        with pytest.raises(DataError, match="new documents: none has a label"):
            fitted().update(["a text", "another"], [[], []])

    def test_a_tree(self, tmp_path):
        rows = ["id\tparent\tname", *(f"{place}\t\t{name}" for place, name in enumerate(MORE))]
        (tmp_path / "tree.tsv").write_text("\n".join(rows) + "\n")
        classifier = fitted(**{"data.taxonomy": str(tmp_path / "tree.tsv")})
        assert classifier.update(*fresh()).classes_.tolist()[-2:] == ["6", "7"]
        with pytest.raises(DataError, match="1 labels are not in the taxonomy, first 'odd'"):
            classifier.update(["a"] * 3, [["odd"], ["film"], ["sport"]])


class TestLabelTexts:
    def test_names(self):
        classifier = fitted().update(*fresh())
        reader = classifier.fit_.model.reader
        assert reader.texts.names == (*sorted(NAMES), "film", "ski")
        assert reader.of(pl.Series(["a film"]), None)["text"].matrix.toarray()[0].tolist() == [0] * 6 + [1, 0]

    def test_of_the_file_of_the_run_and_of_another(self, tmp_path):
        table = [{"label": name, "name": name.upper() + " TEXT"} for name in MORE]
        pl.DataFrame(table).write_csv(tmp_path / "texts.csv")
        classifier = fitted(**{"features.label_texts": str(tmp_path / "texts.csv")})
        classifier.save(tmp_path / "run")
        assert classifier.update(*fresh()).fit_.model.reader.texts.names[-2:] == ("FILM TEXT", "SKI TEXT")
        (tmp_path / "texts.csv").rename(tmp_path / "moved.csv")
        other = MultiLabelClassifier.load(tmp_path / "run")
        with pytest.raises(DataError, match=r"2 new labels such as 'film' need texts, and the file .* is missing"):
            other.update(*fresh())
        other.update(*fresh(), label_texts=tmp_path / "moved.csv")
        assert other.fit_.model.reader.texts.names[-2:] == ("FILM TEXT", "SKI TEXT")

    def test_of_a_run_that_reads_none(self, tmp_path):
        with pytest.raises(ConfigError, match="this run reads no label texts"):
            fitted(**{"features.label_texts": "off"}).update(*fresh(), label_texts=tmp_path / "texts.csv")


class TestWeights:
    @pytest.mark.parametrize("method", ["update", "partial_fit"])
    def test_equal_weights_and_none_are_the_same_and_0_leaves_out(self, method):
        texts, labels = fresh(60)
        scores = []
        for more, weight, weights in ((0, 0, None), (0, 0, [0.5] * 60), (10, 0.0, [0.5] * 60)):
            classifier, junk = fitted(), corpus(more, seed=9)
            given = None if weights is None else [*weights, *([weight] * more)]
            getattr(classifier, method)([*texts, *junk[0]], [*labels, *junk[1]], sample_weight=given)
            scores.append(classifier.decision_function(texts))
        np.testing.assert_allclose(scores[1], scores[0], atol=1e-4)
        np.testing.assert_allclose(scores[2], scores[1], atol=1e-6)

    def test_documents_of_larger_weight_count_more(self):
        texts, labels = fresh(60)
        heavy = np.array([20.0 if "film" in row else 0.1 for row in labels])
        probability = []
        for weights in (None, heavy):
            classifier = fitted()
            classifier.update(texts, labels, sample_weight=weights)
            place = classifier.vocabulary_.names.index("film")
            probability.append(classifier.predict_proba(texts)[:, place].mean())
        assert probability[1] > 2 * probability[0]


class TestPartialFit:
    def test_the_first_call_fits_and_others_continue(self):
        first = MultiLabelClassifier(settings=LEARNT).partial_fit(*corpus(200))
        assert (first.predict_proba(["sport0"]) == fitted().predict_proba(["sport0"])).all()
        for start in range(0, 300, 50):
            texts, labels = (values[start : start + 50] for values in fresh())
            first.partial_fit(texts, labels)
        assert "film" in first.predict(["the film1"])[0]
        assert "film" not in first.predict(["the sport1"])[0]
        assert len(first.partial_fit(texts, labels).fit_.logs) == 2 + 6  # the same documents again

    def test_classes_have_rows_before_they_have_documents(self):
        classifier = MultiLabelClassifier(settings=FAST).partial_fit(*corpus(100), classes=["film", "sport"])
        assert classifier.classes_.tolist() == [*sorted(NAMES), "film"]
        assert classifier.predict_proba(["a text"])[0, -1] == pytest.approx(1 / (classifier.num_documents_ + 2))
        assert classifier.partial_fit(["an owl"], [["owl"]], classes=["emu"]).classes_.tolist()[-2:] == ["emu", "owl"]

    def test_classes_of_one_label(self):
        classifier = MultiLabelClassifier(settings=FAST)
        classifier.partial_fit(["one two", "four five"] * 20, [1, 2] * 20, classes=np.array([1, 2, 3]))
        assert classifier.classes_.tolist() == [1, 2, 3]
        assert classifier.predict_proba(["a b"]).shape == (1, 3)

    @pytest.mark.parametrize(
        ("classes", "message"),
        [("film", "'film' is not a list of labels"), (["x", "y"], "are of type integer and these of type text")],
    )
    def test_classes_that_are_none(self, classes, message):
        classifier = MultiLabelClassifier(settings=FAST)
        with pytest.raises(DataError, match=message):
            classifier.partial_fit(["one two", "four five"] * 20, [1, 2] * 20, classes=classes)
        assert not hasattr(classifier, "fit_")

    def test_classes_of_an_indicator_are_its_columns(self):
        classifier = MultiLabelClassifier(settings=FAST)
        texts, labels = corpus(100)
        assert len(classifier.partial_fit(texts, matrix(labels), classes=np.arange(6)).classes_) == 6
        with pytest.raises(DataError, match="'6' is not the number of one of the 6 columns"):
            classifier.partial_fit(texts, matrix(labels), classes=np.arange(7))


class TestWhatIsRefused:
    def test_before_fitting_and_after_new_labels(self):
        with pytest.raises(RunError, match="is not fitted"):
            MultiLabelClassifier().update(*fresh())
        with pytest.raises(RunError, match="update is not allowed after with_new_labels"):
            fitted().with_new_labels(["film"]).update(*fresh())
        with pytest.raises(RunError, match="partial_fit is not allowed after with_new_labels"):
            fitted().with_new_labels(["film"]).partial_fit(*fresh())


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path):
        fitted().save(tmp_path / "run")
        (tmp_path / "run/notes.txt").write_text("mine")
        write(tmp_path / "new.jsonl", *fresh())
        return tmp_path / "run"

    def test_replaces_the_run_and_keeps_what_is_not_of_it(self, run, tmp_path):
        printed = done("classify", "update", run, tmp_path / "new.jsonl", "--epochs", 2)
        assert "Updated with 300 documents and 2 new labels." in printed
        assert "Macro AP of the earlier labels was" in printed
        assert len(MultiLabelClassifier.load(run).classes_) == 8
        assert (run / "notes.txt").read_text() == "mine"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["new.jsonl", "run"]
        page = (run / "report.html").read_text(encoding="utf-8")
        assert "has no evidence.json" not in page
        assert "means of those before the update" in page

    def test_another_folder_serves_reports_exports_and_verifies(self, run, tmp_path):
        before, out = (run / "model.safetensors").read_bytes(), tmp_path / "second"
        done("classify", "update", run, tmp_path / "new.jsonl", "--out", out)
        assert (run / "model.safetensors").read_bytes() == before
        assert "files are as they were written" in done("verify", out)
        done("report", out)
        done("export", out, "--safetensors", tmp_path / "plain")
        done("classify", "predict", out, tmp_path / "new.jsonl", "--out", tmp_path / "predicted.jsonl")
        labels = {label for row in pl.read_ndjson(tmp_path / "predicted.jsonl")["labels"] for label in row}
        assert "film" in labels

    def test_twice_in_processes(self, run, tmp_path):
        process("classify", "update", run, tmp_path / "new.jsonl", "--out", tmp_path / "second")
        again = process("classify", "update", tmp_path / "second", tmp_path / "new.jsonl", code=2)
        assert (
            again.stderr.splitlines()[-1] == f"error: {ALREADY}. Give new documents, or count them again with --again"
        )
        process("classify", "update", tmp_path / "second", tmp_path / "new.jsonl", "--again")

    def test_nothing_is_left_of_one_that_is_refused(self, run, tmp_path):
        (tmp_path / "odd.csv").write_text("a,b\n1,2\n")
        before = names_below(tmp_path)
        message = refused("classify", "update", run, tmp_path / "odd.csv", "--out", tmp_path / "second")
        assert "cannot tell which column is the text" in message
        assert names_below(tmp_path) == before

    def test_a_taken_folder(self, run, tmp_path):
        fitted().save(tmp_path / "second")
        assert "second" in refused("classify", "update", run, tmp_path / "new.jsonl", "--out", tmp_path / "second")

    def test_missing_label_texts_name_the_option(self, run, tmp_path):
        texts = tmp_path / "texts.csv"
        pl.DataFrame([{"label": name, "name": name} for name in NAMES]).write_csv(texts)
        fitted(**{"features.label_texts": str(texts)}).save(tmp_path / "other")
        texts.unlink()
        assert "Give another one with --label-texts" in refused(
            "classify", "update", tmp_path / "other", tmp_path / "new.jsonl"
        )
