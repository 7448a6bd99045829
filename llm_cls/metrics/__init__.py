"""Scores, the evaluation of a split, statistics, and the selection of the best epoch."""
