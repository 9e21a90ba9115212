"""The command line. Heavy imports are inside the commands, so that --help answers at once."""

from __future__ import annotations

from pathlib import Path

import click

from hyperfocal.cli.classify import classify
from hyperfocal.cli.demo import demo
from hyperfocal.cli.export import export
from hyperfocal.cli.inspect import inspect
from hyperfocal.cli.recommend import recommend
from hyperfocal.cli.report import report
from hyperfocal.cli.serve import serve
from hyperfocal.cli.steps import refuse_several_processes, set_home
from hyperfocal.cli.wording import Commands, echo, log_in_options


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def verify(run: Path) -> None:
    """Check the files of RUN against the checksums that `fit` recorded, and its checkpoints.

    The exit code is 0 if every file is unchanged, else 2, with a line for each file that is not.
    """
    from hyperfocal.errors import RunError
    from hyperfocal.storage.manifest import read_manifest
    from hyperfocal.storage.run_folder import read_stable
    from hyperfocal.training.weights import verify_run

    wrong, count = read_stable(run, lambda folder: (verify_run(folder), len(read_manifest(folder))))
    if wrong:
        lines = "".join(f"\n  {name}: {what}" for name, what in wrong.items())
        raise RunError(
            f"run {run}: {len(wrong)} files are not as they were written:{lines}\n"
            "Restore them from a copy, or fit again with --overwrite"
        )
    echo(f"{run}: {count} files are as they were written.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="hyperfocal")
@click.pass_context
def main(context: click.Context) -> None:
    """Learn from extremely unbalanced labels: hundreds to millions of labels, a handful right for each example.

    Start with `hyperfocal demo`.
    """
    log_in_options()
    set_home()
    refuse_several_processes(context)


main.add_command(recommend)
main.add_command(classify)
main.add_command(inspect)
main.add_command(verify)
main.add_command(report)
main.add_command(demo)
main.add_command(export)
main.add_command(serve)
