"""A trained run behind HTTP, and the page to try it."""
