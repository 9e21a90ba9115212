"""A small part of `benchmarks/verdict_calibration.py`, with bounds that the verdict of the third step breaks."""

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@cache
def program():
    path = Path(__file__).parents[2] / "benchmarks" / "verdict_calibration.py"
    spec = spec_from_file_location("verdict_calibration", path)
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def measured(grids, **cell):
    """Return number of seeds -> column -> share."""
    drawn = program().Cell(**cell)
    return {
        seeds: dict(zip(program().COLUMNS[-6:], program().shares(rows, drawn, seeds), strict=True))
        for seeds, rows in program().simulate(drawn, grids, 0).items()
    }


def test_one_seed_rarely_has_a_false_word_and_never_one_about_settings():
    with_variance = measured(200, job="rankings", units=50, seed_sd=0.2, seeds=(1,))[1]
    without = measured(200, job="rankings", units=20, seeds=(1,))[1]
    assert without["any word"] <= 0.10
    assert with_variance["better"] == without["better"] == 0


def test_intervals_hold_the_difference_of_settings_that_vary_from_training_to_training():
    rows = measured(200, job="rankings", units=1_000, seed_sd=0.2, seeds=(2, 3))
    assert all(0.91 <= row["coverage"] <= 0.99 and row["any word"] <= 0.12 for row in rows.values())


def test_more_seeds_show_more():
    rows = measured(200, job="rankings", units=50, gain=0.08, seeds=(2, 3, 5))
    assert rows[3]["higher"] > 0.38
    assert rows[2]["higher"] < rows[3]["higher"] < rows[5]["higher"]


def test_tuned_thresholds_do_not_make_the_words_too_sure():
    row = measured(100, job="labels", units=100, seeds=(1,))[1]
    assert row["any word"] <= 0.14
    assert row["p < .05"] <= 0.14
