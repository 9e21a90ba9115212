"""A console that escapes control characters in what it prints, such as those in a file name or a label."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from hyperfocal.errors import printable


class SafeConsole(Console):
    """A console of rich; only rich's own styles and cursor movements reach the terminal as control characters."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a renderable, their texts escaped."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
