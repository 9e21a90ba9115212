"""The command line."""

from hyperfocal.cli.main import main as main
