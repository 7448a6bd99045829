"""Frozen decoders with LoRA as hand-written forward and backward passes: see ``network.py``."""
