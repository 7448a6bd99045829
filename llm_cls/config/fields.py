"""The base class of all sections of the configuration, and the types of their keys."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.fields import FieldInfo

from llm_cls.redaction import redact

LARGEST = 10**9


def _refuse_bool(value: Any) -> Any:
    """Refuses true and false where a number is expected, because bool is an int in Python."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


def _number_to_text(value: Any) -> Any:
    """Turns the number in ``template=2`` or ``data.label=1`` into text, because it is a name."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _refuse_huge(value: int) -> int:
    """Refuses numbers that no library can count with, where the help need not state a limit."""
    if value > LARGEST:
        raise ValueError(f"must be <= {LARGEST}")
    return value


def _refuse_empty(value: Any) -> Any:
    """Refuses ``dir=``, which would mean the current folder."""
    if value == "":
        raise ValueError("must not be empty")
    return value


def _check_path(value: Path) -> Path:
    """Refuses characters at which Python or libraries fail, each in its own way, wherever the path is used."""
    if "\0" in str(value):
        raise ValueError("must not contain a NUL character")
    try:
        str(value).encode()
    except UnicodeEncodeError:  # for example a home directory in a locale that lacks UTF-8
        raise ValueError("must be UTF-8, as it is everywhere with PYTHONUTF8=1") from None
    return value


Location = Annotated[Path, BeforeValidator(_refuse_empty), AfterValidator(_check_path)]
PositiveInt = Annotated[int, Field(ge=1), BeforeValidator(_refuse_bool), AfterValidator(_refuse_huge)]
NonNegativeInt = Annotated[int, Field(ge=0), BeforeValidator(_refuse_bool), AfterValidator(_refuse_huge)]
AtLeastTwo = Annotated[int, Field(ge=2), BeforeValidator(_refuse_bool), AfterValidator(_refuse_huge)]
AtLeastThree = Annotated[int, Field(ge=3), BeforeValidator(_refuse_bool), AfterValidator(_refuse_huge)]
Seed = Annotated[int, Field(ge=0, lt=2**32), BeforeValidator(_refuse_bool)]
MayHoldSecret = Annotated[str, PlainSerializer(redact, return_type=str)]  # redacted wherever the model is written
Name = Annotated[str, Field(min_length=1), BeforeValidator(_number_to_text)]

MonitorName = Literal["f1", "accuracy", "balanced_accuracy", "weighted_f1", "mcc", "loss"]  # metrics/selection.py


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, and values do not change after validation.

    Each field sets in ``Field``:
        description: What the key means, in short sentences. The help and the documentation show it.
        examples: Overrides as typed on the command line. Error messages suggest the first.
        json_schema_extra: ``must_be``, the wording of the error message where that of the type is not clear enough;
            ``default``, the wording of the help where the default depends on the time or the machine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def extra(field: FieldInfo, name: str) -> str | None:
    """The text ``name`` in ``json_schema_extra`` of ``field``; None where there is none."""
    value = field.json_schema_extra.get(name) if isinstance(field.json_schema_extra, dict) else None
    return value if isinstance(value, str) else None


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that ``field`` holds; None where it holds a value."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def fields(schema: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """All values of ``schema``, by their dotted keys."""
    found: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        section = section_of(field)
        found |= {prefix + name: field} if section is None else fields(section, f"{prefix}{name}.")
    return found
