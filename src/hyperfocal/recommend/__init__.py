"""Recommend a user's next items."""
