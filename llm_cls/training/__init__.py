"""Training, scoring and prediction; devices and ranks; logging to W&B."""
