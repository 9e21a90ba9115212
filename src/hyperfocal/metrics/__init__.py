"""Metrics: how good a ranking is, for whom, and how sure that is."""
