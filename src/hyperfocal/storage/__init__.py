"""Run folders, and arrays cached on disk."""
