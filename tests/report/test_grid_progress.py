import io
import math

import pytest
from rich.console import Console

from hyperfocal.classify.grid_layout import LABEL_LAYOUT
from hyperfocal.config.classify import ClassifySettings
from hyperfocal.report.progress import GridProgress

SETTINGS = ClassifySettings()
VALUES = {"macro_ap": 0.4523, "tuned.macro_f1": 0.3931}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def grid(clock: Clock, total: int = 12, workers: int = 1, *, terminal: bool = False, **options: str) -> GridProgress:
    console = Console(file=io.StringIO(), width=80, force_terminal=terminal)
    options = {"by": "tuned.macro_f1", "layout": LABEL_LAYOUT} | options
    return GridProgress(total, workers, console=console, clock=clock, **options)


def said(progress: GridProgress) -> list[str]:
    return progress._console.file.getvalue().splitlines()


def table(progress: GridProgress) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(progress.table())
    return console.file.getvalue().splitlines()


def test_without_a_terminal_each_point_is_one_plain_line(clock):
    with grid(clock) as progress:
        progress.points_skipped(2)
        progress.point_started("cap_7.0_focal_g3", 0)
        progress.point_finished("cap_7.0_focal_g3", 0, SETTINGS, VALUES, 21.4)
        progress.point_failed("cap_8.0_no_focal", 1, "TrainingError: [/x] nan\nmore")
        progress.point_finished("no_cap_no_focal", 0, SETTINGS, {"macro_ap": math.nan}, 2.34)
    assert said(progress) == [
        "[2/12] 2 ended in an earlier run and are kept",
        "[3/12] cap_7.0_focal_g3 seed 0: macro AP .452, F1 .393 tuned, 21 s",
        "[4/12] cap_8.0_no_focal seed 1: failed: TrainingError: [/x] nan",
        "[5/12] no_cap_no_focal seed 0: macro AP -, F1 - tuned, 2.3 s",
    ]


def test_a_long_line_is_not_broken(clock):
    progress = grid(clock)
    progress.point_failed("x" * 200, 0, "boom")
    assert said(progress) == [f"[1/12] {'x' * 200} seed 0: failed: boom"]


def test_nothing_is_drawn_before_the_first_point(clock):
    with grid(clock, terminal=True) as progress:
        assert said(progress) == []
        progress.point_started("a", 0)
        assert "0 of 12 done, 1 running, 11 to go" in progress._console.file.getvalue()


def test_on_a_terminal_no_lines_are_left(clock):
    with grid(clock, terminal=True) as progress:
        progress.point_started("a", 0)
        progress.point_finished("a", 0, SETTINGS, VALUES, 20.0)
    assert "[1/12]" not in progress._console.file.getvalue()
    assert progress._console.file.getvalue().endswith("\x1b[1A\x1b[2K")  # the last drawing is removed


def test_the_table_shows_what_runs_and_for_how_long(clock):
    progress = grid(clock, workers=2)
    progress.point_started("a", 0)
    clock.now = 61.0
    progress.point_started("b", 1)
    clock.now = 65.4
    assert table(progress) == ["0 of 12 done, 2 running, 10 to go", "     1:05  a seed 0", "     0:04  b seed 1"]


def test_the_table_counts_what_ended(clock):
    progress = grid(clock)
    progress.points_skipped(3)
    progress.point_failed("a", 0, "")
    progress.point_finished("b", 0, SETTINGS, VALUES, 10.0)
    assert table(progress)[0] == "4 of 12 done, 1 failed, 0 running, 7 to go; about 1:10 left"  # 7 x 10 s


def test_time_left_is_shared_by_the_workers(clock):
    progress = grid(clock, total=6, workers=2)
    progress.point_finished("a", 0, SETTINGS, VALUES, 90.0)
    progress.point_finished("b", 0, SETTINGS, VALUES, 110.0)
    progress.point_started("c", 0)
    clock.now = 40.0
    progress.point_started("d", 0)
    assert "about 3:00 left" in table(progress)[0]  # (2 x 100 + 60 + 100) / 2 = 180 s


def test_the_last_point_counts_whole_however_many_workers(clock):
    progress = grid(clock, total=2, workers=8)
    progress.point_finished("a", 0, SETTINGS, VALUES, 3700.0)
    progress.point_started("b", 0)
    assert "about 1:01:40 left" in table(progress)[0]
    clock.now = 9999.0
    assert "about 0:00 left" in table(progress)[0]


def test_the_best_is_that_of_the_means_over_seeds(clock):
    progress = grid(clock)
    progress.point_finished("lucky", 0, SETTINGS, {"tuned.macro_f1": 0.5}, 1.0)
    progress.point_finished("good", 0, SETTINGS, {"tuned.macro_f1": 0.4}, 1.0)
    assert table(progress)[-1] == "best so far: lucky, macro-F1 with tuned thresholds .500"
    progress.point_finished("lucky", 1, SETTINGS, {"tuned.macro_f1": 0.1}, 1.0)
    progress.point_finished("odd", 0, SETTINGS, {"tuned.macro_f1": math.nan}, 1.0)
    assert table(progress)[-1] == "best so far: good, macro-F1 with tuned thresholds .400"  # (.5 + .1) / 2 = .3


def test_the_best_is_by_the_metric_that_chooses(clock):
    progress = grid(clock, by="macro_ap")
    progress.point_finished("a", 0, SETTINGS, VALUES, 1.0)
    assert table(progress)[-1] == "best so far: a, macro average precision .452"


def test_many_workers_and_long_names_keep_the_table_small(clock):
    progress = grid(clock, workers=20)
    for seed in range(11):
        progress.point_started("x" * 100, seed)
    lines = table(progress)
    assert len(lines) == 1 + 8 + 1
    assert lines[-1].strip() == "and 3 more"
    assert max(map(len, lines)) <= 80
