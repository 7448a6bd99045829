"""The arguments of ``export``."""

from typing import Literal, Self

from pydantic import Field, model_validator

from llm_cls.config.fields import Location, PositiveInt, Section

DTYPES = {"merged": ("float32", "bf16"), "peft": ("float32",), "onnx": ("float32", "int8")}  # of the stored weights


class ExportArguments(Section):
    """Writes a finished run as a model that other software loads, and compares what that computes."""

    run: Location = Field(
        description="Run directory of a finished run.", examples=["run=outputs/runs/2026-01-31/12-00-00-000000"]
    )
    output: Location = Field(description="Folder to create.", examples=["output=exported"])
    format: Literal["merged", "peft", "onnx"] = Field(
        "merged",
        description="merged: one checkpoint for transformers and vLLM; peft: the adapter with its head, beside the "
        "pretrained model; onnx: a graph for onnxruntime.",
        examples=["format=peft"],
    )
    dtype: Literal["float32", "bf16", "int8"] = Field(
        "float32",
        description="How the weights are stored: float32 or bf16 (merged), float32 (peft), float32 or int8 (onnx).",
        examples=["dtype=bf16"],
    )
    texts: PositiveInt | None = Field(
        None,
        description="Number of test texts whose probabilities are compared.",
        examples=["texts=100"],
        json_schema_extra={"default": "all"},
    )
    batch_size: PositiveInt = Field(8, description="Texts per forward pass.", examples=["batch_size=1"])
    trust_remote_code: bool = Field(
        False,
        description="Whether code of the pretrained model may run on this machine. The configuration of the run cannot "
        "allow it.",
        examples=["trust_remote_code=true"],
    )

    @model_validator(mode="after")
    def _format_has_the_dtype(self) -> Self:
        if self.dtype not in (known := DTYPES[self.format]):
            raise ValueError(f"dtype must be {' or '.join(known)} with format={self.format}, got {self.dtype}")
        return self
