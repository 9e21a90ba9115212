"""A trained run in use: exported for other programs, and answered over HTTP."""
