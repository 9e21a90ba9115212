"""Demos of both jobs, on data that they make up."""
