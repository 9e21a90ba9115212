"""Files that are copied into an export as they are; they import nothing of this package."""
