"""Options that several commands share, and the settings that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
SET = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any setting, such as train.epochs=5. Repeatable."
)
RECIPE = click.option("--recipe", type=PATH, help="TOML file of settings, such as those in recipes/.")
TEXT_COLUMNS = (
    click.option("--text", multiple=True, metavar="COLUMN", help="Text column. Repeatable: the texts are joined."),
    click.option(
        "--field",
        "fields",
        multiple=True,
        metavar="COLUMN[:KIND]",
        help="Column beside the text, or in place of a text. KIND is category, list, number or date.  [default: as the "
        "values suggest] Repeatable.",
    ),
    click.option(
        "--vector",
        "vectors",
        multiple=True,
        metavar="COLUMN",
        help="Column of vectors: lists of numbers of one length, such as embeddings of images. Repeatable.",
    ),
    click.option("--labels", help="Column of the labels."),
    click.option("--separator", help="Separator of labels within a field.  [default: one of | ; , or spaces]"),
    click.option("--id", help="Column of the document id.  [default: id]"),
    click.option("--group", help="Column of groups of near-duplicates, which stay on the same side of a split."),
    click.option("--weight", help="Column of weights, 0 or more: how much a document counts, in training and scores."),
    click.option("--unknown", help="Column of labels that nobody annotated: neither right nor wrong, anywhere."),
)
DOCUMENTS = (
    RECIPE,
    *TEXT_COLUMNS,
    click.option(
        "--single",
        is_flag=True,
        help="Each document has exactly one label, as of y in scikit-learn: softmax loss, arg max, probabilities that "
        "sum to 1. A field is then one label, unless it has a | or the --separator.",
    ),
    click.option("--taxonomy", type=PATH, help="TSV file of the label tree: id, parent, name."),
    click.option(
        "--label-texts",
        metavar="names|off|FILE",
        help="Text of each label, which is looked for in the documents: the label itself (names), or a table with the "
        "columns label, name, description. Validation decides how much it counts.  [default: names]",
    ),
    SET,
)
NEW_LABELS = (
    click.option(
        "--new-labels",
        type=PATH,
        help="Labels unseen in training, scored by their texts: a table with label, and name, description or both.",
    ),
    click.option(
        "--new-boost",
        type=float,
        help="Added to the scores of new labels; 1 makes them 2.7 times as likely.  [default: 0]",
    ),
)
LOG_COLUMNS = (
    click.option("--user", help="Column of the user id."),
    click.option("--item", help="Column of the item id."),
    click.option("--order", help="Column of the position or time; none: rows are oldest first."),
)
COLUMNS = (*LOG_COLUMNS, *TEXT_COLUMNS)
LOG = (
    *LOG_COLUMNS,
    click.option(
        "--history",
        type=int,
        help="Most recent items that a model reads; concat_mlp needs exactly as many.  [default: 50]",
    ),
    click.option("--next", "next_items", type=int, help="Number of items to predict.  [default: 3]"),
)
RUN = (
    click.option("--resume", is_flag=True, help="Continue the run in --out where it stopped."),
    click.option("--overwrite", is_flag=True, help="Replace the run in --out."),
)
TRACK = click.option(
    "--track",
    multiple=True,
    type=click.Choice(["mlflow", "tensorboard"]),
    help="Log settings and metrics to MLflow, or to TensorBoard in --out/tensorboard. Repeatable.  [default: none]",
)
BLOCKS = (
    click.option(
        "--block",
        type=click.IntRange(min=1),
        help="Rows to read at a time.  [default: all of them; a suitable number for a large file]",
    ),
    click.option("--resume", is_flag=True, help="Continue after an interruption: predict only what is missing."),
)
SAFE_CSV = click.option(
    "--safe-csv",
    is_flag=True,
    help="Write a single quote before each text cell of a .csv or .tsv that a spreadsheet may run as a formula: one "
    "that begins with =, +, -, @, a tab or a line end, or with a single quote. Such ids then differ from the ids in "
    "the input.",
)
RANKING = (
    click.option("--k", type=int, help="Items per user.  [default: the number the run was trained for]"),
    click.option("--repeats", is_flag=True, help="Allow items that are in the user's history."),
    click.option("--new-items", type=PATH, help="Item table with items unseen in training, scored by their features."),
    click.option(
        "--new-boost", type=float, help="Added to the scores of new items.  [default: items.boost of the run]"
    ),
)
GRID = (
    click.option(
        "--seeds", type=int, help="Trainings per point, each with its own seed.  [default: the recipe's, or 3]"
    ),
    click.option(
        "--workers",
        type=int,
        help="Points trained at a time, in one process each.  [default: 1; with --ray as many as fit on its nodes]",
    ),
    click.option("--ray", metavar="ADDRESS", help="Train on a Ray cluster: HOST:PORT of its head, auto, or local."),
    click.option("--cpus", type=int, help="With --ray: CPUs and threads of each point.  [default: 1]"),
    click.option("--gpus", type=float, help="With --ray: GPUs of each point, such as 1 or 0.5.  [default: 0]"),
    click.option(
        "--search",
        type=click.Choice(["full", "optuna"]),
        default="full",
        show_default=True,
        help="full: train every point of the grid.  optuna: let optuna propose points.",
    ),
    click.option("--trials", type=int, default=30, show_default=True, help="With --search optuna: points to try."),
    click.option("--retry", is_flag=True, help="Train failed points again."),
    TRACK,
)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Return a decorator that adds options to a command, in the order in which --help lists them."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def document_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return dotted key -> value of the given DOCUMENTS options, except the recipe."""
    from hyperfocal.config.recipes import parse_override

    taxonomy = options["taxonomy"]
    columns = {
        "data.text": list(options["text"]) or None,
        "data.fields": list(options["fields"]) or None,
        "data.vectors": list(options["vectors"]) or None,
        "data.labels": options["labels"],
        "data.separator": options["separator"],
        "data.id": options["id"],
        "data.group": options["group"],
        "data.weight": options["weight"],
        "data.unknown": options["unknown"],
        "data.single": options["single"] or None,
        "data.taxonomy": None if taxonomy is None else str(taxonomy),
        "features.label_texts": options["label_texts"],
    }
    return _given(columns) | dict(map(parse_override, options["assignments"]))


def log_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Return dotted key -> value of the given LOG options and --set."""
    from hyperfocal.config.recipes import parse_override

    columns = {f"data.{name}": options[name] for name in ("user", "item", "order", "history")}
    columns["data.next"] = options["next_items"]
    return _given(columns) | dict(map(parse_override, options["assignments"]))


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}
