"""The jobs, each from top to bottom."""
