"""The command line."""

from hyperfocal.cli.commands import main as main
