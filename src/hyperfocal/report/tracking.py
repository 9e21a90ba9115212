"""Log trainings to MLflow or TensorBoard: settings once, metrics after each epoch, scores at the end.

Both trackers use the same names: `loss`, the validation metric and the seconds of each epoch; `final/NAME` for the
numbers of metrics.json. MLflow does not allow "@" in a name, so map@3 becomes map_at_3. A tracker that fails is dropped
with one warning, and training continues.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperfocal.config.recipes import flat_settings
from hyperfocal.config.sections import Section
from hyperfocal.errors import ConfigError
from hyperfocal.report.console import SafeConsole
from hyperfocal.training.trainer import Progress
from hyperfocal.training.watch import Watch

PACKAGES = {"mlflow": ("mlflow", "sqlalchemy", "alembic"), "tensorboard": ("tensorboard",)}


class MlflowRun:
    """A run in the store that MLFLOW_TRACKING_URI names, by default MLflow's own.

    Args:
        name: of the run.
        experiment: its name; a missing experiment is created.
        parent: id of the run that contains this one.
    """

    def __init__(self, name: str, experiment: str, parent: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # send nothing from this machine without consent
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient

        self.client, self.experiment = MlflowClient(), experiment
        existing = self.client.get_experiment_by_name(experiment)
        number = existing.experiment_id if existing else self.client.create_experiment(experiment)
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

    def child(self, name: str) -> MlflowRun:
        """Begin a run within this one, for a point of a grid."""
        return MlflowRun(name, self.experiment, self.id)


class TensorboardRun:
    """A run as event files in a folder."""

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

    def child(self, name: str) -> TensorboardRun:
        """Begin a run within this one, in a folder within its folder."""
        return TensorboardRun(self.folder / name.replace("/", "_"))


TrackedRun = MlflowRun | TensorboardRun


class Tracking(Watch):
    """A context manager that logs one training, or a grid, to trackers.

    Args:
        names: "mlflow", "tensorboard"; empty: log nothing.
        out: folder of the run or the grid; TensorBoard's files go to `tensorboard` in it.
        job: "recommend" or "classify", for the name of the experiment.
        resume: whether to keep TensorBoard's files of an earlier run in `out`.

    Raises:
        ConfigError: an extra is not installed.
    """

    def __init__(self, names: Sequence[str], out: Path, job: str, *, resume: bool = False) -> None:
        self._names, self._out, self._job, self._resume = list(dict.fromkeys(names)), out, job, resume
        self._settings = Section()  # until the fit or the grid has begun
        self._runs: dict[str, TrackedRun] = {}
        self._begun = False
        self._training, self._rows, self._epoch = 0, 0, 0  # number of the training, its rows logged, its last epoch
        self._latest: Progress | None = None
        for name in self._names:
            _check_installed(name)

    def __enter__(self) -> Tracking:
        """Begin nothing yet: settings may be invalid, and the run folder may be taken."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the runs, as failed if an error or Ctrl-C ended the training."""
        self._each(lambda run: run.close(failed=kind is not None))

    def begun(self, settings: Section) -> None:
        """Keep the settings, which are logged once training starts."""
        self._settings = settings

    def stepped(self, progress: Progress, steps: int) -> None:
        """Log the epochs that ended since the last call; those of a second training as `training_2/...`."""
        if progress is not self._latest:
            self._latest, self._rows = progress, 0
            self._training += 1
        self._begin()
        prefix = f"training_{self._training}/" if self._training > 1 else ""
        for row in progress.history[self._rows :]:
            self._epoch = int(row["epoch"])
            values = {f"{prefix}{key}": value for key, value in row.items() if key != "epoch"}
            self._each(lambda run, values=values: run.metrics(trackable(values), self._epoch))  # type: ignore[misc]
        self._rows = len(progress.history)

    def end(self, metrics: Mapping[str, Any]) -> None:
        """Log the numbers of a run's metrics.json."""
        self._begin()
        self._each(lambda run: run.metrics(trackable(final_scores(metrics)), self._epoch))

    def point_finished(
        self, name: str, seed: int, settings: Section, values: Mapping[str, float], seconds: float
    ) -> None:
        """Log a finished point of a grid, as a separate run within the run of the grid."""
        self._begin()
        metrics = {f"final/{key}": value for key, value in values.items()} | {"seconds": seconds}

        def log(run: TrackedRun) -> None:
            child = run.child(f"{name} seed {seed}")
            child.settings({"point": name, **as_texts(settings), "seed": str(seed)})
            child.metrics(trackable(metrics), 0)
            child.close(failed=False)

        self._each(log)

    def _begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        for name in self._names:
            self._safely(name, lambda name=name: self._runs.__setitem__(name, self._open(name)))  # type: ignore[misc]
        self._each(lambda run: run.settings(as_texts(self._settings)))

    def _open(self, name: str) -> TrackedRun:
        if name == "mlflow":
            return MlflowRun(self._out.resolve().name, f"hyperfocal-{self._job}")
        folder = self._out / "tensorboard"
        if not self._resume:
            shutil.rmtree(folder, ignore_errors=True)
        return TensorboardRun(folder)

    def _each(self, call: Callable[[TrackedRun], None]) -> None:
        for name, run in list(self._runs.items()):
            self._safely(name, lambda run=run: call(run))  # type: ignore[misc]

    def _safely(self, name: str, call: Callable[[], None]) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # from the packages of the tracker
                call()
        except Exception as error:
            self._runs.pop(name, None)
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            text = f"warning: --track {name} is dropped: {reason}. Training continues without it"
            SafeConsole(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def trackable(values: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics under names that every tracker allows.

    >>> trackable({"map@3": 0.5})
    {'map_at_3': 0.5}
    """
    return {key.replace("@", "_at_"): float(value) for key, value in values.items()}


def as_texts(settings: Section) -> dict[str, str]:
    """Return dotted key -> value of all settings, as texts."""
    return {key: str(value) for key, value in flat_settings(settings).items()}


def final_scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a metrics.json: all values of `classify`; the means of `recommend`, also of the buckets.

    >>> final_scores({"metric": "map@3", "model": "gru", "scores": {"gru": {"map@3": {"mean": 0.5}}}})
    {'final/map@3': 0.5}
    """
    if "values" in metrics:
        return {f"final/{key}": value for key, value in metrics["values"].items() if value is not None}
    model, metric = metrics["model"], metrics["metric"]
    ours = {f"final/{key}": value for key, value in _means(metrics["scores"][model]).items()}
    baselines = {name: scores for name, scores in metrics["scores"].items() if name != model}
    return ours | {f"final/{name}.{metric}": scores[metric]["mean"] for name, scores in baselines.items()}


def _means(scores: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    means: dict[str, float] = {}
    for key, value in scores.items():
        if isinstance(value, dict) and "mean" in value:
            means[prefix + key] = value["mean"]
        elif isinstance(value, dict):
            means |= _means(value, f"{prefix}{key}.")
        elif isinstance(value, int | float):
            means[prefix + key] = value
    return {key: value for key, value in means.items() if value is not None}


def _check_installed(name: str) -> None:
    missing = [package for package in PACKAGES[name] if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"--track {name} needs {', '.join(missing)}, which is not installed. Install it with "
            f"`pip install 'hyperfocal[{name}]'`"
        )
