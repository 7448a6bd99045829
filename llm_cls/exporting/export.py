"""Exports a finished run: written beside the output, compared with the run, and renamed only where it is equal."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from llm_cls.cli import note
from llm_cls.config.exporting import ExportArguments
from llm_cls.config.schema import Config
from llm_cls.data.load import read_corpus
from llm_cls.data.template import layout, render
from llm_cls.data.tokenizer import SentencePieceTokenizer, Tokenizer
from llm_cls.errors import ConfigError, DataError
from llm_cls.exporting import adapter, client, merged, onnx
from llm_cls.exporting.card import model_card
from llm_cls.exporting.inputs import Exported, Texts
from llm_cls.exporting.parity import IdsFound, Parity
from llm_cls.exporting.sentencepiece import same_score
from llm_cls.exporting.served import vllm_python
from llm_cls.exporting.tokenizer import serving_tokenizer
from llm_cls.files import atomic_folder, check_output, write_json, write_text
from llm_cls.runs.content import write_content
from llm_cls.training.loaded import OpenedRun, load_run, open_run, scoring_hardware

PARITY = "parity.json"
SETTINGS = "llm_cls.json"  # what client.py reads
_WRITERS = {"merged": merged.write, "peft": adapter.write, "onnx": onnx.write}


def export(arguments: ExportArguments) -> Parity:
    """Writes the export.

    Returns:
        How it compares with the run.

    Raises:
        ConfigError: The output exists, or other software cannot compute what the run does.
        ArtifactError: The run is damaged, or the export computes something else.
        DataError: The texts of the run are others by now.
    """
    if os.path.lexists(arguments.output):
        raise ConfigError(f"output={arguments.output} exists. Give the name of a new folder, or remove it")
    check_output(arguments.output)
    transformers_logging.disable_progress_bar()
    opened = open_run(arguments.run, arguments.trust_remote_code, arguments.calibrated)
    texts = _texts(opened, arguments.texts)
    note(f"Scoring {len(texts.test)} texts with the run")
    loaded = load_run(opened, scoring_hardware("cpu"))
    expected = np.exp(loaded.log_probabilities(texts.pieces, arguments.batch_size))
    with atomic_folder(arguments.output) as folder:
        tokenizer, ids = _write_tokenizer(folder, opened, texts)
        exported = Exported(
            format=arguments.format,
            dtype=arguments.dtype,
            batch_size=arguments.batch_size,
            vllm=vllm_python(arguments.vllm),
            opened=opened,
            classifier=loaded.classifier,
            tokenizer=tokenizer,
            expected=expected,
            texts=texts,
            ids=ids,
        )
        note(f"Writing and comparing format={arguments.format}")
        parity = _WRITERS[arguments.format](folder, exported)
        parity.check()
        write_content(folder / PARITY, parity)
        write_text(folder / "README.md", model_card(exported, parity, arguments.license, arguments.output.name))
    return parity


def _texts(opened: OpenedRun, limit: int | None) -> Texts:
    corpus = read_corpus(opened.config.data)
    recorded = opened.record.data
    if corpus.digest != recorded.digest:
        raise DataError(
            f"{corpus.name} holds other texts than the run was trained on: expected the digest {recorded.digest[:12]}, "
            f"found {corpus.digest[:12]}. Restore them"
        )
    parts = layout(opened.config.template, opened.config.data)
    rendered = {split: [render(parts, text.values) for text in texts] for split, texts in corpus.splits.items()}
    compared = "test" if corpus.has_test else "val"
    pieces = rendered[compared][:limit]
    strings = ["".join(piece) for split in rendered.values() for piece in split]
    return Texts(corpus.splits[compared][:limit], pieces, opened.tokenize(pieces), strings)


def _write_tokenizer(folder: Path, opened: OpenedRun, texts: Texts) -> tuple[PreTrainedTokenizerBase, IdsFound]:
    """Writes tokenizer and client, and compares the ids of all texts of the run with those of the training."""
    trained, data = opened.tokenizer, opened.config.data
    plain = trained.encode(texts.strings)
    wanted = [[*trained.prefix, *row, trained.eos_id] for row in plain]
    used = {int(i) for row in plain for i in set(row)}
    n_embeddings = getattr(opened.architecture, "vocab_size", None)
    serving_tokenizer(trained, data.max_length, used, n_embeddings).save_pretrained(folder)
    write_settings(folder, trained, opened.config, opened.labels)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = tokenizer(list(texts.strings), verbose=False)["input_ids"]
    others = [(a, b) for a, b in zip(wanted, found, strict=True) if a != b]
    ties = sum(same_score(trained.proto, a, b) for a, b in others) if isinstance(trained, SentencePieceTokenizer) else 0
    cut = sum(len(row) > data.max_length for row in wanted)
    return tokenizer, IdsFound(texts=len(wanted), equal=len(wanted) - len(others), ties=ties, cut=cut)


def write_settings(folder: Path, trained: Tokenizer, config: Config, labels: Sequence[str]) -> None:
    """Writes ``client.py`` and what it reads."""
    data, parts = config.data, layout(config.template, config.data)
    settings = {
        "template": config.template.text,
        "slots": parts.slots,
        "tail": parts.tail,
        "cut": sorted(parts.cut),
        "truncation": data.truncation,
        "max_length": data.max_length,
        "prefix_ids": list(trained.prefix),
        "eos_id": trained.eos_id,
        "labels": list(labels),
    }
    write_json(folder / SETTINGS, settings)
    if isinstance(trained, SentencePieceTokenizer):
        (folder / "sentencepiece.model").write_bytes(trained.proto)
    (folder / "client.py").write_bytes(Path(client.__file__).read_bytes())
