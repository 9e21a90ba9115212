import json
import shutil

import pytest

from hyperfocal.classify.classifier import MultiLabelClassifier
from hyperfocal.classify.page import DECIDED
from hyperfocal.classify.page import headline as classify_headline
from hyperfocal.classify.terminal import how_refitted
from hyperfocal.cli.report import run_page, write_run_report
from hyperfocal.errors import RunError
from hyperfocal.recommend.page import _headline as recommend_headline
from hyperfocal.recommend.recommender import Recommender
from hyperfocal.report.blocks import Chart, Folded, Page, Paragraph, Table
from report_cases import FAST, NASTY, classify_run, documents, recommend_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {"classify": classify_run(folder / "classify"), "recommend": recommend_run(folder / "recommend")}


@pytest.fixture
def copy(runs, tmp_path):
    """Return a function that copies a run, whose files a test may damage."""

    def made(job):
        shutil.copytree(runs[job], tmp_path / job)
        return tmp_path / job

    return made


def flat(page: Page, kind: type) -> list:
    """Return all blocks of a kind."""
    found, left = [], [block for section in page.sections for block in section.blocks]
    while left:
        block = left.pop(0)
        found += [block] if isinstance(block, kind) else []
        left += block.blocks if isinstance(block, Folded) else []
    return found


def texts(page: Page) -> str:
    return " ".join(block.text for block in flat(page, Paragraph))


def test_a_classifier_has_a_row_for_each_label(runs):
    page = run_page(runs["classify"])
    table = next(each for each in flat(page, Table) if each.title == "Labels")
    kept = json.loads((runs["classify"] / "vocabulary.json").read_text(encoding="utf-8"))
    assert len(table.rows) == 30
    assert {row[0].text for row in table.rows} >= set(NASTY)
    first = dict(zip(table.columns, table.rows[0], strict=True))
    assert first["trained"].value == max(kept["training_documents"])
    assert 0 < first["threshold"].value < 1
    charts = [chart.title for chart in flat(page, Chart)]
    assert charts == [
        "Labels by training documents",
        "Their scores, on the same axis",
        "F1 of frequent and rare labels",
        "F1 by threshold",
        "Reliability",
        "Training loss by epoch",
        "Validation macro_ap by epoch",
    ]


def test_a_recommender_is_listed_with_its_baselines(runs):
    page = run_page(runs["recommend"])
    metrics = json.loads((runs["recommend"] / "metrics.json").read_text())
    table = next(each for each in flat(page, Table) if each.title == "All metrics")
    ranked = [row[1].value for row in table.rows]
    assert {row[0].text for row in table.rows} == set(metrics["scores"])
    assert ranked == sorted(ranked, reverse=True)
    [marked] = table.marked
    assert table.rows[marked][0].text == metrics["model"]
    assert metrics["verdict"]["words"][1:] in page.lead[1]


@pytest.mark.parametrize(
    ("low", "high", "verb"), [(0.1, 0.3, "beats"), (-0.3, -0.1, "loses to"), (-0.1, 0.1, "is not shown to differ from")]
)
def test_the_headline_of_a_recommender_is_its_verdict(low, high, verb):
    verdict = {"baseline": "item_knn", "difference": {"mean": 0.0, "low": low, "high": high}}
    metrics = {"metric": "map@3", "model": "blend", "users": 20, "verdict": verdict}
    assert recommend_headline(metrics) == f"The blend {verb} the best baseline, item knn."
    few = recommend_headline(metrics | {"users": 19})
    assert few == "The blend against the best baseline, item knn: too few users (19) to compare."


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("per_label", "Macro-F1 is .500 by a tuned threshold for each label, .450 at 0.5."),
        ("half", "Macro-F1 is .500 by the threshold 0.5."),
        ("top_k", "Macro-F1 is .500 by taking the best few labels of each document, .450 at 0.5."),
    ],
)
def test_the_headline_of_a_classifier_says_how_it_decides(rule, said):
    intervals = {"half.macro_f1": {"mean": 0.45}, "tuned.macro_f1": {"mean": 0.5}}
    assert classify_headline({"intervals": intervals}, DECIDED[rule]).replace("\u2011", "-") == said


@pytest.mark.parametrize("job", ["classify", "recommend"])
def test_a_run_without_evidence_says_what_is_missing(copy, job):
    folder = copy(job)
    (folder / "evidence.json").unlink()
    page = run_page(folder)
    assert "This run has no evidence.json" in texts(page)
    assert write_run_report(folder).stat().st_size < 3e6


def test_the_page_says_how_many_documents_were_looked_at(copy):
    folder = copy("classify")
    assert "were looked at" not in texts(run_page(folder))
    evidence = json.loads((folder / "evidence.json").read_text())
    number = evidence["documents"]
    (folder / "evidence.json").write_text(json.dumps(evidence | {"confused_documents": 5}))
    assert f"only the first 5 of {number} validation documents were looked at for this." in texts(run_page(folder))


def test_a_setting_that_an_earlier_version_lacked_has_its_default(copy):
    folder = copy("recommend")
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace("dropout = 0.2\n", ""))
    [everything] = [block for block in flat(run_page(folder), Folded) if block.title == "All settings"]
    assert dict(everything.blocks[0].pairs)["model.dropout"] == "0.2"


@pytest.mark.parametrize("refit", [False, True])
def test_the_page_distinguishes_the_head_that_was_scored_from_the_one_that_predicts(tmp_path, refit):
    classifier = MultiLabelClassifier(settings=FAST | {"train.epochs": 4, "train.refit": refit})
    classifier.fit(documents(), out=tmp_path / "run")
    page = run_page(tmp_path / "run")
    [training] = [section for section in page.sections if section.title == "Training"]
    said = [block.text for block in training.blocks if isinstance(block, Paragraph)]
    best = max(classifier.history_, key=lambda row: row["macro_ap"])
    fate = "were scored" if refit else "were saved"
    assert f"The weights after epoch {best['epoch']} {fate}, the best by validation macro_ap" in said[0]
    assert len(said) == 1 + refit
    if refit:
        assert "trained from scratch on all 240 training and validation documents for 4 epochs" in said[1]


def test_a_head_that_was_refitted_for_one_epoch():
    data = {"train": {"documents": 8}, "valid": {"documents": 2}}
    assert "10 training and validation documents for 1 epoch, and has" in how_refitted(data, 1)


def test_a_counting_model_has_no_learning_curve(tmp_path):
    from report_cases import log

    Recommender(model="markov", history=4).fit(log(), out=tmp_path / "run")
    page = run_page(tmp_path / "run")
    assert "Training" not in [section.title for section in page.sections if section.blocks]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.json", "{", "metrics.json is damaged"),
        ("config.toml", "seed = " + "9" * 5_000, "config.toml is damaged"),
        ("metrics.json", "[]", "metrics.json is damaged (it is not a JSON object)"),
        ("metrics.json", '{"data": 3}', "metrics.json is damaged"),
        ("evidence.json", '{"job": "classify"}', "evidence.json is damaged ('thresholds')"),
        ("evidence.json", '{"job": "recommend"}', "evidence.json is damaged (its job is 'recommend'"),
        ("labels.csv", "label\n", "labels.csv is damaged"),
        ("labels.csv", 'a,b\n"', "labels.csv is damaged"),
        ("labels.csv", ("true_documents", ""), "labels.csv is damaged"),
        ("thresholds.json", "{}", "thresholds.json is damaged"),
        ("history.jsonl", "3\n{", "history.jsonl is damaged"),
        ("history.jsonl", "3\n", "history.jsonl is damaged"),
        ("config.toml", "[", "config.toml is damaged"),
        ("data.json", '{"job": "cook"}', "data.json is damaged (its job is 'cook', not classify or recommend)"),
        ("data.json", '{"job": ["classify"]}', "data.json is damaged"),
        ("environment.json", "\x00", "environment.json is damaged"),
    ],
)
def test_a_damaged_run_is_refused(copy, name, content, said):
    folder = copy("classify")
    if isinstance(content, tuple):
        content = (folder / name).read_text().replace(*content)
    (folder / name).write_text(content)
    with pytest.raises(RunError) as error:
        run_page(folder)
    assert said in str(error.value)
    assert "Restore the file or fit again" in str(error.value)


@pytest.mark.parametrize("name", ["metrics.json", "labels.csv", "environment.json", "data.json"])
def test_a_file_that_is_missing_is_named(copy, name):
    folder = copy("classify")
    (folder / name).unlink()
    with pytest.raises(RunError, match=f"{name} is missing"):
        run_page(folder)


def test_a_run_that_is_not_finished(copy):
    folder = copy("classify")
    for name in ("model.safetensors", "manifest.json"):
        (folder / name).unlink()
    with pytest.raises(RunError, match="training has not finished"):
        run_page(folder)


def test_a_report_is_removed_with_the_run(copy):
    folder = copy("classify")
    write_run_report(folder)
    MultiLabelClassifier.load(folder).save(folder, overwrite=True)
    assert not (folder / "report.html").exists()
