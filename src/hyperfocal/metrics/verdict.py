"""Write the verdict on each point of a grid: the few words of the table and the sentence of the report.

A verdict says whether a point differs significantly from the baseline, and in what: in the ranking, in the decisions,
or only because the threshold moved. `LABELS` holds the metrics and words for `classify`, `rankings(k)` for `recommend`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from hyperfocal.errors import ConfigError, did_you_mean
from hyperfocal.metrics.differences import LEVEL, Difference, Outcome, compare_outcomes, holm, pooled_spread

FAMILIES = {  # metric -> its name in sentences
    "half.macro_f1": "macro-F1 at 0.5",
    "tuned.macro_f1": "macro-F1 with tuned thresholds",
    "macro_ap": "macro average precision",
    "tail_ap": "average precision in the tail",
    "tuned.tail_f1": "F1 in the tail with tuned thresholds",
    "tuned.micro_f1": "micro-F1 with tuned thresholds",
}
ALWAYS_SHOWN = ("half.macro_f1", "tuned.macro_f1", "macro_ap")
WIDE = "recall@10"
NOTHING = "no difference that this data can show"
THRESHOLD = "only the threshold moved"
BASELINE = "the baseline"
NOT_COMPARED = "not compared"
BETTER = {1: "better", -1: "worse"}
Signs = Mapping[str, int | None]
"""Metric -> 1 significantly better, -1 significantly worse, 0 not significant, None not known."""


@dataclass(frozen=True)
class Families:
    """The metrics of a verdict."""

    called: Mapping[str, str]  # metric -> its name in sentences. Each metric is a separate family of tests
    always: tuple[str, ...]  # metrics whose numbers every sentence has; other metrics appear only if they differ
    words: Callable[[Signs], str]  # returns the verdict in a few words from the signs of all metrics
    digits: int = 3  # after the decimal point


@dataclass(frozen=True)
class Verdict:
    """The comparison of one point with the baseline."""

    words: str  # the verdict in a few words, for a table
    sentence: str  # the verdict with its numbers, for the report
    differences: dict[str, Difference]  # metric -> Difference, for each metric of the families


def verdicts(
    points: dict[str, list[Outcome]], baseline: str, families: Families | None = None, *, too_few: str = ""
) -> dict[str, Verdict]:
    """Return the verdict on each point, the baseline included.

    The p-values of each metric are corrected for the number of points that have it, the baseline excluded. With several
    seeds, a point counts as varying from seed to seed at least as much as the grid's points do on average: of many
    points with three seeds each, some agree by chance, and one grid in five would claim too much.

    Args:
        points: name -> its outcomes, one per seed.
        baseline: the name of the point that all others are compared with.
        families: the metrics of the verdict. None: `LABELS`.
        too_few: why no difference is reported, such as "too few users (7) to compare". "": differences are reported.

    Raises:
        ConfigError: no point has the baseline's name.
        DataError: from `compare_outcomes`.
    """
    families = families or LABELS
    if baseline not in points:
        hint = did_you_mean(baseline, list(points))
        raise ConfigError(f"baseline '{baseline}': no such point.{hint} There are {', '.join(points) or 'none'}")
    others = [name for name in points if name != baseline]
    differences: dict[str, dict[str, Difference]] = {name: {} for name in others}
    for metric in families.called:
        spread = pooled_spread([points[name] for name in others], points[baseline], metric)
        raw = [compare_outcomes(points[name], points[baseline], metric, spread=spread) for name in others]
        for name, difference, p in zip(others, raw, holm([each.p for each in raw]), strict=True):
            differences[name][metric] = replace(difference, adjusted=1.0 if too_few and difference.seeds else p)
    return {
        name: _of_baseline(name, outcomes, families)
        if name == baseline
        else _of_point(name, differences[name], len(others), families, too_few)
        for name, outcomes in points.items()
    }


def _of_baseline(name: str, outcomes: list[Outcome], families: Families) -> Verdict:
    own = {metric: replace(compare_outcomes(outcomes, outcomes, metric), adjusted=1.0) for metric in families.called}
    numbers = [f"{families.called[m]} {own[m].ours:.{families.digits}f}" for m in families.always if own[m].seeds]
    return Verdict(BASELINE, f"{name}: {BASELINE}. {_capital(', '.join(numbers) or 'no result')}.", own)


def _of_point(name: str, differences: dict[str, Difference], number: int, families: Families, too_few: str) -> Verdict:
    words = families.words({metric: difference.sign for metric, difference in differences.items()})
    if words == NOT_COMPARED:
        return Verdict(words, f"{name}: {words}. It has no result with a seed that the baseline has too.", differences)
    shown = [m for m, each in differences.items() if each.seeds and (m in families.always or each.sign)]
    numbers = [_clause(families, m, differences[m], first=place == 0) for place, m in enumerate(shown)]
    words, chance = (too_few, "") if too_few else (words, _chance(differences, number, families))
    return Verdict(words, f"{name}: {words}. {_capital(', '.join(numbers))}.{chance}", differences)


def _clause(families: Families, metric: str, difference: Difference, *, first: bool) -> str:
    """Return one metric's numbers, for example "recall@10 0.2000 against 0.1000 (+100.0%, +90.0 to +110.0%)"."""
    of, digits = "95% interval " if first else "", families.digits
    values = f"{families.called[metric]} {difference.ours:.{digits}f} against {difference.theirs:.{digits}f}"
    if math.isnan(difference.percent.mean):
        mean, low, high = (f"{value:+.{digits}f}" for value in (difference.mean, difference.low, difference.high))
        return f"{values} ({mean}, {of}{low} to {high})"
    mean, low, high = (f"{value:+.1f}" for value in difference.percent)
    return f"{values} ({mean}%, {of}{low} to {high}%)"


def _chance(differences: dict[str, Difference], number: int, families: Families) -> str:
    """Return a sentence on the differences that are significant only before the correction, or ""."""
    metrics = " and ".join(families.called[m] for m, each in differences.items() if each.p < LEVEL and each.sign == 0)
    if not metrics:
        return ""
    return f" On its own it would differ significantly in {metrics}; among {number} points this can be chance."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def in_words(signs: Signs) -> str:
    """Return the verdict on a `classify` point in a few words.

    The first of these that differs leads: the ranking (macro_ap); macro-F1 with tuned thresholds; macro-F1 at 0.5,
    which reads "only the threshold moved" if the first two are known not to differ. Other metrics that agree or
    disagree with the lead follow, so that no loss hides behind a gain: "ranking better, but worse in the tail".

    >>> in_words({"macro_ap": 0, "half.macro_f1": 1, "tuned.macro_f1": 0})
    'only the threshold moved'
    """
    if all(sign is None for sign in signs.values()):
        return NOT_COMPARED
    lead, direction = _lead(signs.get("macro_ap"), signs.get("half.macro_f1"), signs.get("tuned.macro_f1"))
    return _phrase(lead, direction, _asides(signs, direction))


def _lead(ranking: int | None, half: int | None, tuned: int | None) -> tuple[str, int]:
    """Return the words that come first and their direction: 1, -1, or 0 for none."""
    if ranking:
        return f"ranking {BETTER[ranking]}", ranking
    if tuned:
        return f"{BETTER[tuned]} with tuned thresholds", tuned
    if half and ranking == 0 and tuned == 0:
        return THRESHOLD, 0
    return (f"{BETTER[half]} at 0.5", half) if half else ("", 0)


def _asides(signs: Signs, direction: int) -> dict[str, int]:
    """Return place -> direction of each difference to mention after the lead."""
    tail = [signs.get("tail_ap") or 0, signs.get("tuned.tail_f1") or 0]
    contrary = {"with tuned thresholds": signs.get("tuned.macro_f1"), "at 0.5": signs.get("half.macro_f1")}
    asides = {place: -direction for place, sign in contrary.items() if direction and sign == -direction}
    if any(tail):
        asides["in the tail"] = -1 if -1 in tail else 1
    micro = signs.get("tuned.micro_f1")
    return asides | ({"in micro-F1": micro} if micro and micro != direction else {})


LABELS = Families(FAMILIES, ALWAYS_SHOWN, in_words)


def rankings(k: int) -> Families:
    """Return the families of rankings of k items: map@k, recall@10, and map@k of true items in the tail.

    >>> rankings(3).words({"map@3": 1, "recall@10": 0, "tail.map@3": -1})
    'ranking better, but worse in the tail'
    """
    ranking, tail = f"map@{k}", f"tail.map@{k}"
    called = {ranking: ranking, WIDE: WIDE, tail: f"{ranking} in the tail"}
    return Families(called, (ranking, WIDE), partial(_ranking_in_words, ranking, tail), digits=4)


def _ranking_in_words(ranking: str, tail: str, signs: Signs) -> str:
    """Return the verdict on a `recommend` point in a few words.

    map@k leads if it differs. A contrary difference in recall@10 and any difference in the tail follow.
    """
    if all(sign is None for sign in signs.values()):
        return NOT_COMPARED
    direction, wide = signs.get(ranking) or 0, signs.get(WIDE) or 0
    lead = f"ranking {BETTER[direction]}" if direction else ""
    asides = {f"in {WIDE}": 0 if wide == direction else wide, "in the tail": signs.get(tail) or 0}
    return _phrase(lead, direction, {place: sign for place, sign in asides.items() if sign})


def _phrase(lead: str, direction: int, asides: Mapping[str, int]) -> str:
    """Return the lead and then the asides: "ranking better, and better here, but worse there"."""
    places = {sign: " and ".join(place for place, other in asides.items() if other == sign) for sign in (1, -1)}
    agreeing = f"and {BETTER[direction]} {places[direction]}" if places.get(direction) else ""
    contrary = " and ".join(f"{BETTER[sign]} {names}" for sign, names in places.items() if names and sign != direction)
    clauses = [lead, agreeing, f"but {contrary}" if lead and contrary else contrary]
    return ", ".join(filter(None, clauses)) or NOTHING
