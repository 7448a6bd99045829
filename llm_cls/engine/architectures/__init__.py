"""The families that the fused engine knows. A new one is a module here and a line in ``ARCHITECTURES``."""

from llm_cls.engine.architectures import gemma, gemma2, gemma3, gpt_neox, llama, qwen2_vl, qwen3, qwen3_vl
from llm_cls.engine.architectures.base import Architecture

ARCHITECTURES: dict[str, Architecture] = {  # by ``model_type`` of the configuration
    "gemma": gemma,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
    "qwen2_5_vl_text": qwen2_vl,
    "qwen2_vl_text": qwen2_vl,
    "qwen3": qwen3,
    "qwen3_vl_text": qwen3_vl,
}
