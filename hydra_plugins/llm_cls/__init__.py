"""What llm_cls adds to Hydra; in this package, because Hydra looks for plug-ins nowhere else."""
