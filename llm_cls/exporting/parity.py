"""What an export computes against what its run computes: ``parity.json``."""

import platform
from collections.abc import Sequence
from importlib import metadata

import numpy as np
import numpy.typing as npt
from pydantic import Field

from llm_cls.errors import ArtifactError
from llm_cls.runs.schema import Count, FileContent

# The largest and the mean difference of probabilities that are allowed. float32 differs by the order of sums alone; the
# others round the weights, and bf16 the states as well.
LIMITS = {"float32": (1e-5, 1e-6), "bf16": (0.1, 0.01), "int8": (0.5, 0.05)}

Floats = npt.NDArray[np.float64]


class Comparison(FileContent):
    """The probabilities of an export against those of the run.

    Attributes:
        software: What computed them.
        input: "ids" or "strings".
        texts: How many.
        largest_difference: Of two probabilities.
        mean_difference: Of all of them.
        changed_decisions: Texts whose most probable label is another.
        certified: Whether the limits hold for it; they do not for strings with other ids, such as those that are cut.
    """

    software: str
    input: str
    texts: Count
    largest_difference: float
    mean_difference: float
    changed_decisions: Count
    certified: bool = True


class IdsFound(FileContent):
    """The ids of the exported tokenizer against those of the training.

    Attributes:
        texts: Of all splits, as strings.
        equal: Of these, the ones with equal ids; longer ones are compared before they are cut.
        ties: Those that a SentencePiece model divides in two ways of the same score. It adds scores in float32, whose
            rounding decides, and ``tokenizers`` in float64.
        cut: Texts that are longer than a text may be.
    """

    texts: Count
    equal: Count
    ties: Count
    cut: Count


class Parity(FileContent):
    """``parity.json``.

    Attributes:
        schema_version: Of this file.
        run_id: Of the run.
        format: "merged", "peft" or "onnx".
        dtype: Of the stored weights.
        calibration: The sha256 of the calibration of the probabilities, null for those of the network.
        largest_allowed: Largest difference of two probabilities that is allowed.
        mean_allowed: Mean difference that is allowed.
        labels: In the order of the outputs.
        label_order_equal: Whether the files name them in this order.
        pad_token: The token that pads; no text of the run has it.
        ids: Of all texts of the run.
        comparisons: Of the probabilities of the test texts.
        versions: Of the software.
    """

    schema_version: int = Field(1, alias="schema")
    run_id: str
    format: str
    dtype: str
    calibration: str | None = None
    largest_allowed: float
    mean_allowed: float
    labels: list[str]
    label_order_equal: bool
    pad_token: str
    ids: IdsFound
    comparisons: list[Comparison]
    versions: dict[str, str]

    def check(self) -> None:
        """Refuses an export that differs from its run.

        Raises:
            ArtifactError: What differs.
        """
        if not self.label_order_equal:
            raise ArtifactError("The exported labels are in another order than those of the run. Nothing was written")
        if other := self.ids.texts - self.ids.equal - self.ids.ties:
            raise ArtifactError(
                f"The exported tokenizer gives other ids for {other} of {self.ids.texts} texts. Nothing was written"
            )
        for found in self.comparisons:
            if not found.certified:
                continue
            for what, difference, allowed in (
                ("a probability", found.largest_difference, self.largest_allowed),
                ("the mean probability", found.mean_difference, self.mean_allowed),
            ):
                if not difference <= allowed:  # NaN too
                    raise ArtifactError(
                        f"{found.software} computes something else from {found.input}: {what} differs by "
                        f"{difference:.1e}, allowed is {allowed:.0e} ({self.dtype}). Nothing was written"
                    )

    def lines(self) -> list[str]:
        """The figures, a line each."""
        calibrated = ", calibrated" if self.calibration is not None else ""
        lines = [f"{self.format}, {self.dtype}{calibrated}: {self.ids.equal} of {self.ids.texts} texts have equal ids"]
        if self.ids.ties:
            lines.append(
                f"  {self.ids.ties} texts have two tokenizations of the same score, of which training used the other"
            )
        for found in self.comparisons:
            lines.append(
                f"  {found.software} from {found.input}: probabilities differ by {found.largest_difference:.1e} at "
                f"most, {found.mean_difference:.1e} on average; {found.changed_decisions} of {found.texts} decisions "
                "changed"
            )
        return lines


def compare(software: str, input: str, found: Floats, expected: Floats, certified: bool = True) -> Comparison:
    """Compares probabilities of shape ``(n, n_labels)``, n >= 1."""
    difference = np.abs(found - expected)
    return Comparison(
        software=software,
        input=input,
        texts=len(expected),
        largest_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        changed_decisions=int((found.argmax(axis=1) != expected.argmax(axis=1)).sum()),
        certified=certified,
    )


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
