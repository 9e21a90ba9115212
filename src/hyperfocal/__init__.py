"""Learn from labels that are extremely unbalanced."""
