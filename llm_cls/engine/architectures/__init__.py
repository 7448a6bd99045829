"""The families that the fused engine knows. A new one is a module here and a line in ``ARCHITECTURES``."""

from llm_cls.engine.architectures import gemma, gemma2, gemma3, gpt_neox, llama, qwen3
from llm_cls.engine.architectures.base import Architecture

ARCHITECTURES: dict[str, Architecture] = {  # by ``model_type`` of the configuration
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
    "qwen3": qwen3,
}
