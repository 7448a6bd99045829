"""The sections that choose the network, its trained part, the optimizer and the engine."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from llm_cls.config.fields import LARGEST, Name, PositiveInt, Section


class ModelConfig(Section):
    """The pretrained network."""

    name: Name = Field(
        description="Hugging Face id, local folder, or ja-mini for the decoder that is shipped with llm_cls.",
        examples=["model.name=EleutherAI/pythia-160m"],
    )
    revision: Name | None = Field(
        None, description="Branch, tag or commit on the hub; null uses the newest.", examples=["model.revision=main"]
    )
    weights: Literal["pretrained", "random"] = Field(
        "pretrained",
        description="pretrained loads the weights of model.name. random builds model.architecture without a download, "
        "for speed and memory trials.",
        examples=["model.weights=random"],
    )
    architecture: dict[str, Any] = Field(
        default_factory=dict,
        description="Configuration of a network with random weights, with the keys of transformers. Empty: that of "
        "model.name.",
        examples=["model.architecture.num_hidden_layers=2"],
    )
    tokenizer: Name | None = Field(
        None,
        description="Id, folder or .model file of another tokenizer; null uses that of model.name.",
        examples=["model.tokenizer=path/to/spiece.model"],
    )
    tokenizer_kind: Literal["auto", "sentencepiece"] = Field(
        "auto",
        description="sentencepiece encodes with the SentencePiece model file itself; auto with transformers.",
        examples=["model.tokenizer_kind=sentencepiece"],
    )
    pooling: Literal["last", "first"] = Field(
        "last",
        description="Which token represents a text: its last (decoders) or its first (encoders).",
        examples=["model.pooling=first"],
    )
    add_bos: bool | None = Field(
        None,
        description="Whether texts start with the BOS token; null does what the tokenizer does by default.",
        examples=["model.add_bos=true"],
    )
    trust_remote_code: bool = Field(
        False,
        description="Whether code from the model's repository may run on this machine.",
        examples=["model.trust_remote_code=true"],
    )

    @field_validator("architecture")
    @classmethod
    def _sizes_can_be_counted(cls, architecture: dict[str, Any]) -> dict[str, Any]:
        if huge := [key for key, value in architecture.items() if isinstance(value, int) and value > LARGEST]:
            raise ValueError(f"must not have numbers above {LARGEST} (here {huge[0]})")
        return architecture


class LoraConfig(Section):
    """What is trained besides the head; the names are PEFT's."""

    enabled: bool = Field(True, description="Whether a LoRA adapter is added.", examples=["lora=none"])
    full: bool = Field(
        False,
        description="Without an adapter, true trains the whole network and false only the head.",
        examples=["lora=full"],
    )
    r: PositiveInt = Field(32, description="Rank of the adapter.", examples=["lora=r32", "lora.r=12"])
    lora_alpha: PositiveInt = Field(
        16,
        le=1_000_000,
        description="Scale of the adapter: its output is multiplied by lora_alpha / r.",
        examples=["lora.lora_alpha=16"],
    )
    lora_dropout: float = Field(
        0.1, ge=0, lt=1, description="Dropout on the input of the adapter.", examples=["lora.lora_dropout=0.1"]
    )
    target_modules: str | list[str] | None = Field(
        None,
        description="Layers with an adapter: names, all-linear, or null for PEFT's default of the architecture.",
        examples=["lora.target_modules=all-linear", "lora.target_modules=[query_key_value,dense]"],
        json_schema_extra={"must_be": "a name, a list of names, or all-linear"},
    )
    use_rslora: bool = Field(
        False, description="Whether the adapter is scaled by lora_alpha / sqrt(r).", examples=["lora.use_rslora=true"]
    )
    use_dora: bool = Field(
        False,
        description="Whether the magnitude of the weights is trained as well (DoRA).",
        examples=["lora.use_dora=true"],
    )

    @model_validator(mode="after")
    def _pattern_compiles(self) -> Self:
        if isinstance(self.target_modules, str):  # PEFT reads it as a regular expression
            try:
                re.compile(self.target_modules)
            except re.error as error:
                raise ValueError(
                    f"lora.target_modules={self.target_modules} is not a regular expression: {error}. Try all-linear"
                ) from None
        return self

    @model_validator(mode="after")
    def _full_excludes_adapter(self) -> Self:
        if self.full and self.enabled:
            raise ValueError("lora.full=true trains the whole network, without an adapter. Try lora=full")
        return self


class OptimizerConfig(Section):
    """AdamW with linear warm-up and linear decay to 0 at the end of the last epoch."""

    lr: float = Field(5e-4, gt=0, description="Peak learning rate.", examples=["optimizer.lr=5e-4"])
    weight_decay: float = Field(
        0.01,
        ge=0,
        description="Weight decay of matrices; biases, norm weights and DoRA magnitudes have none.",
        examples=["optimizer.weight_decay=0.01"],
    )
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.9, 0.999),
        description="Decay rates of AdamW's averages of the gradient and of its square.",
        examples=["optimizer.betas=[0.9,0.95]"],
        json_schema_extra={"must_be": "two numbers >= 0 and < 1"},
    )
    eps: float = Field(
        1e-8, gt=0, description="Small number that AdamW adds to the denominator.", examples=["optimizer.eps=1e-6"]
    )
    warmup_epochs: float = Field(
        1.0,
        ge=0,
        description="Epochs during which the learning rate rises from 0 to its peak.",
        examples=["optimizer.warmup_epochs=1"],
    )
    max_grad_norm: float | None = Field(
        None,
        gt=0,
        description="Maximum norm of all gradients together. Larger gradients are scaled down to it. null does not "
        "clip.",
        examples=["optimizer.max_grad_norm=1"],
    )


class EngineConfig(Section):
    """How an optimizer step is computed."""

    name: Literal["fast", "fp8", "reference"] = Field(
        "fast",
        description="fast: no padding, fused layers; fp8: fast with 8-bit frozen weights; reference: PEFT's layers.",
        examples=["engine=reference"],
    )
    compile: bool | None = Field(
        None,
        description="Whether layers without a fused form are compiled (fast and fp8). null: on GPUs, if the run is "
        "long enough to save more time than compilation takes.",
        examples=["engine.compile=false"],
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="Whether activations are recomputed to save memory. null: in as many layers as necessary (fast and "
        "fp8), or in all layers on GPUs (reference).",
        examples=["engine.gradient_checkpointing=true"],
    )
