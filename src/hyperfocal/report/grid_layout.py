"""What the table of a grid shows of each job: its columns, their names, and what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hyperfocal.metrics.ranking_verdict import WIDE, rankings
from hyperfocal.metrics.verdict import ALWAYS_SHOWN, FAMILIES

CHANGE, SECONDS, SPREAD = "change\nin %", "time\ns", "sd of\nseeds"


@dataclass(frozen=True)
class Layout:
    """The table of one job.

    Attributes:
        scored: what points are scored on, as "documents".
        called: metric -> what it is called in a sentence.
        columns: metric -> its column, in two lines; the change stands after the first.
        changed: the metric whose change the table shows.
        all_changed: metrics whose change the files hold.
        dispensable: columns that a narrow table leaves out, the first of them first.
        meaning: what the columns mean; {baseline} stands for the baseline's name.
        progress: metric -> how a line of progress says it.
        digits: of a score, after the point.
    """

    scored: str
    called: Mapping[str, str]
    columns: Mapping[str, str]
    changed: str
    all_changed: tuple[str, ...]
    dispensable: tuple[str, ...]
    meaning: str
    progress: Mapping[str, str]
    digits: int = 3

    def name_of(self, metric: str) -> str:
        """Return what a metric is called."""
        return self.called.get(metric, metric)


LABELS = Layout(
    scored="documents",
    called=FAMILIES,
    columns={
        "half.macro_f1": "F1 at\n0.5",
        "tuned.macro_f1": "F1\ntuned",
        "tuned.micro_f1": "micro\ntuned",
        "macro_ap": "macro\nAP",
        "head_ap": "head\nAP",
        "medium_ap": "med.\nAP",
        "tail_ap": "tail\nAP",
    },
    changed="half.macro_f1",
    all_changed=ALWAYS_SHOWN,
    dispensable=("micro\ntuned", "med.\nAP", "head\nAP", SECONDS, SPREAD),
    meaning="F1 is macro-F1; change: of F1 at 0.5 against {baseline}, with its 95% interval; AP: average precision",
    progress={"macro_ap": "macro AP {}", "tuned.macro_f1": "F1 {} tuned"},
)


def ranking_layout(k: int) -> Layout:
    """Return the table of a grid on rankings of k items."""
    ranking = f"map@{k}"
    buckets = {"head": "head", "medium": "med.", "tail": "tail"}
    return Layout(
        scored="users",
        called=rankings(k).called,
        columns={
            ranking: f"map\n@{k}",
            WIDE: "recall\n@10",
            **{f"{bucket}.{ranking}": f"{short}\nmap" for bucket, short in buckets.items()},
        },
        changed=ranking,
        all_changed=tuple(rankings(k).called),
        dispensable=("med.\nmap", "head\nmap", SECONDS, SPREAD),
        meaning=(
            f"change: of {ranking} against {{baseline}}, with its 95% interval; head, medium, tail: {ranking} of the "
            "true items with >= 200, 20-199, < 20 training events"
        ),
        progress={ranking: ranking + " {}", WIDE: WIDE + " {}"},
        digits=4,
    )
