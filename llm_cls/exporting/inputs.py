"""What every format of an export is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_cls.data.corpus import Text
from llm_cls.data.template import Pieces
from llm_cls.data.tokens import Tokens
from llm_cls.exporting.client import Texts as Client
from llm_cls.exporting.network import Head
from llm_cls.exporting.parity import LIMITS, Comparison, Floats, IdsFound, Parity, compare, versions
from llm_cls.model.classifier import TextClassifier
from llm_cls.training.loaded import OpenedRun


@dataclass(frozen=True)
class Texts:
    """The texts of a run.

    Attributes:
        test: Those whose probabilities are compared.
        pieces: The parts of these, as ``template.render`` returns them.
        tokens: The ids of these.
        strings: All texts of the run, as servers get them.
    """

    test: Sequence[Text]
    pieces: Sequence[Pieces]
    tokens: Tokens
    strings: Sequence[str]


@dataclass(frozen=True)
class Exported:
    """An export in the making.

    Attributes:
        format: "merged", "peft" or "onnx".
        dtype: Of the stored weights.
        batch_size: Texts per forward pass.
        vllm: Python of an environment with vLLM.
        opened: The run.
        classifier: Its classifier, float32, on the CPU.
        tokenizer: The exported tokenizer, loaded from its files.
        expected: The probabilities of the run for the test texts, shape ``(n, n_labels)``.
        texts: The texts.
        ids: How the ids compare.
    """

    format: str
    dtype: str
    batch_size: int
    vllm: Path | None
    opened: OpenedRun
    classifier: TextClassifier
    tokenizer: Any
    expected: Floats
    texts: Texts
    ids: IdsFound

    @property
    def head(self) -> Head:
        """The head of the run, with its calibration if that was asked for."""
        calibration = self.opened.calibration
        scaling = None if calibration is None else calibration.scaling
        return Head(self.classifier.head.weight.detach()).scaled(scaling)

    @property
    def attention(self) -> str | None:
        """The attention that computes what the architecture asks for; None is the default of ``transformers``."""
        network: Any = self.classifier.decoder
        return "eager" if network.config._attn_implementation == "eager" else None

    @property
    def rows(self) -> list[list[int]]:
        """The ids of the test texts, as in training."""
        return [self.texts.tokens[i].tolist() for i in range(len(self.texts.tokens))]

    def strings(self, folder: Path) -> list[str]:
        """The test texts as the client in ``folder`` sends them."""
        client = Client(folder)
        return [client.string(**text.values) for text in self.texts.test]

    def compared(
        self, software: str, input: str, found: Floats, strings: Sequence[str] | None = None
    ) -> list[Comparison]:
        """The comparisons of probabilities of all test texts.

        Strings with other ids than in training, as some that are cut have, are compared but not certified.

        Args:
            software: What computed them.
            input: "ids" or "strings".
            found: The probabilities.
            strings: What was sent, if not ids.
        """
        if strings is None:
            return [compare(software, input, found, self.expected)]
        rows = zip(self.rows, self.tokenizer(list(strings), verbose=False)["input_ids"], strict=True)
        same = [i for i, (ours, theirs) in enumerate(rows) if ours == theirs]
        other = sorted(set(range(len(found))) - set(same))
        kinds = [(input, same, True), (f"{input} with other ids", other, False)]
        return [compare(software, name, found[i], self.expected[i], sure) for name, i, sure in kinds if i]

    def parity(self, config: Any, comparisons: list[Comparison], others: Mapping[str, str]) -> Parity:
        """The content of ``parity.json``."""
        labels = list(self.opened.labels)
        largest, mean = LIMITS[self.dtype]
        return Parity(
            schema_version=1,
            run_id=self.opened.record.run_id,
            format=self.format,
            dtype=self.dtype,
            calibration=None if self.opened.calibration is None else self.opened.calibration.digest,
            largest_allowed=largest,
            mean_allowed=mean,
            labels=labels,
            label_order_equal=[config.id2label.get(i) for i in range(len(labels))] == labels
            and config.label2id == {label: i for i, label in enumerate(labels)},
            pad_token=self.tokenizer.pad_token,
            ids=self.ids,
            comparisons=comparisons,
            versions=versions(["llm_cls", "torch", "transformers", "tokenizers"]) | dict(others),
        )
