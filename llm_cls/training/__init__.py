"""Training a classifier and judging it."""
