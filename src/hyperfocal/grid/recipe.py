"""The grid of a recipe file: its section [grid], and the base settings around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from hyperfocal.config.classify import ClassifySettings
from hyperfocal.config.recipes import read_toml
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError
from hyperfocal.grid.axes import Axes, expand, overridden
from hyperfocal.grid.points import baseline_name
from hyperfocal.grid.rules import flatten

Job = TypeVar("Job", bound=Section)


class GridRecipe(NamedTuple, Generic[Job]):
    """What a recipe with a section [grid] says."""

    base: Job
    axes: Axes
    seeds: int
    baseline: str | dict[str, Any] | None


def read_grid_recipe(
    path: str | Path,
    overrides: dict[str, Any] | None = None,
    kind: type[Job] = ClassifySettings,  # type: ignore[assignment]  # a default of a type variable
) -> GridRecipe[Job]:
    """Return the grid of a recipe file, checked.

    [grid] holds caps and gammas (`classify`), or dotted settings, each with a list of values; seeds, 1 without; and the
    baseline, a point's name or its values, as {"loss.name" = "bce"}. The other sections are the base settings.

    Args:
        path: of a TOML file.
        overrides: dotted key -> value, on top of the base.
        kind: the settings of the job.

    Raises:
        ConfigError: unreadable, without [grid], or as in `resolve`, `expand` and `baseline_name`.
    """
    where = f"recipe {path}"
    values = read_toml(Path(path))
    grid = values.pop("grid", None)
    if not isinstance(grid, dict):
        raise ConfigError(f"{where}: no section [grid]. Give it, with caps and gammas or settings and their values")
    seeds, baseline = grid.pop("seeds", 1), grid.pop("baseline", None)
    axes = flatten(grid)
    base = overridden(kind(), flatten(values) | (overrides or {}), where)
    recipe = GridRecipe(base, axes, seeds, flatten(baseline) if isinstance(baseline, dict) else baseline)
    points = expand(base, axes, seeds, where=f"{where}, [grid]")
    baseline_name(points, recipe.baseline, where=f"{where}, [grid]")
    return recipe
