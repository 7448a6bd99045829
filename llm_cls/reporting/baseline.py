"""A classical baseline on the splits of the winner, to show what the LLM adds."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_cls.errors import LlmClsError, first_line
from llm_cls.files import sha256_json, write_json
from llm_cls.metrics.scores import SCORES, Scores, confusion_matrix, scores
from llm_cls.metrics.statistics import Ints, ci95
from llm_cls.reporting.runs import Run, describe_error
from llm_cls.runs import layout
from llm_cls.runs.predictions import Predictions

# Not configurable: a tuned baseline would be another experiment.
SETTINGS: Mapping[str, Any] = {
    "ngram_range": [1, 2],
    "sublinear_tf": True,
    "min_df": 2,
    "max_features": 30_000,
    "C": 10.0,
    "max_iter": 200,
}
DESCRIPTION = (
    "character 1- and 2-gram TF-IDF of all columns of a text (sublinear, the 30,000 most frequent n-grams) with "
    "logistic regression (C = 10), fitted on the same training texts with scikit-learn"
)


@dataclass(frozen=True)
class Baseline:
    """The baseline on one or several splits.

    Attributes:
        predictions: For each split, the id of each test text to the name of the predicted label.
        scores: Means over the splits.
        interval: 95 % interval of ``score`` over test texts: for several splits the mean of their bounds.
        score: The score that is compared with that of runs: mean over the splits.
        cost: Milliseconds per test text and GiB of the fitted model, as measured on this machine: means over the
            splits.
    """

    predictions: tuple[Mapping[str, str], ...]
    scores: Scores
    interval: tuple[float, float]
    score: float
    cost: tuple[float | None, float | None] = (None, None)

    def on(self, texts: Predictions) -> list[Ints]:
        """Class indices, shape ``(n,)`` in the order of ``texts``, predicted on each split with these test texts."""
        index = {name: i for i, name in enumerate(texts.names)}
        return [
            np.array([index[found[i]] for i in texts.ids], dtype=np.int64)
            for found in self.predictions
            if found.keys() == set(texts.ids) and set(found.values()) <= index.keys()
        ]


def baseline_of(runs: Sequence[Run], score: str = "f1") -> tuple[Baseline | None, str]:
    """The baseline on every split of ``runs``, cached or fitted now, and ""; or None and the reason.

    Args:
        runs: The runs of a setting.
        score: The one of ``scores.SCORES`` that is compared.
    """
    splits: dict[str, Run] = {}
    for run in runs:
        splits.setdefault(_split_digest(run), run)
    found = []
    for digest, run in splits.items():
        try:
            found.append(_on_split(run, digest))
        except (LlmClsError, ImportError, OSError, ValueError, KeyError, AssertionError) as error:
            # Without one split, the scores would be of other texts than those of the runs.
            where = f"on the split of {run.name}: " if len(splits) > 1 else ""
            return None, where + _reason(error)
    confusions = [confusion for _, confusion, _ in found]
    ms_per_text, gib = np.mean([cost for _, _, cost in found], axis=0).tolist()
    low, high = np.mean([ci95(confusion, SCORES[score]) for confusion in confusions], axis=0).tolist()
    own = float(np.mean([SCORES[score](confusion) for confusion in confusions]))
    means = np.mean([astuple(scores(confusion)) for confusion in confusions], axis=0).tolist()
    predictions = tuple(predictions for predictions, _, _ in found)
    return Baseline(predictions, Scores(*means), (low, high), own, (ms_per_text, gib)), ""


def _on_split(run: Run, digest: str) -> tuple[Mapping[str, str], Ints, tuple[float, float]]:
    """Predictions of the test texts by id, their confusion matrix, and the cost, cached or fitted now.

    Raises:
        LlmClsError: The texts are not on this machine, or have changed since the run.
        ImportError: scikit-learn is missing.
    """
    # The folder of this machine: that in the configuration of a run may be of another, or be anything.
    cache = Path(os.environ.get("LLM_CLS_CACHE") or "~/.cache/llm_cls").expanduser() / "baseline" / f"{digest}.json"
    found = _read_cache(cache)
    if found is None:
        found = _fit(run)
        _write_cache(cache, found)
    labels, predictions = found["labels"], found["predictions"]
    assert run.record is not None
    index = {name: i for i, name in enumerate(run.record.data.labels)}
    confusion = confusion_matrix(
        np.array([index[labels[i]] for i in labels], dtype=np.int64),
        np.array([index[predictions[i]] for i in labels], dtype=np.int64),
        len(index),
    )
    return predictions, confusion, (found["cost"]["ms_per_text"], found["cost"]["gib"])


def _reason(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"{error.name or error} is not installed. Try pip install scikit-learn"
    return first_line(error) if isinstance(error, LlmClsError) else describe_error(error)


def _split_digest(run: Run) -> str:
    """Name of the cache file; equal for runs on the same split."""
    assert run.record is not None
    data = run.record.data
    split = {key: run.config.get(f"data.{key}") for key in ("split_seed", "limit", "folds", "fold")}
    return sha256_json([data.digest, [data.n_train, data.n_val, data.n_test], split, dict(SETTINGS)])[:32]


def _fit(run: Run) -> dict[str, dict[str, Any]]:
    """Labels and predictions of the test texts by id, and what they cost.

    Raises:
        LlmClsError: The texts are not on this machine, or have changed since the run.
        ImportError: scikit-learn is missing.
    """
    from llm_cls.data.load import load_corpus
    from llm_cls.data.sources.livedoor import cached_archive
    from llm_cls.runs.config_file import read_config

    config = read_config(run.path / layout.CONFIG).data
    if config.name == "livedoor" and config.archive is None:
        archive = cached_archive(config)
        if not archive.is_file():  # a report never downloads a corpus
            raise LlmClsError(f"the texts are not on this machine: {archive} is missing")
        config = config.model_copy(update={"archive": archive})
    corpus = load_corpus(config)
    assert run.record is not None
    if corpus.digest != run.record.data.digest:
        raise LlmClsError("the texts on this machine are not those of the runs")

    from sklearn.feature_extraction.text import TfidfVectorizer  # takes seconds: only after the checks above
    from sklearn.linear_model import LogisticRegression

    train, test = (["\n".join(text.content) for text in corpus.splits[split]] for split in ("train", "test"))
    vectorizer = TfidfVectorizer(
        analyzer="char",
        ngram_range=tuple(SETTINGS["ngram_range"]),
        sublinear_tf=SETTINGS["sublinear_tf"],
        min_df=SETTINGS["min_df"],
        max_features=SETTINGS["max_features"],
        dtype=np.float32,
    )
    classifier = LogisticRegression(C=SETTINGS["C"], max_iter=SETTINGS["max_iter"])
    classifier.fit(vectorizer.fit_transform(train), [text.label for text in corpus.splits["train"]])
    started = time.perf_counter()
    predicted = classifier.predict(vectorizer.transform(test))
    seconds = time.perf_counter() - started
    texts = corpus.splits["test"]
    return {
        "labels": {text.id: text.label for text in texts},
        "predictions": {text.id: str(label) for text, label in zip(texts, predicted, strict=True)},
        "cost": {"ms_per_text": 1000 * seconds / len(test), "gib": _size(vectorizer, classifier) / 2**30},
    }


def _size(vectorizer: Any, classifier: Any) -> int:
    """Bytes of the fitted model: its weights, and its n-grams with their positions."""
    arrays = (vectorizer.idf_, classifier.coef_, classifier.intercept_)
    objects = [item for pair in vectorizer.vocabulary_.items() for item in pair]
    whole = sys.getsizeof(vectorizer.vocabulary_) + sum(map(sys.getsizeof, objects))
    return int(whole + sum(array.nbytes for array in arrays))


def _read_cache(path: Path) -> dict[str, dict[str, Any]] | None:
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        measured = all(0 < float(found["cost"][key]) < 1e12 for key in ("ms_per_text", "gib"))
        return found if measured and found["labels"].keys() == found["predictions"].keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # the baseline is fitted and written again


def _write_cache(path: Path, found: dict[str, dict[str, Any]]) -> None:
    with suppress(OSError):  # the next report fits the baseline again
        write_json(path, found)
