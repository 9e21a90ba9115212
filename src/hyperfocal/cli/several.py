"""Which commands may run in one of several processes, as torchrun starts them."""

import os

import click

SHARED = ("fit", "recommend", "classify")  # the last two are groups, and look again


def refuse_other_commands(context: click.Context) -> None:
    """Raise ConfigError where this is one of several processes and the command is not one that shares its work."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and context.invoked_subcommand not in SHARED:
        from hyperfocal.distributed import refuse_several

        group = context.info_name if context.parent is not None else ""
        refuse_several(f"{group} {context.invoked_subcommand}".strip())
