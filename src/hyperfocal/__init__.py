"""Learn from labels that are extremely unbalanced: hundreds to millions, a handful right for each example."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hyperfocal.tasks.classify import MultiLabelClassifier as MultiLabelClassifier
    from hyperfocal.tasks.recommend import Recommender as Recommender

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import the public classes when they are first asked for: torch takes seconds."""
    if name == "Recommender":
        from hyperfocal.tasks.recommend import Recommender

        return Recommender
    if name == "MultiLabelClassifier":
        from hyperfocal.tasks.classify import MultiLabelClassifier

        return MultiLabelClassifier
    raise AttributeError(f"module 'hyperfocal' has no attribute {name!r}")
