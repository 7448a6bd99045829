"""The families that the fused engine knows. A new one is a module here and a line in ``ARCHITECTURES``."""

from llm_cls.engine.architectures import gpt_neox, llama
from llm_cls.engine.architectures.base import Architecture

ARCHITECTURES: dict[str, Architecture] = {  # by ``model_type`` of the configuration
    "gpt_neox": gpt_neox,
    "llama": llama,
    "mistral": llama,
    "qwen2": llama,
}
