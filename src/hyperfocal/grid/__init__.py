"""Grids: many settings of one job on the same data, each point once, every result kept."""
