"""Learn from labels that are extremely unbalanced: hundreds to millions, a handful right for each example."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperfocal.classify.classifier import MultiLabelClassifier as MultiLabelClassifier
    from hyperfocal.data.inspection import inspect as inspect
    from hyperfocal.recommend.recommender import Recommender as Recommender
    from hyperfocal.rules import Rules as Rules

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the public names when they are first asked for: torch takes seconds."""
    if name == "Recommender":
        from hyperfocal.recommend.recommender import Recommender

        return Recommender
    if name == "Rules":
        from hyperfocal.rules import Rules

        return Rules
    if name == "MultiLabelClassifier":
        from hyperfocal.classify.classifier import MultiLabelClassifier

        return MultiLabelClassifier
    if name == "inspect":
        from hyperfocal.data.inspection import inspect

        return inspect
    raise AttributeError(f"module 'hyperfocal' has no attribute {name!r}")
