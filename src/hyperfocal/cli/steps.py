"""Steps that the commands of both jobs share. Heavy imports are inside functions, so that --help answers at once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from hyperfocal.cli.report import report_line
from hyperfocal.errors import ConfigError, DataError, RunError
from hyperfocal.interrupts import remembered
from hyperfocal.private.folders import NO_HOME

if TYPE_CHECKING:
    from rich.console import Group

    from hyperfocal.storage.run_folder import RunFolder
    from hyperfocal.training.watch import Watch


class Writable(Protocol):
    """An estimator that can be written."""

    def write_into(self, run: RunFolder) -> None:
        """Write the run into an empty folder."""


Updated = TypeVar("Updated", bound=Writable)
NO_ENCODER = "No sentence encoder is installed: n-grams only. Install one with `pip install 'hyperfocal[encoder]'`."
DEMO = ".hyperfocal-demo"  # marks a folder that a demo may overwrite
DISTRIBUTED = ("fit", "recommend", "classify")  # the last two are groups, which check their own subcommand


def set_home() -> None:
    """Set HOME for a user without a home folder: libraries that look for it end with an error if there is none."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = NO_HOME


def refuse_several_processes(context: click.Context) -> None:
    """Raise ConfigError if torchrun started several processes and the command cannot share its work among them."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and context.invoked_subcommand not in DISTRIBUTED:
        from hyperfocal.distributed import refuse_several

        group = context.info_name if context.parent is not None else ""
        refuse_several(f"{group} {context.invoked_subcommand}".strip())


@contextmanager
def exit_on_ctrl_c(how_to_continue: str) -> Iterator[None]:
    """End the program with exit code 130 on Ctrl-C; the first process says how to continue."""
    try:
        with remembered():
            yield
    except KeyboardInterrupt:
        from hyperfocal.cli.wording import echo
        from hyperfocal.distributed import is_first

        if is_first():
            echo(f"stopped. {how_to_continue}", err=True)
        sys.exit(130)


def refuse_resume_and_overwrite(resume: bool, overwrite: bool) -> None:
    """Raise ConfigError if both are given."""
    if resume and overwrite:
        raise ConfigError("--resume continues the run in --out and --overwrite replaces it. Give only one of them")


@contextmanager
def follow_fit(
    job: str,
    estimator: Any,
    out: Path,
    track: tuple[str, ...],
    *,
    resume: bool,
    trainings: Callable[[Any], int] = lambda settings: 1,
) -> Iterator[Watch]:
    """Give the `watch` of a fit, which shows a progress line and reports to trackers; Ctrl-C exits with 130.

    Args:
        job: "recommend" or "classify".
        estimator: being fitted inside; its metrics are reported.
        out: the run folder.
        track: names of trackers.
        resume: whether the fit continues an earlier one.
        trainings: returns how many trainings the fit consists of, given its `train` settings.
    """
    from hyperfocal.distributed import is_first
    from hyperfocal.report.progress import EncodingProgress, FitProgress
    from hyperfocal.training.watch import watch_with

    with (
        exit_on_ctrl_c(f"The same command with --resume continues the run in {out}."),
        FitProgress(trainings) as progress,
        EncodingProgress() as encoding,
    ):
        if not (track and is_first()):
            yield watch_with(progress, encoding)
            return
        from hyperfocal.report.tracking import Tracking

        with Tracking(track, out, job, resume=resume) as tracking:
            yield watch_with(progress, encoding, tracking)
            tracking.end(estimator.metrics_)


def write_update(run: Path, out: Path | None, update: Callable[[], Updated]) -> Updated:
    """Write an updated run, in one step once it is complete; return its estimator. Ctrl-C exits with 130.

    Args:
        run: the folder of the run.
        out: the folder to write. None: the run is replaced.
        update: loads and updates the run.

    Raises:
        RunError: `out` holds another run; the run cannot be replaced; another process writes to it.
    """
    from hyperfocal.storage.run_folder import RunFolder

    elsewhere = out is not None and out.resolve() != run.resolve()
    target = RunFolder(out if out is not None and elsewhere else run)
    if elsewhere:
        target.refuse_taken()
    else:
        RunFolder.open(run).refuse_fixed()
    with exit_on_ctrl_c("RUN is unchanged. Give the same command again."), target.writing():
        if elsewhere:
            target.refuse_taken()  # another process may have been faster
        updated = update()
        target.replace_by(lambda fresh: updated.write_into(RunFolder(fresh)), or_in_place=elsewhere)
    return updated


def print_run(out: Path, following: str = "") -> None:
    """Write the report of a run that was just written; print where both are, and the command that follows."""
    from hyperfocal.report.console import SafeConsole
    from hyperfocal.report.format import print_commands

    lines = [f"Run folder: {out}", report_line(out)]
    print_commands(SafeConsole(), [*lines, f"Next: hyperfocal {following}"] if following else lines)


def print_evaluation(
    metrics: Mapping[str, Any],
    scores_report: Callable[..., Group],
    holdout_lines: Callable[[Any, str], list[str]],
    title_of: Callable[[Any], str],
    *,
    as_json: bool,
) -> None:
    """Print the scores on test data as a table with notes, made by the job's functions, or as JSON."""
    import json

    from hyperfocal.cli.wording import print_lines, print_report
    from hyperfocal.report.console import SafeConsole
    from hyperfocal.storage.run_folder import without_nan

    if as_json:
        click.echo(json.dumps(without_nan(metrics), indent=2))
        return
    console = SafeConsole()
    print_report(console, scores_report(metrics, title=title_of(metrics["data"])))
    print_lines(console, holdout_lines(metrics["data"], "test"))


def program_name() -> str:
    """Return how a user starts this program."""
    return "hyperfocal" if shutil.which("hyperfocal") else sys.argv[0]


def refuse_output(out: Path, read: Path, argument: str, *, safe_csv: bool = False) -> None:
    """Raise an error if predictions cannot be written to `out`.

    Raises:
        DataError: a wrong format, a folder, or a file that is read.
        ConfigError: cells of CSV are asked for, and the format is another one.
    """
    from hyperfocal.data.files import File
    from hyperfocal.parts import covers, files_of

    File(out).check_writable()
    if safe_csv and File(out).kind != "csv":
        raise ConfigError(f"--safe-csv is for cells of .csv and .tsv, not for {out}. Leave it out")
    target = out.resolve()
    if target in (path.resolve() for path in (read, *files_of(read))):
        raise DataError(f"--out {out} is {argument} itself and would overwrite it. Choose another name")
    if covers(read, target):
        place = "in the folder" if read.is_dir() else "among the files of the pattern"
        raise DataError(f"--out {out} is {place} {argument}, whose parts are read. Choose another folder")


def claim_demo(out: Path) -> None:
    """Make and mark a folder for a demo; an empty folder or that of an earlier demo is reused.

    Raises:
        RunError: the folder holds something else.
    """
    if out.exists() and not (out.is_dir() and ((out / DEMO).exists() or not any(out.iterdir()))):
        raise RunError(f"{out}: exists and is not a folder of this demo. Choose another folder")
    out.mkdir(parents=True, exist_ok=True)
    (out / DEMO).touch()
