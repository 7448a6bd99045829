"""The run directory and its only owner."""
