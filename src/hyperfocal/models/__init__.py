"""Models: what turns a history into a score for each item."""
