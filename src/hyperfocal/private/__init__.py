"""Folders and files that only this user can change."""
