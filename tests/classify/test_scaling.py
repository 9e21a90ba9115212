"""The scaling of a feature matrix, chosen by validation: where the fixed rule is wrong, and where it is right."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.sparse import csr_matrix

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.scaling import candidates, clearly_best, scaling_words
from hyperfocal.cli import main
from hyperfocal.training.watch import Watch

SETTINGS = {"train.epochs": 6, "train.threads": 1, "train.batch_size": 64, "head.width": 64, "train.baselines": "off"}
ROWS, FEATURES, LABELS = 1_500, 30, 6


def shares(seed=0):
    """Return counts X and labels Y: the share of a row's counts in feature l decides label l; lengths hide it."""
    rng = np.random.default_rng(seed)
    mixed = rng.dirichlet(np.full(FEATURES, 0.5), ROWS)
    lengths = np.exp(rng.normal(6, 3, ROWS))
    X = rng.poisson(mixed * lengths[:, None]).astype(np.float64)  # noqa: N806
    return X, (mixed[:, :LABELS] > 0.06).astype(int)


def scales(seed=0):
    """Return numbers X and labels Y: the features that decide are 1000 times smaller than the others."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(ROWS, FEATURES))
    factor = np.where(np.arange(FEATURES) < LABELS, 1, 1_000)
    return values * factor, (values[:, :LABELS] > 0.5).astype(int)


def fit(X, Y, out=None, **settings):  # noqa: N803
    return MultiLabelClassifier(settings=SETTINGS | settings).fit(X, Y, out=out)


def taken(classifier):
    return classifier.features_.columns.matrix.scaling


class StopAt(Watch):
    """Stops at a call of `stepped`, an epoch of the run's head: the short fits report no progress."""

    def __init__(self, call):
        self.calls, self.call = 0, call

    def stepped(self, progress, steps):
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt


class TestCandidates:
    def test_each_form_of_matrix(self):
        counts, negative = np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[0.0, -1.0]])
        assert candidates(counts) == ["standard", "none", "l2", "idf_l2"]
        assert candidates(negative) == ["standard", "none", "l2"]
        assert candidates(counts + 1) == ["standard", "none", "l2"]
        assert candidates(csr_matrix(counts)) == ["idf_l2", "l2", "none"]
        assert candidates(csr_matrix((2, 5_001))) == ["idf_l2", "l2"]

    def test_only_a_clear_gain_on_both_halves_counts(self):
        rule = {"standard": [0.5, 0.5]}
        assert clearly_best({"standard": 0.5, "l2": 0.502}, rule | {"l2": [0.6, 0.6]}) == "standard"
        assert clearly_best({"standard": 0.5, "l2": 0.6}, rule | {"l2": [0.8, 0.5]}) == "standard"
        both = {"l2": [0.6, 0.6], "none": [0.7, 0.7]}
        assert clearly_best({"standard": 0.5, "l2": 0.6, "none": 0.7}, rule | both) == "none"


class TestChoice:
    @pytest.mark.parametrize("folds", [0, 3])
    def test_l2_for_counts_of_rows_of_many_lengths(self, folds):
        X, Y = shares()  # noqa: N806
        fitted = fit(X, Y, **{"train.folds": folds})
        scaling = fitted.metrics_["scaling"]
        assert taken(fitted) == scaling["taken"]
        assert scaling["taken"] in ("l2", "idf_l2")
        assert set(scaling["values"]) == {"standard", "none", "l2", "idf_l2"}
        rule = fit(X, Y, **{"train.folds": folds, "data.scaling": "standard"})
        assert "scaling" not in rule.metrics_  # a given scaling compares nothing
        assert fitted.metrics_["values"]["macro_ap"] > rule.metrics_["values"]["macro_ap"] + 0.05

    def test_the_rule_for_features_of_other_scales_and_the_same_scores_as_if_it_was_given(self):
        X, Y = scales()  # noqa: N806
        chosen, given = fit(X, Y), fit(X, Y, **{"data.scaling": "standard"})
        assert (taken(chosen), chosen.metrics_["scaling"]["taken"]) == ("standard", "standard")
        np.testing.assert_array_equal(chosen.decision_function(X), given.decision_function(X))

    def test_few_validation_rows_keep_the_rule(self):
        X, Y = shares()  # noqa: N806
        fitted = fit(X[:300], Y[:300])
        assert (taken(fitted), "scaling" in fitted.metrics_) == ("standard", False)


class TestRuns:
    def test_terminal_report_metrics_and_a_resumed_run(self, tmp_path):
        X, Y = shares()  # noqa: N806
        lines = [f"{ROWS} {FEATURES} {LABELS}"]
        for row, labels in zip(X, Y, strict=True):
            values = " ".join(f"{column}:{row[column]:g}" for column in row.nonzero()[0])
            lines.append(f"{','.join(map(str, labels.nonzero()[0]))} {values}")
        (tmp_path / "train.txt").write_text("\n".join(lines) + "\n")
        options = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={json.dumps(value)}")]
        out = tmp_path / "run"
        ran = CliRunner().invoke(main, ["classify", "fit", str(tmp_path / "train.txt"), "--out", str(out), *options])
        assert ran.exit_code == 0, ran.output
        scaling = json.loads((out / "metrics.json").read_text())["scaling"]
        words = " ".join(scaling_words(scaling).split())
        assert words in " ".join(ran.output.split())
        assert scaling["rule"] == "idf_l2"
        assert scaling["taken"] in scaling["values"]
        page = tmp_path / "page.html"
        assert CliRunner().invoke(main, ["report", str(out), "--out", str(page)]).exit_code == 0
        assert "Scaling of the matrix:" in page.read_text()

    def test_a_run_that_is_resumed_repeats_the_choice(self, tmp_path):
        X, Y = shares()  # noqa: N806
        whole = fit(X, Y, tmp_path / "whole")

        stop = StopAt(3)
        classifier = MultiLabelClassifier(settings=SETTINGS)
        with pytest.raises(KeyboardInterrupt):
            classifier.fit(X, Y, out=tmp_path / "cut", watch=stop)
        resumed = MultiLabelClassifier(settings=SETTINGS).fit(X, Y, out=tmp_path / "cut", resume=True)
        assert resumed.metrics_["scaling"] == whole.metrics_["scaling"]
        assert (tmp_path / "cut" / "features.json").read_bytes() == (tmp_path / "whole" / "features.json").read_bytes()
        np.testing.assert_array_equal(resumed.decision_function(X), whole.decision_function(X))


def test_no_words_for_a_run_of_an_earlier_version():
    assert scaling_words({}) == ""
