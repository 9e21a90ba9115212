"""Files that an export copies as they are; they import nothing of this package."""
