"""Tables and progress in the terminal, the HTML pages of runs and grids, and trackers."""
