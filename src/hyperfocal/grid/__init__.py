"""Grids: train many settings of one job on the same data, each once, and store every result."""
