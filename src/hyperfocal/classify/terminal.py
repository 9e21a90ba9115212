"""Terminal output of a classifier, 80 columns wide: its scores, labels and documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from hyperfocal.classify import one_terminal
from hyperfocal.classify.acceptance import COUNTED
from hyperfocal.classify.acceptance import SHOWN as OPINION_NAMES
from hyperfocal.classify.counted_documents import counting_lines
from hyperfocal.classify.one_terminal import (
    applied_prefix,
    calibration_words,
    confusion_report,
    decided_words,
    is_one,
    one_scores_table,
)
from hyperfocal.labels import BUCKETS, HEAD, TAIL
from hyperfocal.report.format import half_width, numbers_table, quantity, share, test_table

RANKING = {
    "macro AP": "macro_ap",
    "micro AP": "micro_ap",
    "P@1": "precision@1",
    "P@5": "precision@5",
    "nDCG@5": "ndcg@5",
    "PSP@1": "psp@1",
    "PSP@5": "psp@5",
}
BASELINES = {"prior": "prior", "knn": "nearest neighbors", "svm": "linear SVM"}
BASELINE_COLUMNS = {
    "macro AP": "macro_ap", "P@1": "precision@1", "micro F1": "tuned.micro_f1", "macro F1": "tuned.macro_f1",
}  # fmt: skip
ONE_BASELINE_COLUMNS = {
    "macro AP": "macro_ap", "P@1": "precision@1", "accuracy": "accuracy", "balanced accuracy": "balanced_accuracy",
}  # fmt: skip
DECISIONS = {"at 0.5": "half", "tuned": "tuned"}
TEST = {
    "macro-F1 at 0.5": "half.macro_f1",
    "macro-F1, tuned": "tuned.macro_f1",
    "micro-F1, tuned": "tuned.micro_f1",
    "macro average precision": "macro_ap",
    **{f"  {bucket}": f"{bucket}_ap" for bucket in BUCKETS},
    "P@1": "precision@1",
    "nDCG@5": "ndcg@5",
}
AVERAGES = ("micro", "macro", "document")
SHOWN = 5  # labels in a list, and names of labels that training never saw
ENOUGH = 10  # true documents, for a label to count among the worst
LONGEST = 25  # columns for a label's name


def scores_report(metrics: Mapping[str, Any], *, title: str, labels: Sequence[Mapping[str, Any]] = ()) -> Group:
    """Return scores under a title, the meaning of the columns, the tiers of a tree, and notable labels.

    Args:
        metrics: `MultiLabelClassifier.metrics_`, or the result of `evaluate`; None counts as nan.
        title: names the documents, as "Validation".
        labels: one row per label, the most frequent first, as `labels_`. (): no labels are shown.
    """
    if is_one(metrics):
        return _one_report(metrics, title, labels)
    parts: list[RenderableType] = [
        Text(f"{title}, {metrics['documents']:,} documents", style="bold"),
        scores_table(metrics),
        Text(_meaning(metrics["values"]), style="dim"),
    ]
    if metrics.get("baselines"):
        parts += [Text(), baselines_table(metrics)]
    if "new" in metrics:
        parts += [Text(), new_labels_table(metrics)]
    if metrics.get("tiers"):
        parts += [Text(), tiers_table(metrics["tiers"])]
    if labels:
        parts += [Text(), labels_table(labels)]
    return Group(*parts)


def _one_report(metrics: Mapping[str, Any], title: str, labels: Sequence[Mapping[str, Any]]) -> Group:
    missing = int(metrics["values"]["tuned.labels_without_truth"] or 0)
    left_out = f" They and macro leave out {missing:,} classes without a document." if missing else ""
    words = (
        "AP: average precision of the probabilities. Each \u00b1 is half a 95% interval. balanced acc.: mean recall. "
        f"head, medium, tail: macro over classes with >= {HEAD}, {TAIL}-{HEAD - 1}, < {TAIL} training documents."
    )
    parts: list[RenderableType] = [
        Text(f"{title}, {metrics['documents']:,} documents", style="bold"),
        one_scores_table(metrics),
        Text(f"{words}{left_out} {decided_words(metrics)} {calibration_words(metrics)}", style="dim"),
    ]
    if metrics.get("baselines"):
        parts += [Text(), baselines_table(metrics)]
    for table in confusion_report(metrics["confusion"]):
        parts += [Text(), table]
    if labels:
        parts += [Text(), labels_table(labels)]
    return Group(*parts)


def _meaning(values: Mapping[str, Any]) -> str:
    missing = int(values["tuned.labels_without_truth"] or 0)
    left_out = f" They and macro leave out {quantity(missing, 'label')} that no document here has." if missing else ""
    return (
        "AP: average precision; PSP: P@k in which rare labels count more. Each ± is half a 95% interval. head, medium, "
        f"tail: macro over labels with >= {HEAD}, {TAIL}-{HEAD - 1}, < {TAIL} training documents.{left_out} "
        f"Calibration error {share(values['calibration_error'])}."
    )


def scores_table(metrics: Mapping[str, Any]) -> Table:
    """Return ranking and decisions, with precision, recall and macro means by frequency of the labels.

    The half width of an interval is shown, not its ends: resamples of documents shift every macro mean a little,
    because the rarest labels are not in all of them.
    """
    table = numbers_table("", "", "score", "95%", "precision", "recall", *BUCKETS)
    values = metrics["values"]
    for place, (title, name) in enumerate(RANKING.items()):
        buckets = [share(values[f"{bucket}_ap"]) for bucket in BUCKETS] if name == "macro_ap" else []
        cells = [share(values[name]), half_width(metrics, name), "", "", *buckets]
        table.add_row("" if place else "ranking", title, *cells)
    for title, prefix in DECISIONS.items():
        _add_decisions(table, metrics, title, prefix)
    return table


def _add_decisions(table: Table, metrics: Mapping[str, Any], title: str, prefix: str) -> None:
    values = metrics["values"]
    for average in AVERAGES:
        stem = f"{prefix}.{average}"
        cells = [share(values[f"{stem}_f1"]), half_width(metrics, f"{stem}_f1")]
        cells += [share(values[f"{stem}_{rate}"]) for rate in ("precision", "recall")]
        if average == "macro":
            cells += [share(values[f"{prefix}.{bucket}_f1"]) for bucket in BUCKETS]
        style = "bold" if (prefix, average) == ("tuned", "macro") else ""
        table.add_row(title if average == AVERAGES[0] else "", f"{average} F1", *cells, style=style)
    table.add_row("", "labels/document", f"{values[f'{prefix}.labels_per_document']:.2f}")


def test_report(scores: Mapping[str, Any]) -> Group:
    """Return the test scores of a grid's winner and baseline, and a line for each oddity of the test documents."""
    lines = holdout_lines(scores["winner"]["data"], "test")
    return test_table(scores, "documents", _test_cells, lines, LONGEST)


def _test_cells(scores: Mapping[str, Any]) -> dict[str, str]:
    values = scores["values"]
    shown = one_terminal.TEST if is_one(scores) else TEST
    return {title: f"{share(values[name]):>5} {half_width(scores, name)}" for title, name in shown.items()}


def opinions_report(opinions: Mapping[str, Any]) -> Group | None:
    """Return what the label texts add; one line if validation refused them; None if the labels have no texts.

    Args:
        opinions: `MultiLabelClassifier.metrics_["opinions"]`.
    """
    if not opinions.get("rows"):
        return None
    words = Text(" ".join(opinions_words(opinions)), style="dim")
    if not opinions["accepted"]:
        return Group(words)
    columns = opinion_columns(opinions["rows"])
    table = numbers_table("", *columns)
    for row in opinions["rows"]:
        style = "bold" if row["scores"] == COUNTED else ""
        table.add_row(row["scores"], *(share(row[name]) for name in columns.values()), style=style)
    return Group(Text("What the label texts add", style="bold"), table, words)


def opinion_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return title -> metric of the columns of a table of opinions."""
    return {title: name for title, name in RANKING.items() if name in rows[0]}


def opinions_words(opinions: Mapping[str, Any]) -> list[str]:
    """Return sentences on whether opinions of label texts count, how much, and for which labels."""
    if not opinions["accepted"]:
        return [
            "Label texts do not count: with them, the scores of validation documents are not better by .002 in both "
            "divisions. Scores are those of the head alone."
        ]
    weights = ", ".join(f"{OPINION_NAMES[name]} {weight:.2f}" for name, weight in opinions["weights"].items())
    words = ["Label texts count. In this table, the weights for each half of the documents come from the other half."]
    words.append(f"The head's logits have the weight 1 in a score, opinions: {weights}.")
    if opinions["limit"] is not None:
        words.append(f"Labels with {opinions['limit']:,} training documents or more have the score of the head alone.")
    return words


def tiers_table(tiers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the F1 of tuned decisions for the labels of each tier of the tree."""
    table = numbers_table("tier", "labels", "micro F1", "macro F1", texts=["tier"])
    for tier, row in tiers.items():
        table.add_row(tier, f"{row['labels']:,}", share(row["micro_f1"]), share(row["macro_f1"]))
    return table


def baselines_table(metrics: Mapping[str, Any]) -> Table:
    """Return the scores of the model and of each baseline on the same documents."""
    columns, rows = baseline_rows(metrics)
    table = numbers_table("model or baseline", *columns, texts=["model or baseline"])
    for name, values in rows.items():
        table.add_row(name, *map(share, values))
    return table


def baseline_rows(metrics: Mapping[str, Any]) -> tuple[list[str], dict[str, list[float]]]:
    """Return the names of the columns of the baselines' table, and name -> values; the first row is the model."""
    columns, rows = BASELINE_COLUMNS, {"this model": metrics["values"], **metrics["baselines"]}
    if all("accuracy" in values for values in metrics["baselines"].values()):  # one label per document
        columns, prefix = ONE_BASELINE_COLUMNS, applied_prefix(metrics)
        own = {name: metrics["values"][f"{prefix}.{name}"] for name in ("accuracy", "balanced_accuracy")}
        rows["this model"] = metrics["values"] | own
    return [*columns], {
        BASELINES.get(name, name): [values[column] for column in columns.values()] for name, values in rows.items()
    }


def new_labels_table(metrics: Mapping[str, Any]) -> Table:
    """Return the scores of the labels of training, and of those that training never saw."""
    table = numbers_table("labels", "number", "true pairs", "macro AP", "recall@10", texts=["labels"])
    for title, name in {"of training": "seen", "new": "new"}.items():
        row = metrics[name]
        scores = ["-" if row[each] is None else share(row[each]) for each in ("macro_ap", "recall@10")]
        table.add_row(title, f"{row['labels']:,}", f"{row['positives']:,}", *scores)
    return table


def labels_table(labels: Sequence[Mapping[str, Any]]) -> Table:
    """Return the most frequent labels, and the worst by F1 of the other labels with enough true documents."""
    columns = ("label", "trained", "true", "decided", "precision", "recall", "F1", "AP")
    table = numbers_table(*columns, texts=["label"])
    table.columns[0].max_width = LONGEST
    known = [row for row in labels[SHOWN:] if row["true_documents"] >= ENOUGH]
    worst = sorted(known, key=lambda row: (row["f1"], row["average_precision"]))[:SHOWN]
    for title, rows in {"most frequent": labels[:SHOWN], f"worst, {ENOUGH} true or more": worst}.items():
        if rows:
            table.add_row(Text(title, style="italic"))
        for row in rows:
            numbers = [f"{row[f'{kind}_documents']:,}" for kind in ("train", "true", "decided")]
            scores = [share(row[name]) for name in ("precision", "recall", "f1", "average_precision")]
            table.add_row(Text("  " + " ".join(str(row["label"]).split())), *numbers, *scores)
    return table


def data_lines(counts: Mapping[str, Any]) -> list[str]:
    """Return a line on the training data and a line for each oddity in them; `counts` is metrics_["data"]."""
    train, valid = counts["train"], None if counts["out_of_fold"] else counts["valid"]
    each = train["positives"] / max(train["documents"], 1)
    scored = "each scored out of fold" if valid is None else quantity(valid["documents"], "validation document")
    documents, labels = quantity(train["documents"], "training document"), quantity(counts["labels"], "label")
    lines = [f"{documents}, {labels}, {each:.1f} per document; {scored}."]
    if everywhere := counts["labels_in_every_document"]:
        lines.append(f"Every training document has {_named(everywhere)}: there is nothing to distinguish.")
    if "single" in counts:
        lines += _single_lines(counts)
    if "update" in counts:
        lines += update_lines(counts["update"])
    if zeros := counts.get("zero_weights"):
        lines.append(f"{quantity(zeros, 'document')} with the weight 0; left out.")
    return lines + holdout_lines(train, "training") + (holdout_lines(valid, "validation") if valid else [])


def _single_lines(counts: Mapping[str, Any]) -> list[str]:
    """Return a line for each oddity of documents with one label each."""
    single, lines = counts["single"], []
    if left_out := single["left_out"]:
        lines.append(f"{quantity(left_out, 'document')} without a label; left out.")
    if rare := single["single_documents"]:
        lines.append(f"{rare:,} of {counts['labels']:,} classes have one training document.")
    return lines


def update_lines(update: Mapping[str, Any]) -> list[str]:
    """Return a line on each fact of an update; `update` is metrics_["data"]["update"]."""
    lines = [
        f"Updated with {quantity(update['documents'], 'document')} and {quantity(update['new_labels'], 'new label')}."
    ]
    if repeated := update["repeated"]:
        lines.append(f"{repeated:,} of these documents have the text of an earlier training document.")
    if not update["held_out"]:
        return [*lines, "None of them were held out: all scores are those before the update."]
    before, after, new = ("-" if row["macro_ap"] is None else share(row["macro_ap"]) for row in _rows_of(update))
    line = f"Macro AP of the earlier labels was {before} before the update and is {after} now"
    held_out = f", on {quantity(update['held_out'], 'held-out document')}."
    lines.append(line + (f"; that of the new labels is {new}" if update["new_labels"] else "") + held_out)
    return [*lines, *(["The head that predicts was then trained on all of them."] if update["refit"] else [])]


def _rows_of(update: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [update[name] for name in ("before", "after", "new")]


def how_decided(out_of_fold: bool, update: Mapping[str, Any] | None = None) -> str:
    """Return a sentence on the documents that decisions were tuned and scored on; `update` as in `update_lines`."""
    if update is not None and update["held_out"] and update["decisions"] == "kept":
        return (
            "Decisions are those before the update, because the held-out documents have few labels; the epoch was "
            "chosen on them."
        )
    if update is not None and update["held_out"]:
        return (
            "Thresholds, or offsets of classes, are means of those before the update and of those tuned on held-out "
            "documents, weighted by the training documents of each label. To score them, they were tuned on one half "
            "and scored on the other, for two divisions; the epoch was chosen on both halves."
        )
    if out_of_fold:
        return (
            "Each document was scored by a head that had not seen it, and decided by thresholds from the other half; "
            "scores of tuned decisions are means over two divisions."
        )
    return (
        "Decisions were tuned on one half of the validation documents and scored on the other, for two divisions; "
        "the epoch was chosen on all of them."
    )


def title_of(counts: Mapping[str, Any]) -> str:
    """Return the title of an evaluation for `scores_report`; `counts` is "data" in the result of `evaluate`."""
    trained = counts.get("training_documents")
    if trained is None:  # unknown
        return "Documents"
    if _all_trained(counts):
        return "Training documents"
    return "Training and test documents" if 2 * trained >= counts["documents"] else "Test"


def _all_trained(counts: Mapping[str, Any]) -> bool:
    """Return whether every document with a text was trained on."""
    trained = counts.get("training_documents") or 0
    return trained > 0 and trained == counts["documents"] - counts["empty_texts"]


def _trained_lines(counts: Mapping[str, Any]) -> list[str]:
    """Return a line on the documents whose text was in training, if there are any."""
    trained, total = counts.get("training_documents") or 0, counts["documents"]
    if _all_trained(counts):
        return ["This is not a test: all texts were in training."]
    share = f"{trained:,} of {quantity(total, 'document')} ({trained / max(total, 1):.1%})"
    return [f"{share} were in training."] if trained else []


def holdout_lines(counts: Mapping[str, Any], name: str) -> list[str]:
    """Return a line for each oddity of the `name` documents; `counts` is "data" in the result of `evaluate`."""
    oddities = {
        "empty_texts": "without text; kept.",
        "without_labels": "without a label; kept as negatives of every label.",
        "duplicate_texts": "with the text of an earlier one; kept. "
        "A group column (`group=`) can keep them together in a split.",
    }
    total = quantity(counts["documents"], f"{name} document")
    lines = _trained_lines(counts)
    lines += [f"{counts[key]:,} of {total} {words}" for key, words in oddities.items() if counts[key]]
    lines += counting_lines(counts, name)
    for field, number in counts.get("unseen_values", {}).items():
        lines.append(f"{number:,} of {total} with a value of {field} that training never saw; it counts as none.")
    if unseen := counts["unseen_labels"]:
        lines.append(
            f"{quantity(len(unseen), 'label')} that training never saw, on {name} documents {sum(unseen.values()):,} "
            f"times; excluded from macro and all other scores: {_named(list(unseen))}."
        )
    return lines


def _named(names: Sequence[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def how_refitted(data: Mapping[str, Any], epochs: int) -> str:
    """Return a note on the head that predicts if it is not the one that was scored; `data` is metrics_["data"]."""
    documents = data["train"]["documents"] + data["valid"]["documents"]
    return (
        "The head that predicts is another one, and the curves do not show it: it was trained from scratch on all "
        f"{documents:,} training and validation documents for {quantity(epochs, 'epoch')}, and has the weights after "
        "the last epoch. All scores and thresholds on this page belong to the first head, because no documents were "
        "left to score the second one."
    )
