"""The typed configuration and Hydra's part in it."""
