"""The arguments of ``calibrate``, and those of the decisions of a calibrated run."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from llm_cls.config.fields import Location, Name, Section


def _not_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


Share = Annotated[float, Field(gt=0, lt=1), BeforeValidator(_not_bool)]


class CalibrateArguments(Section):
    """Calibrates the probabilities of a finished run on its val texts, and fits decisions; it loads no model."""

    run: Location = Field(
        description="Run directory of a finished run.", examples=["run=outputs/runs/2026-01-31/12-00-00-000000"]
    )
    method: Literal["auto", "none", "temperature", "temperature_and_bias"] = Field(
        "auto",
        description="What is fitted; auto chooses by cross-validation on val.",
        examples=["method=temperature"],
    )
    target_accuracy: Share | None = Field(
        None,
        description="Accuracy that a confidence threshold is to keep; texts below it are not labelled.",
        examples=["target_accuracy=0.95"],
    )
    delta: Share = Field(
        0.1,
        description="Probability, over the draw of the val texts, with which the threshold may miss the target.",
        examples=["delta=0.05"],
    )
    alpha: Share | None = Field(
        None,
        description="Split-conformal sets of labels miss the true label of at most this share of the texts.",
        examples=["alpha=0.1"],
    )
    cost: Location | None = Field(
        None,
        description="JSON or YAML file with the cost of each decision for each true label, as "
        "{true: {decision: cost}}. A cost that is not given is 0 for the true label and 1 for another. The decision "
        "none_label is to abstain.",
        examples=["cost=costs.yaml"],
    )
    oos: Name | None = Field(
        None,
        description="Label of the texts that are out of scope: its recall and precision over thresholds are shown.",
        examples=["oos=oos"],
    )
    none_label: Name = Field(
        "none",
        description="What texts are labelled on which the classifier abstains. It must not be a label.",
        examples=["none_label=unknown"],
    )


class DecisionArguments(Section):
    """How a scored text gets its label."""

    calibrated: bool = Field(
        False,
        description="Whether probabilities are calibrated, as llm_cls.calibrate has stored it in the run.",
        examples=["calibrated=true"],
    )
    decide: Literal["argmax", "policy", "cost"] | Share = Field(
        "argmax",
        description="How a text gets its label: the most probable one; only from a confidence upwards, given as a "
        "number; policy, only from the threshold of llm_cls.calibrate target_accuracy=...; or cost, the one of least "
        "expected cost by llm_cls.calibrate cost=.... policy and cost need calibrated=true.",
        examples=["decide=0.9", "decide=policy"],
        json_schema_extra={"must_be": "argmax, policy, cost or a number between 0 and 1"},
    )
    none_label: Name | None = Field(
        None,
        description="What a text is labelled on which the classifier abstains. It must not be a label of the run.",
        examples=["none_label=unknown"],
        json_schema_extra={"default": "that of the calibration, or none"},
    )
    sets: bool = Field(
        False,
        description="Whether each text also gets a set of labels, which misses the true one as rarely as "
        "llm_cls.calibrate alpha=... says. It needs calibrated=true.",
        examples=["sets=true"],
    )

    @model_validator(mode="after")
    def _fitted_on_calibrated(self) -> Self:
        if self.decide in ("policy", "cost") and not self.calibrated:
            raise ValueError(f"decide={self.decide} was fitted on calibrated probabilities. Add calibrated=true")
        if self.sets and not self.calibrated:
            raise ValueError("sets=true was fitted on calibrated probabilities. Add calibrated=true")
        return self
