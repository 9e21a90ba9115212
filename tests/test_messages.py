"""The words of every message in the source: parameters outside `cli/`, and options only where nothing else fits."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from hyperfocal.cli import main
from hyperfocal.cli.wording import PARAMETER, SETTING, in_options, option_of, options_of
from hyperfocal.config.recipes import flat_settings
from hyperfocal.config.rules import RULES

SOURCE = Path(__file__).parents[1] / "src" / "hyperfocal"
OPTION = re.compile(r"(?<!var\()(?<![\w-])--[a-z{]")  # not the variables of a style sheet
ALLOWED = {  # file or folder -> why its messages may name options
    "config/recipes.py": "reads the values of --set",
    "data/blocks.py": "only `predict` reads a log block by block",
    "export/engine.py": "the service has --engine",
    "grid/": "only the command line trains grids",
    "losses/native.py": "an option of the compiler",
    "recommend/grid.py": "only the command line trains grids",
    "classify/service.py": "the service has --engine",
    "recommend/service.py": "the service has --engine",
    "report/grid_page.py": "only the command line trains grids",
    "report/page.py": "an option of pip",
    "report/tracking.py": "only the command line has trackers",
    "serve/access.py": "the service has --allow-host",
    "serve/server.py": "the service has --connections",
}
PYTHON_ONLY = {  # parameters of functions that no command calls
    *("padding", "sample_weight"),
    *("backend", "reduction", "check_finite", "create_graph", "is_grads_batched", "vectorize"),  # of a loss, of torch
}
COLUMNS = {"user", "item", "order", "text", "labels", "id", "group"}  # what a name that is filled in can be


def messages(path: Path) -> Iterator[str]:
    """Yield each text in a file except docstrings, with {} in place of a value."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


SAID = [(str(path.relative_to(SOURCE)), text) for path in sorted(SOURCE.rglob("*.py")) for text in messages(path)]


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


def test_options_are_named_only_where_the_command_line_alone_can_reach():
    named = {place for place, text in SAID if OPTION.search(text) and not place.startswith("cli/")}
    allowed = {place: next((key for key in ALLOWED if place.startswith(key)), None) for place in named}
    assert [place for place, key in allowed.items() if key is None] == []
    assert set(allowed.values()) == ALLOWED.keys()


def test_every_parameter_in_a_message_is_an_option():
    """Of `fit`, because a command that lacks one names it so; or of the only commands that can raise it."""
    of_fit = {name for command in commands(main) if command.name == "fit" for name in options_of(command)}
    of_others = {name for command in commands(main) for name in options_of(command)} - of_fit
    named = {name for _, text in SAID for name, _ in PARAMETER.findall(text)}
    assert [place for place, text in SAID if "`{}=" in text and not place.startswith("data/")] == []
    named = named - PYTHON_ONLY | COLUMNS
    assert named > {"overwrite", "resume", "valid", "valid_truth", "items", "history", "settings"}
    others = {name for name in named if option_of(name) not in of_fit}
    assert "boost" in others
    assert [name for name in others if option_of(name) not in of_others] == []


def test_every_setting_in_a_message_exists():
    keys = {key for kind in RULES for key in flat_settings(kind())}
    named = {key for _, text in SAID for key, _ in SETTING.findall(text)}
    assert "data.order_kind" in named
    assert named <= keys


def test_no_parameter_is_left_when_the_command_line_speaks():
    """A text with `name=` in it is either a parameter or not for people."""
    left = [text for _, text in SAID if "=`" in in_options(text.replace("{}", "user"), [])]
    assert left == []


@pytest.mark.parametrize(
    ("message", "options", "expected"),
    [
        ("Name it with `user=`.", ["--user"], "Name it with --user."),
        ("Name it with `user=`.", ["--out"], "Name it with `fit --user`."),
        ("give `valid_truth=` too", ["--valid-truth"], "give --valid-truth too"),
        ("a smaller `next_items=`", ["--next"], "a smaller --next"),
        ("again with `overwrite=True`", ["--overwrite"], "again with --overwrite"),
        ("with `model='ease'`", ["--model"], "with --model ease"),
        ("with `history=5`", [], "with `fit --history 5`"),
        ("add `settings={'data.order_kind': 'time'}`: then", ["--set"], "add --set data.order_kind=time: then"),
        ("add `settings={'train.epochs': 5}`", [], "add `fit --set train.epochs=5`"),
        ("Install it with `pip install x==1`, set `OMP_NUM_THREADS=1`", [], None),  # as it is
        ("column 'a=b', text `c d=e f`, `=`, `x=", [], None),
    ],
)
def test_parameters_become_options(message, options, expected):
    assert in_options(message, options) == (expected or message)
