"""The run directory and its only owner: file names, file contents, identity, state, sweeps."""
