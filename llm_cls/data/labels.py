"""The labels of a table: names, spellings, rare ones, and their order."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from llm_cls.config.messages import echo
from llm_cls.config.schema import DataConfig
from llm_cls.data.corpus import Text
from llm_cls.errors import DataError

_NAMED = 10  # labels in a message
ALL_NAMED = 100  # where each has to be treated; with more of them, the column is probably a wrong one


def named(labels: Iterable[str], counts: Mapping[str, int] | None = None, most: int = _NAMED) -> str:
    """Labels as part of a line; of more than ``most`` the first ones.

    >>> named(["b", "a"]), named(["b", "a"], {"a": 1, "b": 2})
    ("'b', 'a'", "'b' 2, 'a' 1")
    """
    known = [echo(repr(label)) + (f" {counts[label]}" if counts else "") for label in labels]
    if len(known) <= most:
        return ", ".join(known)
    return f"{', '.join(known[:_NAMED])} and {len(known) - _NAMED} more"


def name_labels(values: Sequence[str], config: DataConfig, path: object) -> list[str]:
    """The values of a label column under their names, where ``data.label_names`` gives them.

    Raises:
        DataError: A value has no name.
    """
    names = config.label_names
    if names is None:
        return list(values)
    if unknown := sorted(set(values) - names.keys()):
        row = next(i for i, value in enumerate(values, 1) if value == unknown[0])
        raise DataError(
            f"{path}: data.label_names has no name for {named(unknown)} (row {row} of column {config.label!r}). Add it"
        )
    return [names[value] for value in values]


def label_key(label: str) -> str:
    """Equal for spellings that ``data.normalize_labels`` merges."""
    return unicodedata.normalize("NFKC", label).strip().casefold()


def match_labels(values: Sequence[str], known: Sequence[str], config: DataConfig) -> list[str]:
    """The values of another table's label column as the labels of a run, where it has them; others stay as they are.

    Args:
        values: The values.
        known: All labels of the run.
        config: Of the run: its names of the values, and whether spellings were merged.
    """
    names = config.label_names or {}
    by_key = {label_key(label): label for label in known} if config.normalize_labels else {}
    labels = [names.get(value, value) for value in values]
    return [by_key.get(label_key(label), label) if by_key else label for label in labels]


def normalize_labels(splits: Mapping[str, list[Text]], config: DataConfig) -> tuple[dict[str, list[Text]], list[str]]:
    """The texts with merged labels if ``data.normalize_labels`` is set, and warnings of labels that look alike."""
    counts = Counter(text.label for texts in splits.values() for text in texts)
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for label, n in counts.items():
        spellings[label_key(label)][unicodedata.normalize("NFKC", label).strip()] += n
    if config.normalize_labels:
        best = {key: min(found, key=lambda one: (-found[one], one)) for key, found in spellings.items()}
        merged = {label: best[label_key(label)] for label in counts}
        return {
            name: [
                text if merged[text.label] == text.label else replace(text, label=merged[text.label]) for text in texts
            ]
            for name, texts in splits.items()
        }, []
    warnings = []
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in sorted(counts):
        alike[label_key(label)].append(label)
    same = [label for labels in alike.values() if len(labels) > 1 for label in labels]
    if same:
        warnings.append(
            f"labels differ in case, width or surrounding blanks only: {named(same)}. "
            "data.normalize_labels=true merges them"
        )
    blank = [label for label in sorted(counts) if label != label.strip() and label not in same]
    if blank:
        warnings.append(f"labels have surrounding blanks: {named(blank)}. data.normalize_labels=true removes them")
    return dict(splits), warnings


def order_labels(labels: Iterable[str], config: DataConfig, source: object) -> tuple[str, ...]:
    """All labels in the order of ``data.label_order``, or else sorted.

    Raises:
        DataError: ``data.label_order`` lacks a label, or has another.
    """
    known = tuple(sorted(set(labels)))
    order = config.label_order
    if order is None:
        return known
    faults = []
    if missing := [label for label in known if label not in order]:
        faults.append(f"lacks {named(missing)}")
    if unknown := [label for label in dict.fromkeys(order) if label not in known]:
        faults.append(f"has {named(unknown)}, which no training text has")
    if twice := [label for label, n in Counter(order).items() if n > 1]:
        faults.append(f"has {named(twice)} twice")
    if faults:
        raise DataError(f"{source}: data.label_order {' and '.join(faults)}. It must have each of {named(known)} once")
    return tuple(order)
