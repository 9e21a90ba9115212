"""`python -m hyperfocal` is the command line."""

from hyperfocal.cli import main

main()
