"""Which points of a grid differ from the baseline beyond chance, and in what: the ranking, or only the threshold.

The verdict of a grid on rankings: whether the whole ranking is better, and at whose cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from hyperfocal.errors import ConfigError, did_you_mean
from hyperfocal.metrics.differences import LEVEL, Difference, Outcome, holm, paired, pooled_spread

FAMILIES = {  # metric -> what it is called; each is corrected by itself
    "half.macro_f1": "macro-F1 at 0.5",
    "tuned.macro_f1": "macro-F1 with tuned thresholds",
    "macro_ap": "macro average precision",
    "tail_ap": "average precision in the tail",
    "tuned.tail_f1": "F1 in the tail with tuned thresholds",
    "tuned.micro_f1": "micro-F1 with tuned thresholds",
}
ALWAYS_SHOWN = ("half.macro_f1", "tuned.macro_f1", "macro_ap")
NOTHING = "no difference that this data can show"
THRESHOLD = "only the threshold moved"
BASELINE = "the baseline"
NOT_COMPARED = "not compared"
BETTER = {1: "better", -1: "worse"}


@dataclass(frozen=True)
class Families:
    """What a verdict looks at.

    Attributes:
        called: metric -> what it is called; each is corrected by itself.
        always: metrics whose numbers every sentence has; the others only where they differ.
        words: metric -> 1 better, -1 worse, 0 no difference shown, None not known; returns the verdict in a few words.
        digits: after the point.
    """

    called: Mapping[str, str]
    always: tuple[str, ...]
    words: Callable[[dict[str, int | None]], str]
    digits: int = 3


@dataclass(frozen=True)
class Verdict:
    """How one point compares with the baseline.

    Attributes:
        words: the verdict in a few words, for a table.
        sentence: the same with its numbers.
        differences: metric -> Difference, for each metric of the families.
    """

    words: str
    sentence: str
    differences: dict[str, Difference]


def verdicts(
    points: dict[str, list[Outcome]], baseline: str, families: Families | None = None, *, untold: str = ""
) -> dict[str, Verdict]:
    """Return what can be said of each point, in words and numbers; the baseline has a verdict too.

    Each family is corrected by itself for the points that have it, the baseline not counted. With several seeds a
    point counts as varying from seed to seed at least as the grid's points do on average: of many points with
    three seeds each, some agree by chance, and alone would make one grid in five claim too much.

    Args:
        points: name -> its outcomes, one a seed.
        baseline: the name of the point that all others are compared with.
        families: the metrics that count; None is LABELS.
        untold: why no difference is told, as "too few users (7) to tell"; "" where it is.

    Raises:
        ConfigError: no point has the baseline's name.
        DataError: as in `paired`.
    """
    families = families or LABELS
    if baseline not in points:
        hint = did_you_mean(baseline, list(points))
        raise ConfigError(f"baseline '{baseline}': no such point.{hint} There are {', '.join(points) or 'none'}")
    others = [name for name in points if name != baseline]
    found: dict[str, dict[str, Difference]] = {name: {} for name in others}
    for metric in families.called:
        spread = pooled_spread([points[name] for name in others], points[baseline], metric)
        differences = [paired(points[name], points[baseline], metric, spread=spread) for name in others]
        for name, difference, p in zip(others, differences, holm([each.p for each in differences]), strict=True):
            found[name][metric] = replace(difference, adjusted=1.0 if untold and difference.seeds else p)
    against = {name: _verdict(name, differences, len(others), families, untold) for name, differences in found.items()}
    return {
        name: against[name] if name in against else _of_baseline(name, outcomes, families)
        for name, outcomes in points.items()
    }


def _of_baseline(name: str, outcomes: list[Outcome], families: Families) -> Verdict:
    itself = {metric: replace(paired(outcomes, outcomes, metric), adjusted=1.0) for metric in families.called}
    shown = [f"{families.called[m]} {itself[m].ours:.{families.digits}f}" for m in families.always if itself[m].seeds]
    return Verdict(BASELINE, f"{name}: {BASELINE}. {_capital(', '.join(shown) or 'no result')}.", itself)


def _verdict(name: str, differences: dict[str, Difference], number: int, families: Families, untold: str) -> Verdict:
    words = families.words({metric: difference.sign for metric, difference in differences.items()})
    if words == NOT_COMPARED:
        return Verdict(words, f"{name}: {words}. It has no result with a seed that the baseline has too.", differences)
    shown = [m for m, each in differences.items() if each.seeds and (m in families.always or each.sign)]
    numbers = [_clause(families, m, differences[m], first=place == 0) for place, m in enumerate(shown)]
    words, chance = (untold, "") if untold else (words, _chance(differences, number, families))
    return Verdict(words, f"{name}: {words}. {_capital(', '.join(numbers))}.{chance}", differences)


def _clause(families: Families, metric: str, found: Difference, *, first: bool) -> str:
    of, digits = "95% interval " if first else "", families.digits
    values = f"{families.called[metric]} {found.ours:.{digits}f} against {found.theirs:.{digits}f}"
    if math.isnan(found.percent.mean):
        return f"{values} ({found.mean:+.{digits}f}, {of}{found.low:+.{digits}f} to {found.high:+.{digits}f})"
    mean, low, high = found.percent
    return f"{values} ({mean:+.1f}%, {of}{low:+.1f} to {high:+.1f}%)"


def _chance(differences: dict[str, Difference], number: int, families: Families) -> str:
    """Return a sentence on the differences that the correction took back, or ""."""
    taken = [families.called[m] for m, each in differences.items() if each.p < LEVEL and each.sign == 0]
    if not taken:
        return ""
    return f" Alone it would count as a difference in {' and '.join(taken)}; among {number} points chance does as much."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def in_words(signs: dict[str, int | None]) -> str:
    """Return the verdict in a few words.

    The first that holds leads: the ranking (macro_ap) differs; macro-F1 with tuned thresholds does; macro-F1 at
    0.5 does, which is "only the threshold moved" where the two before are known not to. What agrees or disagrees
    with it elsewhere follows, so that no loss hides behind a gain: "ranking better, but worse in the tail".

    Args:
        signs: metric of FAMILIES -> 1 better, -1 worse, 0 no difference shown, None not known.

    >>> in_words({"macro_ap": 0, "half.macro_f1": 1, "tuned.macro_f1": 0})
    'only the threshold moved'
    """
    if all(sign is None for sign in signs.values()):
        return NOT_COMPARED
    lead, direction = _lead(signs.get("macro_ap"), signs.get("half.macro_f1"), signs.get("tuned.macro_f1"))
    return phrase(lead, direction, _asides(signs, direction))


def phrase(lead: str, direction: int, asides: Mapping[str, int]) -> str:
    """Return "ranking better, and better here, but worse there" from the lead and what stands beside it.

    Args:
        lead: the words that come first, or "".
        direction: of the lead: 1, -1, or 0 for none.
        asides: place, as "in the tail" -> 1 or -1.
    """
    agree = " and ".join(place for place, sign in asides.items() if sign == direction)
    parts = [lead, f"and {BETTER[direction]} {agree}" if agree else "", _contrary(asides, direction, bool(lead))]
    return ", ".join(filter(None, parts)) or NOTHING


def _lead(ranking: int | None, half: int | None, tuned: int | None) -> tuple[str, int]:
    """Return the words that come first and their direction: 1, -1, or 0 for none."""
    if ranking:
        return f"ranking {BETTER[ranking]}", ranking
    if tuned:
        return f"{BETTER[tuned]} with tuned thresholds", tuned
    if half and ranking == 0 and tuned == 0:
        return THRESHOLD, 0
    return (f"{BETTER[half]} at 0.5", half) if half else ("", 0)


def _asides(signs: dict[str, int | None], direction: int) -> dict[str, int]:
    """Return place -> direction of what is worth a word beside the lead."""
    tail = [signs.get("tail_ap") or 0, signs.get("tuned.tail_f1") or 0]
    contrary = {"with tuned thresholds": signs.get("tuned.macro_f1"), "at 0.5": signs.get("half.macro_f1")}
    asides = {place: -direction for place, sign in contrary.items() if direction and sign == -direction}
    if any(tail):
        asides["in the tail"] = -1 if -1 in tail else 1
    micro = signs.get("tuned.micro_f1")
    return asides | ({"in micro-F1": micro} if micro and micro != direction else {})


def _contrary(asides: Mapping[str, int], direction: int, led: bool) -> str:
    """Return "but worse in the tail" from what goes another way than the lead."""
    ways = []
    for sign in (1, -1):
        places = " and ".join(place for place, other in asides.items() if other == sign != direction)
        ways += [f"{BETTER[sign]} {places}"] if places else []
    return ("but " if ways and led else "") + " and ".join(ways)


LABELS = Families(FAMILIES, ALWAYS_SHOWN, in_words)


WIDE = "recall@10"


def rankings(k: int) -> Families:
    """Return the families of rankings of k items: map@k, recall@10, and map@k of true items in the tail.

    >>> rankings(3).words({"map@3": 1, "recall@10": 0, "tail.map@3": -1})
    'ranking better, but worse in the tail'
    """
    ranking, tail = f"map@{k}", f"tail.map@{k}"
    called = {ranking: ranking, WIDE: WIDE, tail: f"{ranking} in the tail"}
    return Families(called, (ranking, WIDE), partial(_in_words, ranking, tail), digits=4)


def _in_words(ranking: str, tail: str, signs: dict[str, int | None]) -> str:
    """Return the verdict in a few words.

    map@k leads where it differs; what disagrees with it in recall@10, and what differs in the tail, follows.
    """
    if all(sign is None for sign in signs.values()):
        return NOT_COMPARED
    direction, wide = signs.get(ranking) or 0, signs.get(WIDE) or 0
    lead = f"ranking {BETTER[direction]}" if direction else ""
    beside = {f"in {WIDE}": 0 if wide == direction else wide, "in the tail": signs.get(tail) or 0}
    return phrase(lead, direction, {place: sign for place, sign in beside.items() if sign})
