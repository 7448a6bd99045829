"""The arguments of ``export``."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from llm_cls.config.fields import Location, Name, PositiveInt, Section

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
        examples=["format=merged", "format=peft"],
    )
    dtype: Literal["float32", "bf16", "int8"] = Field(
        "float32",
        description="How the weights are stored: float32 or bf16 (merged), float32 (peft), float32 or int8 (onnx).",
        examples=["dtype=bf16"],
    )
    calibrated: bool = Field(
        False,
        description="Whether the head computes calibrated probabilities, as llm_cls.calibrate has stored it in the "
        "run. A bias for each label needs format=onnx or an encoder: heads of decoders have none.",
        examples=["calibrated=true"],
    )
    texts: PositiveInt | None = Field(
        None,
        description="Number of test texts whose probabilities are compared.",
        examples=["texts=100"],
        json_schema_extra={"default": "all"},
    )
    vllm: Location | None = Field(
        None,
        description="Python interpreter of an environment with vLLM, which is compared as well (format=merged).",
        examples=["vllm=/opt/vllm/bin/python"],
        json_schema_extra={"default": "this one, if it has vLLM"},
    )
    license: Name | None = Field(
        None,
        description="Licence of the weights, as the hub names it, for the model card.",
        examples=["license=apache-2.0"],
        json_schema_extra={"default": "that of the pretrained model, or other"},
    )
    push: Name | None = Field(
        None,
        description="Repository on the hub to which the export is uploaded. The token is that of hf auth login.",
        examples=["push=ORG/NAME"],
    )
    private: bool = Field(
        True, description="Whether that repository is private, where it is created.", examples=["private=false"]
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
        if self.vllm is not None and self.format != "merged":
            raise ValueError("vllm is for format=merged")
        return self

    @field_validator("push")
    @classmethod
    def _is_a_repository(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", value):
            raise ValueError("must be ORG/NAME")
        return value
