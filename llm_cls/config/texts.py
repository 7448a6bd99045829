"""The keys that turn the rows of a table into texts: the template and its columns."""

import string
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from llm_cls.config.fields import Name, Section

LONGEST = "longest"


def _one_by_itself(value: Any) -> Any:
    """Turns a list of one column into that column."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _refuse_repeated(value: Any) -> Any:
    """Refuses a list that names a column twice."""
    if isinstance(value, list) and len(set(value)) < len(value):
        raise ValueError("must name each column once")
    return value


_Names = Annotated[list[Name], Field(min_length=1), AfterValidator(_refuse_repeated)]
Columns = Annotated[Name | _Names, BeforeValidator(_one_by_itself)]


def parse_template(text: str) -> list[tuple[str, str | None]]:
    """The literal parts of a template, each with the field that follows it; the last one may have none.

    Raises:
        ValueError: It is not a template.
    """
    parts = []
    for literal, field, form, conversion in string.Formatter().parse(text):
        if form or conversion:
            raise ValueError(
                "text must not contain format specifications. Write {title} and {body} without ':' and '!'"
            )
        parts.append((literal, field))
    return parts


class TemplateConfig(Section):
    """How the columns of a text become one string."""

    name: Name = Field(description="Name of the template in reports.", examples=["template=2"])
    text: str = Field(
        description="The string. {body} stands for data.text or data.body, {title} for data.title, and every other "
        "name in braces for the column of that name.",
        examples=["'template.text=\"{title}: {body}\"'", "'template.text=\"{question}\\n{answer}\"'"],
    )

    @model_validator(mode="after")
    def _fields_are_known(self) -> Self:
        try:
            fields = self.fields
        except ValueError as error:
            message = str(error)
            raise ValueError(message if message.startswith("text ") else f"text is not a template: {error}") from None
        if "" in fields:
            raise ValueError("text has {}, which names no column. Write {body}, or the name of a column in the braces")
        if not fields:
            raise ValueError("text contains no column. Write {body} where the text belongs")
        if fields.count("body") > 1:
            raise ValueError(f"text may contain {{body}} once only, got {fields.count('body')} times")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """The names in braces, in their order."""
        return tuple(field for _, field in parse_template(self.text) if field is not None)

    @property
    def uses_title(self) -> bool:
        """Whether ``{title}`` occurs."""
        return "title" in self.fields


class TextsConfig(Section):
    """The keys of ``data`` that say what of a row the network reads."""

    columns: list[Name] | None = Field(
        None,
        description="Columns that a template may use beside {title} and {body} (data=table). Runs with the same "
        "columns are compared in a report, whichever of them their templates use.",
        examples=["data.columns=[question,answer]"],
        json_schema_extra={"default": "those that the template names"},
    )
    cut: Name | None = Field(
        None,
        description="Column that is cut where a text is too long (data.truncation=body), as it is named in the "
        "template; longest cuts the longest column first. null: the columns of {body}, or longest where the "
        "template has no {body}. Of several columns the longest is cut first.",
        examples=["data.cut=answer", "data.cut=longest"],
    )


def with_template_columns(values: Any) -> Any:
    """The raw configuration, where ``data.columns`` lists the columns that the template names."""
    if not isinstance(values, dict):
        return values
    data, template = values.get("data"), values.get("template")
    if not (isinstance(data, dict) and isinstance(template, dict)) or data.get("columns") is not None:
        return values
    try:
        fields = [field for _, field in parse_template(str(template.get("text"))) if field]
    except ValueError:
        return values  # the template itself is checked later
    own = [field for field in dict.fromkeys(fields) if field not in ("title", "body")]
    return values | {"data": data | {"columns": own}} if own else values


def column_faults(template: TemplateConfig, data: Any) -> list[str]:
    """What does not fit between a template and the columns in ``data``, a line for each fault."""
    faults = []
    name, fields = template.name, template.fields
    own = [field for field in fields if field not in ("title", "body")]
    if own and data.label is None:
        faults.append(
            f"template {name!r} has {{{own[0]}}}, but data={data.name} has {{title}} and {{body}} only. "
            "Try template=2, or data=table"
        )
    elif missing := [field for field in own if field not in (data.columns or ())]:
        faults.append(
            f"data.columns lacks {missing[0]!r}, which template {name!r} has. "
            f"Try data.columns=[{','.join([*(data.columns or ()), *missing])}]"
        )
    if data.name in ("table", "hub"):
        if template.uses_title and data.title is None:
            faults.append(
                f"template {name!r} has {{title}}, but data.title names no column. "
                "Try template=text, or data.title=COLUMN data.body=COLUMN"
            )
        if data.title is not None and not template.uses_title:
            faults.append(f"data.title is set, but template {name!r} has no {{title}}. Try template=2")
        if "body" in fields and data.text is None and data.body is None and data.columns:
            faults.append(f"template {name!r} has {{body}}, but data.text names no column. Try data.text=COLUMN")
        if "body" not in fields and (data.text is not None or data.body is not None):
            key = "data.text" if data.text is not None else "data.body"
            faults.append(f"{key} is set, but template {name!r} has no {{body}}. Remove {key}, or try template=text")
    body = data.text if isinstance(data.text, list) else ["body"]
    slots = [part for field in fields for part in (body if field == "body" else [field])]
    if data.cut not in (None, LONGEST):
        if data.truncation == "end":
            faults.append("data.cut needs data.truncation=body. With data.truncation=end, the end of all is cut")
        elif slots.count(data.cut) != 1:
            faults.append(
                f"data.cut={data.cut} must be a column that template {name!r} has once, or longest. "
                f"It has {', '.join(slots)}"
            )
    return faults
