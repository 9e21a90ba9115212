"""Trainings told to MLflow or TensorBoard: settings once, metrics epoch by epoch, scores at the end.

The same names in both: `loss`, the validation metric and the seconds of each epoch; `final/NAME` for what stands in
metrics.json. "@" is no letter of a name in MLflow, so map@3 is map_at_3. A tracker that breaks is left out from then
on, with one warning: training goes on.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
from rich.console import Console

from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError
from hyperfocal.training.trainer import Progress

Watch = Callable[[Progress, int], None]
PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "tensorboard": ("tensorboard",)}


class Sink(Protocol):
    """One run of one tracker."""

    def settings(self, values: dict[str, str]) -> None:
        """Keep the settings."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Keep metrics of an epoch, or the last ones."""

    def close(self, *, failed: bool) -> None:
        """End the run."""

    def child(self, name: str) -> Sink:
        """Begin a run within this one, that of a point of a grid."""


class MlflowSink:
    """A run in the store that MLFLOW_TRACKING_URI names; without it, where mlflow keeps its runs.

    Args:
        name: of the run.
        experiment: its name; made where there is none.
        parent: id of the run that this one belongs to.
    """

    def __init__(self, name: str, experiment: str, parent: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing leaves this machine unasked
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.client, self.experiment = MlflowClient(), experiment
        found = self.client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self.client.create_experiment(experiment)
        tags = {"mlflow.parentRunId": parent} if parent else {}
        self.id = self.client.create_run(number, run_name=name, tags=tags).info.run_id

    def settings(self, values: dict[str, str]) -> None:
        """Log the settings as parameters."""
        for key, value in values.items():
            self.client.log_param(self.id, key, value[:6000])

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics."""
        for key, value in values.items():
            self.client.log_metric(self.id, key, value, step=step)

    def close(self, *, failed: bool) -> None:
        """End the run."""
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")

    def child(self, name: str) -> Sink:
        """Begin a nested run."""
        return MlflowSink(name, self.experiment, self.id)


class TensorboardSink:
    """Event files in a folder."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.writer = folder, SummaryWriter(str(folder))

    def settings(self, values: dict[str, str]) -> None:
        """Write a table of the settings."""
        rows = "\n".join(f"| {key} | {value} |" for key, value in values.items())
        self.writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)
        self.writer.flush()

    def close(self, *, failed: bool) -> None:
        """Close the files."""
        self.writer.close()

    def child(self, name: str) -> Sink:
        """Write to a folder within this one."""
        return TensorboardSink(self.folder / name.replace("/", "_"))


class Tracking:
    """A context manager that tells trackers of one training, or of a grid.

    Args:
        names: "mlflow", "tensorboard"; none tracks nothing.
        out: the run folder, or that of the grid; TensorBoard's files go to `tensorboard` in it.
        job: names the experiment: "recommend" or "classify".
        settings: asked for when training has begun, for then they are resolved.
        resume: whether what TensorBoard has of an earlier run in `out` stays.

    Raises:
        ConfigError: an extra is not installed.
    """

    def __init__(
        self, names: Sequence[str], out: Path, job: str, settings: Callable[[], Section], *, resume: bool = False
    ) -> None:
        self._names, self._out, self._job = list(dict.fromkeys(names)), out, job
        self._settings, self._resume = settings, resume
        self._sinks: dict[str, Sink] = {}
        self._begun = False
        self._training, self._rows, self._epochs = 0, 0, 0
        self._latest: Progress | None = None
        for name in self._names:
            _refuse_missing(name)

    def __enter__(self) -> Tracking:
        """Begin nothing yet: settings may be wrong, and the run folder taken."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the runs, as failed where an error or Ctrl-C ended the training."""
        self._each(lambda sink: sink.close(failed=kind is not None))

    def beside(self, watch: Watch) -> Watch:
        """Return a function that calls `watch`, and tells the trackers of every epoch that ended."""

        def both(progress: Progress, steps: int) -> None:
            watch(progress, steps)
            self.epochs(progress)

        return both if self._names else watch

    def epochs(self, progress: Progress) -> None:
        """Tell of the epochs that ended since the last call; those of a second training as `training_2/...`."""
        if progress is not self._latest:
            self._latest, self._rows = progress, 0
            self._training += 1
        self._begin()
        prefix = f"training_{self._training}/" if self._training > 1 else ""
        for row in progress.history[self._rows :]:
            self._epochs = int(row["epoch"])
            values = {f"{prefix}{key}": value for key, value in row.items() if key != "epoch"}
            self._each(lambda sink, values=values: sink.metrics(named(values), self._epochs))  # type: ignore[misc]
        self._rows = len(progress.history)

    def end(self, metrics: Mapping[str, Any]) -> None:
        """Tell of what a run has in its metrics.json."""
        self._begin()
        self._each(lambda sink: sink.metrics(named(final_scores(metrics)), self._epochs))

    def point(self, name: str, seed: int, settings: Section, values: Mapping[str, float], seconds: float) -> None:
        """Tell of a point of a grid that ended, as a run of its own within that of the grid."""
        self._begin()
        reached = {f"final/{key}": value for key, value in values.items()} | {"seconds": seconds}

        def tell(sink: Sink) -> None:
            child = sink.child(f"{name} seed {seed}")
            child.settings({"point": name, **flat(settings), "seed": str(seed)})
            child.metrics(named(reached), 0)
            child.close(failed=False)

        self._each(tell)

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        for name in self._names:
            self._safely(name, lambda name=name: self._sinks.__setitem__(name, self._open(name)))  # type: ignore[misc]
        self._each(lambda sink: sink.settings(flat(self._settings())))

    def _open(self, name: str) -> Sink:
        if name == "mlflow":
            return MlflowSink(self._out.resolve().name, f"hyperfocal-{self._job}")
        folder = self._out / "tensorboard"
        if not self._resume:
            shutil.rmtree(folder, ignore_errors=True)
        return TensorboardSink(folder)

    def _each(self, call: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            self._safely(name, lambda sink=sink: call(sink))  # type: ignore[misc]

    def _safely(self, name: str, call: Callable[[], None]) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the tracker's own packages
                call()
        except Exception as error:
            self._sinks.pop(name, None)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            text = f"warning: --track {name} is left out from here on: {reason}. The training goes on"
            Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def named(values: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics under names that every tracker allows.

    >>> named({"map@3": 0.5})
    {'map_at_3': 0.5}
    """
    return {key.replace("@", "_at_"): float(value) for key, value in values.items()}


def flat(settings: Section) -> dict[str, str]:
    """Return dotted key -> value of all settings, as text."""
    found: dict[str, str] = {}
    for section, value in msgspec.to_builtins(settings).items():
        parts = (
            {f"{section}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {section: value}
        )
        found |= {key: str(part) for key, part in parts.items()}
    return found


def final_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a metrics.json: of `classify` all values, of `recommend` the means, also of the buckets.

    >>> final_scores({"metric": "map@3", "model": "gru", "scores": {"gru": {"map@3": {"mean": 0.5}}}})
    {'final/map@3': 0.5}
    """
    if "values" in metrics:
        return {f"final/{key}": value for key, value in metrics["values"].items() if value is not None}
    model, metric = metrics["model"], metrics["metric"]
    found = {f"final/{key}": value for key, value in _means(metrics["scores"][model]).items()}
    others = {name: scores for name, scores in metrics["scores"].items() if name != model}
    return found | {f"final/{name}.{metric}": scores[metric]["mean"] for name, scores in others.items()}


def _means(scores: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for key, value in scores.items():
        if isinstance(value, dict) and "mean" in value:
            found[prefix + key] = value["mean"]
        elif isinstance(value, dict):
            found |= _means(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            found[prefix + key] = value
    return {key: value for key, value in found.items() if value is not None}


def _refuse_missing(name: str) -> None:
    missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"--track {name} needs {', '.join(missing)}, which is not installed. Install it with "
            f"`pip install 'hyperfocal[{name}]'`"
        )
