"""From a finished run to files that other software loads, and the proof that it computes the same."""
