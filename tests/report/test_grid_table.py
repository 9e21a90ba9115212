import csv
import io
import json
import math
import re
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console

from hyperfocal.classify.grid_layout import LABEL_LAYOUT
from hyperfocal.errors import RunError
from hyperfocal.metrics.differences import Difference, Outcome
from hyperfocal.metrics.verdict import BASELINE, Verdict, verdicts
from hyperfocal.report.grid_table import GridTable, Row, grid_table, markdown_table, printed_table, write_table

NUMBERS = re.compile(r"[-+±]?\d*\.\d+|\d[\d,]*")


@dataclass(frozen=True)
class Ended:
    name: str
    seed: int = 0
    values: dict[str, float] = field(default_factory=dict)
    seconds: float = 10.0
    error: str = ""


def point(name: str, *f1: float, **values: float) -> list[Ended]:
    return [Ended(name, seed, {"tuned.macro_f1": value, **values}, 10.0 + seed) for seed, value in enumerate(f1)]


def rendered(thing: object, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(thing)
    return console.file.getvalue().splitlines()


METRICS = ("half.macro_f1", "tuned.macro_f1")


def verdict(words: str, change: float, reach: float) -> Verdict:
    difference = Difference(0.2 + change, 0.2, change, change - reach, change + reach, 0.01, 0.02, 1)
    return Verdict(words, f"{words}, in numbers.", dict.fromkeys(METRICS, difference), METRICS[1])


def row(name: str, **changes: object) -> Row:
    means = {"half.macro_f1": 0.3, "tuned.macro_f1": 0.45, "tuned.micro_f1": 0.65, "macro_ap": 0.5}
    means |= {"head_ap": 0.7, "medium_ap": 0.6, "tail_ap": math.nan}
    plain = {"winner": False, "baseline": False, "seeds": 1, "errors": {}, "means": means, "spreads": {}}
    return Row(name, **(plain | {"seconds": 21.4, "verdict": verdict("ranking better", 0.1, 0.02)} | changes))


def table(rows: list[Row]) -> GridTable:
    return GridTable(rows, "tuned.macro_f1", LABEL_LAYOUT)


def rows_of(results: dict, failed: list, verdicts: dict, baseline: str, winner: str) -> list[Row]:
    """Return the rows of a grid that has these results."""
    grid = {"results": results, "failed": failed, "verdicts": verdicts, "baseline": baseline, "winner": winner}
    return grid_table(SimpleNamespace(**grid, by="tuned.macro_f1"), LABEL_LAYOUT).rows


def three_points() -> list[Row]:
    """Return the best point, the baseline and a point that failed."""
    return [
        row("cap_7.0_focal_g3", winner=True),
        row("no_cap_no_focal", baseline=True, seconds=1801.0, verdict=verdict(BASELINE, 0.0, 0.0)),
        row("cap_6|g2", seeds=0, errors={0: "boom [/x]\nmore"}, means={}, seconds=math.nan, verdict=None),
    ]


def test_rows_are_best_first_then_those_without_a_value_then_failed_ones():
    results = {"nan": point("nan", math.nan), "low": point("low", 0.1), "high": point("high", 0.2)}
    rows = rows_of(results, [Ended("gone", error="boom"), Ended("low", 1, error="bang")], {}, "low", "high")
    assert [each.configuration for each in rows] == ["high", "low", "nan", "gone"]
    assert [(each.winner, each.baseline) for each in rows[:2]] == [(True, False), (False, True)]
    assert [each.errors for each in rows] == [{}, {1: "bang"}, {}, {0: "boom"}]
    assert [each.words for each in rows[2:]] == ["not compared", "failed"]


def test_a_row_holds_mean_and_spread_over_seeds():
    found = rows_of({"a": point("a", 0.1, 0.3), "b": point("b", 0.15)}, [], {}, "a", "b")
    several, one = found
    assert (several.seeds, several.means["tuned.macro_f1"], several.seconds) == (2, pytest.approx(0.2), 10.5)
    assert several.spreads["tuned.macro_f1"] == pytest.approx(math.sqrt(0.1**2 + 0.1**2))  # n - 1 = 1
    assert math.isnan(one.spreads["tuned.macro_f1"])


def test_the_printed_table():
    lines = [line.rstrip() for line in rendered(printed_table(table(three_points())))]
    assert lines[:7] == [
        "3 points, best first by macro-F1 with tuned thresholds",
        "",
        "                   F1 at      change    F1 micro macro head med. tail  time",
        "  configuration      0.5        in % tuned tuned    AP   AP   AP   AP     s",
        "* cap_7.0_focal_g3  .300 +50.0 ±10.0  .450  .650  .500 .700 .600    -    21",
        "  no_cap_no_focal   .300    baseline  .450  .650  .500 .700 .600    - 1,801",
        "  cap_6|g2             -           -     -     -     -    -    -    -     -",
    ]
    assert lines[lines.index("ranking better:") + 1] == "    cap_7.0_focal_g3"
    assert lines[-1] == "Failed: cap_6|g2 seed 0: boom [/x]"
    assert any("The metric that decides is macro-F1 with tuned thresholds: it is tested" in line for line in lines)
    assert any("With one training of each point, a difference" in line for line in lines)


def test_the_title_of_a_single_point():
    assert table([row("a")]).title == "1 point, best first by macro-F1 with tuned thresholds"


def test_several_seeds_are_mentioned_and_add_a_column_of_their_spread():
    spread = {"tuned.macro_f1": 0.00123}
    several = verdict("ranking better", 0.1, 0.02)
    several = replace(several, differences={m: replace(d, repeated=True) for m, d in several.differences.items()})
    rows = [row("a", seeds=3, spreads=spread, verdict=several)]
    rows.append(row("b", seeds=2, spreads=spread, errors={1: "boom"}))
    text = "\n".join(rendered(printed_table(table(rows))))
    assert "2 points, 3 seeds each, best first" in text
    assert ".0012" in text
    assert "Cannot win because seeds are missing: b (2 of 3 seeds)." in text
    assert "With one training" not in text


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "cap_7.0_focal_g3",
        "loss.gamma=2 head.width=256",
        "train.sparse_learning_rate=500 head.width=256 loss.name=asymmetric",
        "head.dropout=0.123456789012345 train.learning_rate=0.0123456789",
        "x" * 70,
        "猫" * 30,
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_no_table_is_wider_than_80_and_no_number_is_broken(name, seeds):
    big = verdict("better with tuned thresholds, and better in the tail and in micro-F1, but worse at 0.5", 9.9, 1.5)
    rows = [row(name, seeds=seeds, verdict=big, seconds=36_000.0, spreads={"tuned.macro_f1": 0.1})]
    lines = rendered(printed_table(table([*rows, row("b", baseline=True, seeds=seeds)])))
    assert max(map(cell_len, lines)) <= 80
    assert not any("…" in line for line in lines)
    assert any("+4950.0 ±750.0  .450" in line for line in lines)  # 9.9 / .2, 1.5 / .2
    wide = NUMBERS.findall("\n".join(rendered(printed_table(table(rows)), width=1000)))
    if len(name) < 70:  # a single word of 70 has to be broken
        assert set(NUMBERS.findall("\n".join(rendered(printed_table(table(rows)))))) == set(wide)


def test_a_narrow_table_leaves_out_optional_columns_first():
    head = rendered(printed_table(table([row("x" * 40), row("b", baseline=True)])))[3]
    assert head.split() == ["configuration", "0.5", "in", "%", "tuned", "AP", "AP"]  # F1, change, F1, macro, tail


def test_markdown_of_a_small_grid():
    assert markdown_table(table(three_points())).splitlines()[:9] == [
        "3 points, best first by macro-F1 with tuned thresholds.",
        "",
        "| configuration          | seeds | F1 at 0.5 |            change in % | F1 tuned | micro tuned | macro AP "
        "| head AP | med. AP | tail AP | time s | verdict        |",
        "| :--------------------- | ----: | --------: | ---------------------: | -------: | ----------: | -------: "
        "| ------: | ------: | ------: | -----: | :------------- |",
        "| **cap_7.0_focal_g3** ★ |     1 |      .300 | +50.0 (+40.0 to +60.0) |     .450 |        .650 |     .500 "
        "|    .700 |    .600 |       - |     21 | ranking better |",
        "| no_cap_no_focal        |     1 |      .300 |               baseline |     .450 |        .650 |     .500 "
        "|    .700 |    .600 |       - |  1,801 | the baseline   |",
        "| cap_6\\|g2              |     0 |         - |                      - |        - |           - |        - "
        "|       - |       - |       - |      - | failed         |",
        "",
        "★: the winner; F1: macro-F1; change: of F1 at 0.5 against no_cap_no_focal, with its 95% interval; "
        "AP: average precision; time: of one training.",
    ]


def test_json_and_csv_hold_every_metric_in_full_precision(tmp_path):
    value = 0.1 + 0.2
    rows = [row("a", winner=True, means={"tuned.macro_f1": value, "ndcg@5": 1 / 3}), *three_points()[1:]]
    write_table(table(rows), tmp_path)
    records = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert [record["configuration"] for record in records] == ["a", "no_cap_no_focal", "cap_6|g2"]
    assert (records[0]["tuned.macro_f1"], records[0]["ndcg@5"]) == (value, 1 / 3)
    assert records[0]["half.macro_f1.change_percent"] == pytest.approx(50)
    assert records[0]["half.macro_f1.adjusted_p"] == 0.02
    assert (records[1]["tail_ap"], records[1]["ndcg@5"], records[2]["seconds"]) == (None, None, None)
    assert records[2]["errors"] == "seed 0: boom [/x]"
    with (tmp_path / "table.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == list(records[0])
    assert float(lines[0]["tuned.macro_f1"]) == value
    assert [line["winner"] for line in lines] == ["true", "false", "false"]
    assert lines[2]["tuned.macro_f1"] == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["table.csv", "table.json", "table.md"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        write_table(table(three_points()), tmp_path / "file")


def test_a_grid_of_real_verdicts_becomes_a_table():
    generator, results = torch.Generator().manual_seed(0), {}
    metrics = ("half.macro_f1", "tuned.macro_f1", "macro_ap", "tail_ap", "tuned.tail_f1", "tuned.micro_f1")
    for place, name in enumerate(("no_cap_no_focal", "cap_7.0_focal_g3")):
        results[name] = [Ended(name, seed, dict.fromkeys(metrics, 0.4 + place / 10)) for seed in range(2)]
    noise = torch.randn(100, generator=generator) / 100
    outcomes = {
        name: [Outcome(each.seed, each.values, {m: v + noise for m, v in each.values.items()}) for each in ended]
        for name, ended in results.items()
    }
    best = "cap_7.0_focal_g3"
    rows = rows_of(results, [], verdicts(outcomes, "no_cap_no_focal"), "no_cap_no_focal", best)
    line = next(line for line in rendered(printed_table(table(rows))) if line.startswith("*"))
    assert line.split()[:5] == ["*", "cap_7.0_focal_g3", ".500", "+25.0", "±0.0"]  # .5 / .4, the same noise in both
