"""Read, split, number and make logs."""
