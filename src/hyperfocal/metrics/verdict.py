"""Write the verdict on each point of a grid: the few words of the table and the sentence of the report.

A verdict says whether a point differs significantly from the baseline, and in what: in the ranking, in the decisions,
or only because the threshold moved. `LABELS` holds the metrics and words for `classify`, `rankings(k)` for `recommend`.

One metric decides, the primary one. Its test has the level 5%, corrected for the number of points (Holm). The others
are corrected for all of them and all points together, and have the level 5% if the primary metric differs, otherwise
1%. So if nothing differs and the p-values are valid, at most 6% of grids report a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from hyperfocal.errors import ConfigError, did_you_mean
from hyperfocal.metrics.differences import LEVEL, Difference, Outcome, compare_outcomes, holm

ASIDE_LEVEL = 0.01  # of all other metrics together, if the primary metric does not differ
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

    called: Mapping[str, str]  # metric -> its name in sentences
    primary: str  # the metric that decides
    always: tuple[str, ...]  # metrics whose numbers every sentence has; other metrics appear only if they differ
    worded: frozenset[str]  # metrics that `words` knows
    words: Callable[[Signs], str]  # returns the verdict in a few words from the signs of all metrics
    scored: str = "documents"  # units that points are scored on
    digits: int = 3  # after the decimal point

    def decided_by(self, metric: str) -> Families:
        """Return the same families with this primary metric, which comes first in a sentence."""
        called = {metric: self.called.get(metric, metric), **self.called}
        always = tuple(dict.fromkeys((metric, *self.always)))
        return replace(self, called=called, primary=metric, always=always)


@dataclass(frozen=True)
class Verdict:
    """The comparison of one point with the baseline."""

    words: str  # the verdict in a few words, for a table
    sentence: str  # the verdict with its numbers, for the report
    differences: dict[str, Difference]  # metric -> Difference, for each metric of the families
    primary: str = ""  # the metric that decides. "": nothing was tested


def verdicts(
    points: Mapping[str, Sequence[Outcome]],
    baseline: str,
    families: Families | None = None,
    *,
    units: float = math.inf,
    earlier: Sequence[Sequence[Outcome]] = (),
    too_few: str = "",
) -> dict[str, Verdict]:
    """Return the verdict on each point, the baseline included.

    Args:
        points: name -> its outcomes, one per seed.
        baseline: the name of the point that all others are compared with.
        families: the metrics of the verdict. None: `LABELS`.
        units: documents, groups of documents or users that were resampled.
        earlier: outcomes of further points on the same data, which show how much trainings vary.
        too_few: why no difference is reported, such as "too few users (7) to compare". "": differences are reported.

    Raises:
        ConfigError: no point has the baseline's name.
        DataError: from `compare_outcomes`.
    """
    families = families or LABELS
    if baseline not in points:
        hint = did_you_mean(baseline, list(points))
        raise ConfigError(f"baseline '{baseline}': no such point.{hint} There are {', '.join(points) or 'none'}")
    compared = {
        metric: compare_outcomes(points, baseline, metric, units=units, earlier=earlier) for metric in families.called
    }
    others = [name for name in points if name != baseline]
    adjusted = _adjusted(compared, others, families.primary)
    differences = {
        name: {
            metric: replace(each[name], adjusted=1.0 if too_few and each[name].seeds else adjusted[metric, name])
            for metric, each in compared.items()
        }
        for name in others
    }
    own = {metric: replace(each[baseline], adjusted=1.0) for metric, each in compared.items()}
    return {
        name: _of_baseline(name, own, families)
        if name == baseline
        else _of_point(name, differences[name], families, too_few)
        for name in points
    }


def _adjusted(
    compared: Mapping[str, Mapping[str, Difference]], others: Sequence[str], primary: str
) -> dict[tuple[str, str], float]:
    """Return (metric, point) -> corrected p, to compare with LEVEL."""
    deciding = [(primary, name) for name in others]
    beside = [(metric, name) for metric in compared if metric != primary for name in others]
    adjusted: dict[tuple[str, str], float] = {}
    for tests in (deciding, beside):
        adjusted |= zip(tests, holm([compared[metric][name].p for metric, name in tests]), strict=True)
    for metric, name in beside:
        if not adjusted[primary, name] < LEVEL:  # nan: unknown
            adjusted[metric, name] = min(1.0, adjusted[metric, name] * LEVEL / ASIDE_LEVEL)
    return adjusted


def _of_baseline(name: str, own: dict[str, Difference], families: Families) -> Verdict:
    numbers = [f"{families.called[m]} {own[m].ours:.{families.digits}f}" for m in families.always if own[m].seeds]
    return Verdict(BASELINE, f"{name}: {BASELINE}. {_capital(', '.join(numbers) or 'no result')}.", own)


def _of_point(name: str, differences: dict[str, Difference], families: Families, too_few: str) -> Verdict:
    known = [each for each in differences.values() if each.seeds]
    if not known:
        return Verdict(
            NOT_COMPARED, f"{name}: {NOT_COMPARED}. It has no result, or the baseline has none.", differences
        )
    shown = [m for m, each in differences.items() if not math.isnan(each.low) and (m in families.always or each.sign)]
    numbers = [_clause(families, m, differences[m], first=place == 0) for place, m in enumerate(shown)]
    words = too_few or _words(differences, families)
    remarks = "" if too_few else _chance(differences, families) + _repeats(known, words)
    sentence = f"{name}: {words}. {_capital(', '.join(numbers))}.{remarks}"
    return Verdict(words, sentence, differences, "" if too_few else families.primary)


def _words(differences: dict[str, Difference], families: Families) -> str:
    """Return the verdict in a few words; without repeated trainings it is about these trainings only."""
    doubtful = {metric for metric, each in differences.items() if each.sign == 0 and each.p < LEVEL}
    signs = {metric: None if metric in doubtful else each.sign for metric, each in differences.items()}
    words = families.words(signs)
    own = signs.get(families.primary)
    if own and families.primary not in families.worded:
        lead = f"{BETTER[own]} in {families.called[families.primary]}"
        words = lead if words == NOTHING else f"{lead}; {words}"
    if words == NOTHING or any(each.repeated for each in differences.values()):
        return words
    return f"{words.replace('better', 'higher').replace('worse', 'lower')} on these {families.scored}"


def _repeats(known: Sequence[Difference], words: str) -> str:
    """Return a sentence on what is known about the variance from training to training, or ""."""
    if not any(each.repeated for each in known):
        return "" if words == NOTHING else " One training per point cannot show which settings are better."
    if min(each.seeds for each in known) == 1:
        return " A point with one training is assumed to vary as much as the other points."
    return ""


def _clause(families: Families, metric: str, difference: Difference, *, first: bool) -> str:
    """Return one metric's numbers, for example "recall@10 0.2000 against 0.1000 (+100.0%, +90.0 to +110.0%)"."""
    of, digits = "95% interval " if first else "", families.digits
    values = f"{families.called[metric]} {difference.ours:.{digits}f} against {difference.theirs:.{digits}f}"
    if math.isnan(difference.percent.mean):
        mean, low, high = (f"{value:+.{digits}f}" for value in (difference.mean, difference.low, difference.high))
        return f"{values} ({mean}, {of}{low} to {high})"
    mean, low, high = (f"{value:+.1f}" for value in difference.percent)
    return f"{values} ({mean}%, {of}{low} to {high}%)"


def _chance(differences: dict[str, Difference], families: Families) -> str:
    """Return a sentence on the differences that are significant only before the correction, or ""."""
    metrics = " and ".join(families.called[m] for m, each in differences.items() if each.p < LEVEL and each.sign == 0)
    if not metrics:
        return ""
    return f" On its own it would differ significantly in {metrics}; among so many tests this can be chance."


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


LABELS = Families(FAMILIES, "tuned.macro_f1", ALWAYS_SHOWN, frozenset(FAMILIES), in_words)


CLASS_METRICS = {  # metric of one label per document -> its metric in `in_words`
    "argmax.macro_f1": "half.macro_f1",
    "tuned.macro_f1": "tuned.macro_f1",
    "macro_ap": "macro_ap",
    "tail_ap": "tail_ap",
    "tuned.tail_f1": "tuned.tail_f1",
    "tuned.accuracy": "tuned.micro_f1",
}
CLASS_WORDS = {  # words of many labels -> words of one label per document
    THRESHOLD: "only the offsets moved",
    "with tuned thresholds": "with tuned offsets",
    "at 0.5": "by arg max",
    "in micro-F1": "in accuracy",
}


def class_in_words(signs: Signs) -> str:
    """Return the verdict on a point whose documents have one label each, as `in_words` does.

    >>> class_in_words({"macro_ap": 0, "argmax.macro_f1": 1, "tuned.macro_f1": 0})
    'only the offsets moved'
    """
    words = in_words({other: signs[name] for name, other in CLASS_METRICS.items() if name in signs})
    for old, new in CLASS_WORDS.items():
        words = words.replace(old, new)
    return words


CLASSES = Families(
    {
        "argmax.macro_f1": "macro-F1 by arg max",
        "tuned.macro_f1": "macro-F1 with tuned offsets",
        "macro_ap": "macro average precision",
        "tail_ap": "average precision in the tail",
        "tuned.tail_f1": "F1 in the tail with tuned offsets",
        "tuned.accuracy": "accuracy with tuned offsets",
    },
    "macro_ap",
    ("argmax.macro_f1", "tuned.macro_f1", "macro_ap"),
    frozenset(CLASS_METRICS),
    class_in_words,
)


def rankings(k: int) -> Families:
    """Return the families of rankings of k items: map@k, recall@10, and map@k of true items in the tail.

    >>> rankings(3).words({"map@3": 1, "recall@10": 0, "tail.map@3": -1})
    'ranking better, but worse in the tail'
    """
    ranking, tail = f"map@{k}", f"tail.map@{k}"
    called = {ranking: ranking, WIDE: WIDE, tail: f"{ranking} in the tail"}
    words = partial(_ranking_in_words, ranking, tail)
    return Families(called, ranking, (ranking, WIDE), frozenset(called), words, scored="users", digits=4)


def _ranking_in_words(ranking: str, tail: str, signs: Signs) -> str:
    """Return the verdict on a `recommend` point in a few words.

    map@k leads if it differs. A contrary difference in recall@10 and any difference in the tail follow.
    """
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
