"""Labels that nobody annotated: from NaN in a matrix and from a column, they count neither as right nor as wrong."""

import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics import average_precision_score, f1_score

from command_cases import TINY, done, refused, rows, write
from hyperfocal.classify.baselines import score_prior, score_svm
from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.combination import fit_weights
from hyperfocal.classify.counted_loss import CountedLoss, row_losses, training_counts
from hyperfocal.classify.head import head_loss, make_bias, make_head, make_loss, train_head
from hyperfocal.classify.opinions import Shares
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import resolve
from hyperfocal.counted_labels import counted
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.labels import SparseLabels
from hyperfocal.models.text_head import Features
from text_cases import FAST, NAMES, corpus, matrix

TEXTS, LABELS = corpus(160)
RNG = np.random.default_rng(2)
TRUE = matrix(LABELS)
HIDDEN = RNG.random(TRUE.shape) < 0.3
PARTIAL = np.where(HIDDEN, np.nan, TRUE)
N, D, L = 24, 5, 4
GENERATOR = torch.Generator().manual_seed(0)
DENSE = torch.randn(N, D, generator=GENERATOR)
TRUTH = torch.rand(N, L, generator=GENERATOR) < 0.4
UNKNOWN = (torch.rand(N, L, generator=GENERATOR) < 0.4) & ~TRUTH
WEIGHTS = torch.rand(N, generator=GENERATOR, dtype=torch.float64) + 0.5
MASKED = counted(SparseLabels.from_dense(TRUTH), None, SparseLabels.from_dense(UNKNOWN))
BOTH = counted(SparseLabels.from_dense(TRUTH), WEIGHTS, SparseLabels.from_dense(UNKNOWN))
ONE_BATCH = {
    "train.epochs": 5, "train.threads": 1, "train.batch_size": 64, "train.optimizer": "sgd",
    "train.schedule": "constant", "train.learning_rate": 0.5, "train.weight_decay": 0.0, "head.name": "linear",
    "head.dropout": 0.0,
}  # fmt: skip


def classifier(**settings):
    return MultiLabelClassifier(settings=FAST | settings)


def by_hand(weights, reduction):
    """Return a linear head, trained on the known pairs by plain torch in float64."""
    settings = resolve(ClassifySettings, None, ONE_BATCH | {"loss.reduction": reduction})
    labels = BOTH if weights is not None else MASKED
    head = make_head(settings, 0, D, make_bias(settings, *training_counts(labels))).double()
    known, truth = (~UNKNOWN).double(), TRUTH.double()
    own = torch.ones(N, dtype=torch.float64) if weights is None else weights
    divisor = {
        "batch": own.sum(),
        "mean": (own[:, None] * known).sum(),
        "positives": (own[:, None] * truth).sum(),
    }[reduction]
    optimizer = torch.optim.SGD((head.weight, head.bias), lr=settings.train.learning_rate, momentum=0.9)
    for _ in range(settings.train.epochs):
        optimizer.zero_grad()
        logits = head.hidden_of(DENSE.double()) @ head.weight.T + head.bias
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        ((losses * known * own[:, None]).sum() / divisor).backward()
        optimizer.step()
    return head


class TestTraining:
    @pytest.mark.parametrize("reduction", ["batch", "mean", "positives"])
    @pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unknown", "with weights"])
    def test_it_equals_a_loop_over_the_known_pairs(self, weights, reduction):
        settings = resolve(ClassifySettings, None, ONE_BATCH | {"loss.reduction": reduction})
        labels = BOTH if weights is not None else MASKED
        head, _ = train_head((Features(None, DENSE), labels), None, 0, settings)
        expected = by_hand(weights, reduction)
        assert torch.allclose(head.weight.double(), expected.weight, atol=1e-5)
        assert torch.allclose(head.bias.double(), expected.bias, atol=1e-5)

    @pytest.mark.parametrize("name", ["bce", "focal", "asymmetric", "ntr_focal", "balanced"])
    @pytest.mark.parametrize("labels", [MASKED, BOTH], ids=["unknown", "with weights"])
    def test_the_gradient_of_an_unknown_label_is_exactly_0(self, name, labels):
        """All pairs of the last label are unknown, except in documents that are not in the batch."""
        settings = resolve(ClassifySettings, None, ONE_BATCH | {"loss.name": name})
        alone = SparseLabels.from_dense(torch.arange(L).expand(N, L) == L - 1)
        truth = SparseLabels.from_dense(TRUTH & (torch.arange(L) != L - 1))
        masked = counted(truth, WEIGHTS if labels is BOTH else None, alone)
        counts, number = training_counts(labels)
        head = make_head(settings, 0, D, make_bias(settings, counts, number))
        loss = make_loss(row_losses(settings.loss, masked), counts, number)
        part = CountedLoss.of(masked, "batch").portion(head_loss(head, loss, Features(None, DENSE), masked), masked)
        part.loss.backward()
        assert (head.weight.grad[-1] == 0).all()
        assert head.bias.grad[-1] == 0
        assert (head.weight.grad[:-1] != 0).all()

    def test_counts_are_those_of_annotated_documents(self):
        truth = SparseLabels.from_lists([[0], [0], [1], []], num_labels=2)
        labels = counted(truth, None, SparseLabels.from_lists([[], [], [], [0]], num_labels=2))
        counts, number = training_counts(labels)
        assert (counts.tolist(), number) == ([2 * 4 / 3, 1], 4)

    def test_of_baselines(self):
        others = Features(None, torch.randn(6, D, generator=GENERATOR))
        prior, svm = (score(Features(None, DENSE), MASKED, others) for score in (score_prior, score_svm))
        for label in range(L):
            known = ~UNKNOWN[:, label]
            alone = SparseLabels.from_dense(TRUTH[known][:, [label]])
            assert prior[0, label] == pytest.approx(TRUTH[known, label].float().mean().item())
            expected = score_svm(Features(None, DENSE[known]), alone, others)[:, 0]
            assert torch.allclose(svm[:, label], expected, atol=1e-3)

    def test_of_opinions(self):
        """Weights do not depend on what is said of unknown pairs."""
        shares = (torch.rand(N, L, generator=GENERATOR) < 0.4).float()
        logits = torch.randn(N, L, generator=GENERATOR)
        others = torch.where(UNKNOWN, 1 - shares, shares), torch.where(UNKNOWN, logits + 5, logits)
        ours = fit_weights(logits, {"text": Shares(csr_matrix(shares.numpy()))}, MASKED, power=1)
        again = fit_weights(others[1], {"text": Shares(csr_matrix(others[0].numpy()))}, MASKED, power=1)
        assert ours == again
        plain = fit_weights(others[1], {"text": Shares(csr_matrix(others[0].numpy()))}, SparseLabels.from_dense(TRUTH))
        assert ours != plain


class TestMatrix:
    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls):
        return classifier().fit(TEXTS, PARTIAL, valid=(TEXTS, PARTIAL))

    def test_scores_are_those_of_known_pairs(self, fitted):
        scores = fitted.decision_function(TEXTS)
        known = [~HIDDEN[:, label] for label in range(len(NAMES))]
        ap = [average_precision_score(TRUE[row, label], scores[row, label]) for label, row in enumerate(known)]
        assert [row["average_precision"] for row in sorted(fitted.labels_, key=lambda row: int(row["label"]))] == (
            pytest.approx(ap)
        )
        half = f1_score(TRUE[~HIDDEN], scores[~HIDDEN] > 0)
        assert fitted.metrics_["values"]["half.micro_f1"] == pytest.approx(half)
        decided = fitted.predict(TEXTS)
        assert fitted.score(TEXTS, PARTIAL) == pytest.approx(f1_score(TRUE[~HIDDEN], decided[~HIDDEN]))
        tuned = fitted.evaluate((TEXTS, PARTIAL))["values"]["tuned.micro_f1"]
        assert tuned == pytest.approx(f1_score(TRUE[~HIDDEN], decided[~HIDDEN]))

    def test_predictions_are_of_all_labels(self, fitted):
        assert fitted.predict(TEXTS).dtype == np.int64
        assert fitted.predict(TEXTS).shape == TRUE.shape

    def test_counts(self, fitted):
        data = fitted.metrics_["data"]
        assert data["train"]["unknown_pairs"] == data["valid"]["unknown_pairs"] == HIDDEN.sum()
        assert data["train"]["positives"] == (PARTIAL == 1).sum()

    @pytest.mark.parametrize(
        "form",
        [
            lambda y: pd.DataFrame(y).astype("Int64"),
            torch.from_numpy,
            csr_matrix,
            lambda y: y.astype(np.float32),
            lambda y: np.where(np.isnan(y), None, y),
        ],
        ids=["nullable", "tensor", "sparse", "float32", "objects"],
    )
    def test_of_every_form(self, fitted, form):
        other = classifier().fit(TEXTS, form(PARTIAL), valid=(TEXTS, form(PARTIAL)))
        assert other.fingerprint_ == fitted.fingerprint_

    def test_it_is_not_the_same_as_0(self, fitted):
        """Two labels of three are hidden where they are true: with 0 in place of NaN they are learned to be absent."""
        hidden = (TRUE == 1) & (RNG.random(TRUE.shape) < 0.65)
        known = classifier().fit(TEXTS, np.where(hidden, np.nan, TRUE))
        absent = classifier().fit(TEXTS, np.where(hidden, 0, TRUE))
        assert known.decision_function(TEXTS)[hidden].mean() > absent.decision_function(TEXTS)[hidden].mean() + 1

    def test_with_weights_and_folds(self):
        fitted = classifier(**{"train.folds": 3}).fit(TEXTS, PARTIAL, np.arange(160) % 3)
        assert fitted.metrics_["documents"] == 106
        assert fitted.metrics_["data"]["train"]["unknown_pairs"] == HIDDEN[np.arange(160) % 3 > 0].sum()

    def test_resume_needs_the_same(self, tmp_path):
        classifier().fit(TEXTS, PARTIAL, out=tmp_path / "run")
        classifier().fit(TEXTS, PARTIAL, out=tmp_path / "run", resume=True)
        with pytest.raises(RunError, match="was trained on other data"):
            classifier().fit(TEXTS, np.nan_to_num(PARTIAL), out=tmp_path / "run", resume=True)

    @pytest.mark.parametrize("loss", ["softmax", "softmax_focal"])
    def test_softmax_is_refused(self, loss):
        with pytest.raises(ConfigError, match=rf"loss\.name = '{loss}' needs every label of a document"):
            MultiLabelClassifier(loss=loss, settings=FAST).fit(TEXTS, PARTIAL)

    def test_one_label_per_document_is_refused(self):
        with pytest.raises(ConfigError, match=r"each document has one\. Leave `unknown=` out"):
            MultiLabelClassifier(unknown="x", settings={"data.single": True}).fit(TEXTS, ["a", "b"] * 80)

    def test_other_numbers_are_still_refused(self):
        with pytest.raises(DataError, match=r"row 0, column 1 is 0\.5"):
            classifier().fit(TEXTS, np.where(np.arange(6) == 1, 0.5, PARTIAL))


FRAME = pl.DataFrame(
    {
        "text": TEXTS,
        "labels": [[NAMES[at] for at in np.flatnonzero(row == 1)] for row in PARTIAL],
        "open": [[NAMES[at] for at in np.flatnonzero(np.isnan(row))] for row in PARTIAL],
    }
)


class TestColumn:
    def fit(self, frame, **parameters):
        return MultiLabelClassifier(unknown="open", settings=FAST | {"features.label_texts": "off"}, **parameters).fit(
            frame
        )

    def test_it_is_the_mask_of_a_matrix(self):
        ours = self.fit(FRAME)
        matrix = classifier(**{"features.label_texts": "off"}).fit(TEXTS, PARTIAL)
        columns = [NAMES.index(name) for name in ours.classes_]
        scores = matrix.decision_function(TEXTS)[:, columns]
        assert np.abs(ours.decision_function(TEXTS) - scores).max() < 2  # the order of labels draws other weights
        assert ours.metrics_["data"]["train"]["unknown_pairs"] == matrix.metrics_["data"]["train"]["unknown_pairs"]
        assert self.fit(FRAME.drop("open").with_columns(open=pl.lit(None))).fingerprint_ != ours.fingerprint_

    def test_texts_are_split_as_labels(self):
        texts = FRAME.with_columns(pl.col("labels").list.join("|"), pl.col("open").list.join("|"))
        assert self.fit(texts).fingerprint_ == self.fit(FRAME).fingerprint_

    def test_other_files_need_it_only_to_train(self, tmp_path):
        fitted = self.fit(FRAME)
        assert fitted.evaluate(FRAME)["data"]["unknown_pairs"] == HIDDEN.sum()
        assert "unknown_pairs" not in fitted.evaluate(FRAME.drop("open"))["data"]
        assert fitted.predict_documents(FRAME.drop("open", "labels")).height == 160

    def test_a_label_that_is_both(self):
        frame = FRAME.with_columns(open=pl.Series([[]] * 7 + [["sport"]] * 153))
        row = next(row for row in range(7, 160) if "sport" in FRAME["labels"][row])
        with pytest.raises(DataError, match=f"row {row}: label 'sport' is one of the document's labels and, by"):
            self.fit(frame)

    def test_a_label_that_training_never_saw(self, caplog):
        frame = FRAME.with_columns(open=pl.col("open").list.concat(pl.lit(["never"]).cast(pl.List(pl.String))))
        assert self.fit(frame).metrics_["data"]["train"]["unknown_pairs"] > 0
        assert "labels of `unknown=` that training does not have are left out: 1, first 'never'" in caplog.text

    @pytest.mark.parametrize(
        ("unknown", "message"),
        [
            ("Wiine", "1 labels are not in the taxonomy, first 'Wiine'"),
            (
                "c",
                "document 0: label 'c' is one of the document's labels and, by `unknown=`, one that nobody annotated",
            ),
        ],
    )
    def test_in_a_tree_a_wrong_name_and_one_label_by_id_and_name(self, tmp_path, unknown, message):
        (tmp_path / "tree.tsv").write_text("id\tparent\tname\na\t\tDrinks\nb\ta\tWine\nc\ta\tBeer\n")
        labels = [["Beer"], ["Wine"]] * 20
        frame = pl.DataFrame({"text": ["dark", "red"] * 20, "labels": labels, "open": [[unknown], []] * 20})
        settings = FAST | {"data.taxonomy": str(tmp_path / "tree.tsv")}
        with pytest.raises(DataError, match=message):
            MultiLabelClassifier(unknown="open", settings=settings).fit(frame)

    def test_update_counts_and_refuses_as_fit_does(self):
        """A new label is annotated in 30 of 300 documents, and true in half of them."""
        model = classifier().fit(TEXTS, LABELS)
        texts, labels = corpus(300, seed=5)
        labels = [[*row, "new"] if place % 20 == 0 else row for place, row in enumerate(labels)]
        frame = pl.DataFrame(
            {"text": texts, "labels": labels, "open": [[] if n % 10 == 0 else ["new"] for n in range(300)]}
        )
        fitted = MultiLabelClassifier(unknown="open", settings=FAST).fit(FRAME)
        with_unknown, without = fitted.update(frame), model.update(frame.drop("open"))
        place = [each.vocabulary_.names.index("new") for each in (with_unknown, without)]
        bias = [each.head_.bias[at].item() for each, at in zip((with_unknown, without), place, strict=True)]
        assert bias[0] > bias[1] + 0.5
        with pytest.raises(ConfigError, match="needs every label of a document"):
            MultiLabelClassifier(loss="softmax", settings=FAST).fit(TEXTS, TRUE).partial_fit(TEXTS, PARTIAL)

    def test_a_tree(self, tmp_path):
        """A true parent is known, and names are those of the tree."""
        tree = [("a", "", "Animals"), ("b", "a", "Birds"), ("c", "a", "Cats")]
        (tmp_path / "tree.tsv").write_text("id\tparent\tname\n" + "".join("\t".join(row) + "\n" for row in tree))
        texts = [f"{word} word{number % 7}" for number in range(60) for word in ["tweet", "purr"]][:60]
        labels = [["b"] if "tweet" in text else ["c"] for text in texts]
        frame = pl.DataFrame(
            {"text": texts, "labels": labels, "open": [["Animals", "Cats"] if row == ["b"] else [] for row in labels]}
        )
        settings = FAST | {"data.taxonomy": str(tmp_path / "tree.tsv"), "data.add_parents": True}
        data = MultiLabelClassifier(unknown="open", settings=settings).fit(frame).metrics_["data"]
        number = sum(row == ["b"] for row in labels)
        assert data["train"]["unknown_pairs"] + data["valid"]["unknown_pairs"] == number  # Cats, not Animals

    def test_streamed(self, tmp_path):
        write(tmp_path / "train.jsonl", FRAME.to_dicts())
        ours, theirs = (
            MultiLabelClassifier(unknown="open", settings=FAST | {"data.stream": stream}).fit(
                tmp_path / "train.jsonl", cache=tmp_path / "cache"
            )
            for stream in ("on", "off")
        )
        assert ours.fingerprint_ == theirs.fingerprint_
        assert ours.metrics_["values"] == pytest.approx(theirs.metrics_["values"], nan_ok=True)

    def test_lists_have_no_column(self):
        with pytest.raises(DataError, match="Give NaN in an indicator matrix, a file or a frame"):
            MultiLabelClassifier(unknown="open").fit(TEXTS, LABELS)

    def test_commands(self, tmp_path):
        documents = rows()
        for row in documents:
            row["open"] = [] if "chess" in row["labels"] else ["chess"]
        write(tmp_path / "train.jsonl", documents)
        common = ("--text", "title", "--unknown", "open", "--features", "ngrams", *TINY)
        fit = done("classify", "fit", tmp_path / "train.jsonl", "--out", tmp_path / "run", *common)
        printed = " ".join(fit.split())
        assert "pairs of a training document and a label were not annotated; they count nowhere." in printed
        scored = json.loads(done("classify", "evaluate", tmp_path / "run", tmp_path / "train.jsonl", "--json"))
        assert scored["data"]["unknown_pairs"] == sum("chess" not in row["labels"] for row in documents)
        plan = json.loads(done("inspect", tmp_path / "train.jsonl", "--text", "title", "--unknown", "open", "--json"))
        assert ("open", "unknown") in [(each["name"], each["use"]) for each in plan["columns"]]
        grid = ("--caps", "none", "--gammas", "none,2", "--seeds", "1", "--out", tmp_path / "grid")
        ngrams = ("--text", "title", "--set", "features.kind=ngrams", *TINY)
        printed = done("classify", "grid", tmp_path / "train.jsonl", *grid, "--unknown", "open", *ngrams)
        assert "were not annotated" in printed
        documents[5]["open"] = ["sport"]
        documents[5]["labels"] = ["sport"]
        write(tmp_path / "bad.jsonl", documents)
        message = refused("classify", "fit", tmp_path / "bad.jsonl", "--out", tmp_path / "no", *common)
        assert "bad.jsonl line 6: label 'sport' is one of the document's labels" in message
