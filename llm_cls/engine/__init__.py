"""The fast forward and backward passes of frozen decoders with LoRA; ``docs/engine.md`` explains how they work."""
