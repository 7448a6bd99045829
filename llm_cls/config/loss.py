"""The section that chooses what training minimises."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llm_cls.config.fields import Section
from llm_cls.config.mappings import read_mapping

_Weight = Annotated[float, Field(gt=0)]


class LossConfig(Section):
    """What training minimises; the loss of val and test in every file is the plain mean cross-entropy."""

    name: Literal["cross_entropy", "focal"] = Field(
        "cross_entropy",
        description="cross_entropy, or focal: cross-entropy times (1 - p)^gamma, where p is the probability of the "
        "text's label.",
        examples=["loss=focal"],
    )
    class_weights: Annotated[
        Literal["balanced"] | Annotated[dict[str, _Weight], Field(min_length=1)] | None, BeforeValidator(read_mapping)
    ] = Field(
        None,
        description="Weight of the texts of each label. balanced: inversely proportional to the label's number of "
        "training texts, as in scikit-learn. A mapping gives weights by label; other labels have 1. The loss of a step "
        "is divided by the sum of the weights of its texts. null: no weights.",
        examples=["loss.class_weights=balanced", "'loss.class_weights={peachy:2,smax:0.5}'"],
        json_schema_extra={"must_be": "balanced, a mapping of labels to numbers > 0, or null"},
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of each text's target that is spread evenly over all labels (cross_entropy).",
        examples=["loss.label_smoothing=0.1"],
    )
    gamma: float = Field(
        2.0,
        ge=0,
        description="How strongly texts that are classified well count less (focal); 0 is cross-entropy.",
        examples=["loss.gamma=2"],
    )

    @model_validator(mode="after")
    def _smoothing_needs_cross_entropy(self) -> Self:
        if self.name == "focal" and self.label_smoothing:
            raise ValueError(
                f"loss.label_smoothing must be 0 with loss=focal, which is defined for one label per text, got "
                f"{self.label_smoothing:g}. Try loss=cross_entropy"
            )
        return self
