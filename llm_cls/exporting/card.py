"""The model card of an export: ``README.md``."""

from pathlib import Path

import yaml

from llm_cls.config.schema import Config
from llm_cls.data.template import layout
from llm_cls.errors import LlmClsError
from llm_cls.exporting.inputs import Exported
from llm_cls.exporting.parity import Parity
from llm_cls.hub import is_local, local_file
from llm_cls.metrics.percent import percent
from llm_cls.runs.schema import TestScores, ValScores

_TEXT = 'text = Texts("FOLDER").string("BODY", title="TITLE")'
_USAGE = {
    "merged": (
        "from client import Texts  # of this model: set PYTHONPATH=FOLDER",
        "from transformers import pipeline",
        "",
        _TEXT,
        'classify = pipeline("text-classification", model="FOLDER", top_k=None{attention})',
        "print(classify([text]))",
    ),
    "peft": (
        "import json",
        "from client import Texts  # of this model: set PYTHONPATH=FOLDER",
        "from peft import AutoPeftModelForSequenceClassification",
        "from transformers import AutoTokenizer, pipeline",
        "",
        _TEXT,
        'names = json.load(open("FOLDER/llm_cls.json"))["labels"]',
        'labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}',
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        "model = AutoPeftModelForSequenceClassification.from_pretrained(",
        '    "FOLDER", pad_token_id=tokenizer.pad_token_id, dtype="float32"{eager}, **labels',
        ")",
        'classify = pipeline("text-classification", model=model.merge_and_unload(), tokenizer=tokenizer, top_k=None)',
        "print(classify([text]))",
    ),
    "onnx": (
        "import json",
        "import numpy",
        "import onnxruntime",
        "from client import Texts  # of this model: set PYTHONPATH=FOLDER",
        "",
        'ids = numpy.array([Texts("FOLDER").token_ids("BODY", title="TITLE")])',
        'model = onnxruntime.InferenceSession("FOLDER/model.onnx")',
        'logits = model.run(["logits"], {"input_ids": ids, "attention_mask": numpy.ones_like(ids)})[0]',
        'print(json.load(open("FOLDER/llm_cls.json"))["labels"][logits[0].argmax()])',
    ),
}
_LIBRARIES = {"merged": "transformers", "peft": "peft", "onnx": "onnx"}


def model_card(exported: Exported, parity: Parity, license: str | None, name: str) -> str:
    """The card, in Markdown with the header that the hub reads.

    Args:
        exported: The export.
        parity: How it compares with the run.
        license: Of the weights; None takes that of the pretrained model, where its card names one.
        name: Of the export.
    """
    opened = exported.opened
    config, record, metrics = opened.config, opened.record, opened.metrics
    base = base_name(config.model.name)
    header = {
        "license": license or base_license(config.model.name, config.model.revision) or "other",
        **({"base_model": base} if not is_local(config.model.name) else {}),
        "pipeline_tag": "text-classification",
        "library_name": _LIBRARIES[exported.format],
        "tags": ["llm_cls"],
    }
    lora = config.lora
    how = (
        f"LoRA (r {lora.r}, alpha {lora.lora_alpha}) and a linear head"
        if lora.enabled
        else "all weights and a linear head"
        if lora.full
        else "a linear head"
    )
    largest = max(found.largest_difference for found in parity.comparisons if found.certified)
    lines = [
        "---",
        yaml.safe_dump(header, allow_unicode=True, sort_keys=False).rstrip(),
        "---",
        "",
        f"# {cell(name)}",
        "",
        f"Classifies texts into {len(opened.labels)} labels. Trained with llm_cls: {how} on {cell(base)} "
        f"(revision `{record.model.revision}`).",
        "",
        "```python",
        _usage(exported),
        "```",
        "",
        "`client.py`, part of this model, renders a text with the template of the training and cuts it as in training, "
        f"to {config.data.max_length} tokens with BOS and EOS.",
        "",
        "## Scores",
        "",
        "| split | texts | macro F1 % | 95 % interval | accuracy % | precision % | recall % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        _scores("val", metrics.val),
        *([_scores("test", metrics.test)] if metrics.test else []),
        "",
        "| label | test texts | F1 % | precision % | recall % |",
        "| --- | --- | --- | --- | --- |",
    ]
    for label in opened.labels:
        found = metrics.per_class.get(label)
        shown = [str(percent(score)) for score in (found.f1, found.precision, found.recall)] if found else ["", "", ""]
        lines.append(f"| {cell(label)} | {found.support if found else 0} | {' | '.join(shown)} |")
    lines += _calibration(exported)
    data = record.data
    lines += [
        "",
        "## Data and template",
        "",
        f"{cell(data.name)}: {data.n_train} texts to train, {data.n_val} to select the epoch, {data.n_test} to test; "
        f"digest `{data.digest}`. The text is",
        "",
        *(f"    {line}" for line in config.template.text.split("\n")),
        "",
        "## Parity",
        "",
        f"Compared with the run `{record.run_id}` on its test texts (`parity.json`): probabilities differ by "
        f"{largest:.1e} at most; {parity.ids.equal} of {parity.ids.texts} texts have equal ids. "
        f"Weights: {parity.dtype}.",
    ]
    return "\n".join(lines) + "\n"


def _calibration(exported: Exported) -> list[str]:
    """What the probabilities are, where the calibration of the run is in the head."""
    found = exported.opened.calibration
    if found is None:
        return []
    how = f"temperature {found.temperature:.4g}"
    if any(found.biases):
        how += ", and a bias for each label, which may change labels; the scores are those without it"
    lines = ["", f"The head computes calibrated probabilities ({how})."]
    if found.policy is not None and found.policy.threshold is not None:
        lines.append(f"Label texts from a confidence of {found.policy.threshold:.6g}. {found.policy.guarantee}")
    return lines


def base_name(name: str) -> str:
    """The pretrained model, never by a path of this machine."""
    return Path(name).name if is_local(name) else name


def base_license(name: str, revision: str | None) -> str | None:
    """The licence in the card of a pretrained model, if it has one on this machine."""
    try:
        path = local_file(name, "README.md", revision)
    except LlmClsError:  # the hub cannot be reached, and it is not in the cache
        path = None
    if path is None:
        return None
    try:
        parts = path.read_text(encoding="utf-8").split("---\n")
        header = yaml.safe_load(parts[1]) if len(parts) > 2 and not parts[0] else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    found = header.get("license") if isinstance(header, dict) else None
    return found if isinstance(found, str) else None


def cell(text: str) -> str:
    """A text of the data inside of Markdown, where it must be text."""
    for mark in "\\`*_[]<>|#":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def _scores(split: str, scores: ValScores) -> str:
    interval = scores.f1_ci95 if isinstance(scores, TestScores) else None
    shown = f"{percent(interval[0])} to {percent(interval[1])}" if interval else ""
    found = (scores.accuracy, scores.precision, scores.recall)
    values = ["" if value is None else str(percent(value)) for value in found]
    f1 = "" if scores.f1 is None else percent(scores.f1)
    return f"| {split} | {scores.n} | {f1} | {shown} | {' | '.join(values)} |"


def _usage(exported: Exported) -> str:
    """Python that uses the export."""
    eager = ', model_kwargs={"attn_implementation": "eager"}' if exported.attention else ""
    lines = "\n".join(_USAGE[exported.format]).replace("{attention}", eager)
    lines = lines.replace("{eager}", ', attn_implementation="eager"' if exported.attention else "")
    config = exported.opened.config
    return lines.replace('"BODY", title="TITLE"', ", ".join(map(_argument, _fields(config))))


def _fields(config: Config) -> list[str]:
    """The names of the columns that a text has, the body first."""
    return sorted((name for _, name in layout(config.template, config.data).slots), key=lambda name: name != "body")


def _argument(name: str) -> str:
    if name == "body":
        return '"BODY"'
    return f'{name}="{name.upper()}"' if name.isidentifier() else f"**{{{name!r}: {name.upper()!r}}}"
