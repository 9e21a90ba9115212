"""Classify documents into many long-tailed labels."""
