"""Metrics of rankings and decisions, their confidence intervals, and the verdict of a grid."""
