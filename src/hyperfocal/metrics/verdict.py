"""Which points of a grid differ from the baseline beyond chance, and in what: the ranking, or only the threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hyperfocal.errors import ConfigError, did_you_mean
from hyperfocal.metrics.paired import LEVEL, Difference, Outcome, holm, paired, pooled_spread

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
ONE_SEED = (
    "With one seed the intervals hold the chance of the documents, not that of training: a second run of the same "
    "point differs too. Give --seeds 3 to count it in."
)
BETTER = {1: "better", -1: "worse"}


@dataclass(frozen=True)
class Verdict:
    """How one point compares with the baseline.

    Attributes:
        words: the verdict in a few words, for a table.
        sentence: the same with its numbers.
        differences: metric -> Difference, for each metric of FAMILIES.
    """

    words: str
    sentence: str
    differences: dict[str, Difference]


def verdicts(points: dict[str, list[Outcome]], baseline: str) -> dict[str, Verdict]:
    """Return what can be said of each point, in words and numbers; the baseline has a verdict too.

    Each metric of FAMILIES is corrected by itself for the points that have it, the baseline not counted. With
    several seeds a point counts as varying from seed to seed at least as the grid's points do on average: of many
    points with three seeds each, some agree by chance, and alone would make one grid in five claim too much.

    Args:
        points: name -> its outcomes, one a seed.
        baseline: the name of the point that all others are compared with.

    Raises:
        ConfigError: no point has the baseline's name.
        DataError: as in `paired`.
    """
    if baseline not in points:
        hint = did_you_mean(baseline, list(points))
        raise ConfigError(f"baseline '{baseline}': no such point.{hint} There are {', '.join(points) or 'none'}")
    others = [name for name in points if name != baseline]
    found: dict[str, dict[str, Difference]] = {name: {} for name in others}
    for metric in FAMILIES:
        spread = pooled_spread([points[name] for name in others], points[baseline], metric)
        differences = [paired(points[name], points[baseline], metric, spread=spread) for name in others]
        for name, difference, p in zip(others, differences, holm([each.p for each in differences]), strict=True):
            found[name][metric] = replace(difference, adjusted=p)
    against = {name: _verdict(name, differences, len(others)) for name, differences in found.items()}
    return {name: against[name] if name in against else _of_baseline(name, points[name]) for name in points}


def _of_baseline(name: str, outcomes: list[Outcome]) -> Verdict:
    itself = {metric: replace(paired(outcomes, outcomes, metric), adjusted=1.0) for metric in FAMILIES}
    shown = [f"{FAMILIES[m]} {itself[m].ours:.3f}" for m in ALWAYS_SHOWN if itself[m].seeds]
    return Verdict(BASELINE, f"{name}: {BASELINE}. {_capital(', '.join(shown) or 'no result')}.", itself)


def _verdict(name: str, differences: dict[str, Difference], number: int) -> Verdict:
    words = in_words({metric: difference.sign for metric, difference in differences.items()})
    if words == NOT_COMPARED:
        return Verdict(words, f"{name}: {words}. It has no result with a seed that the baseline has too.", differences)
    shown = [m for m, each in differences.items() if each.seeds and (m in ALWAYS_SHOWN or each.sign)]
    numbers = [_clause(FAMILIES[m], differences[m], first=place == 0) for place, m in enumerate(shown)]
    sentence = f"{name}: {words}. {_capital(', '.join(numbers))}.{_chance(differences, number)}"
    return Verdict(words, sentence, differences)


def _clause(called: str, found: Difference, *, first: bool) -> str:
    of = "95% interval " if first else ""
    values = f"{called} {found.ours:.3f} against {found.theirs:.3f}"
    if math.isnan(found.percent.mean):
        return f"{values} ({found.mean:+.3f}, {of}{found.low:+.3f} to {found.high:+.3f})"
    mean, low, high = found.percent
    return f"{values} ({mean:+.1f}%, {of}{low:+.1f} to {high:+.1f}%)"


def _chance(differences: dict[str, Difference], number: int) -> str:
    """Return a sentence on the differences that the correction took back, or ""."""
    taken = [FAMILIES[m] for m, each in differences.items() if each.p < LEVEL and each.sign == 0]
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
    asides = _asides(signs, direction)
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


def _contrary(asides: dict[str, int], direction: int, led: bool) -> str:
    """Return "but worse in the tail" from what goes another way than the lead."""
    ways = []
    for sign in (1, -1):
        places = " and ".join(place for place, other in asides.items() if other == sign != direction)
        ways += [f"{BETTER[sign]} {places}"] if places else []
    return ("but " if ways and led else "") + " and ".join(ways)
