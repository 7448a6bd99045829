"""Fine-tune decoder LLMs with LoRA as text classifiers."""

__version__ = "0.1.0"
