"""From labelled texts to a corpus: rare labels, splits, and what is worth a warning."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llm_cls.config.schema import DataConfig
from llm_cls.data.columns import alias_columns, text_columns
from llm_cls.data.corpus import SPLITS, Corpus, Text, digest_splits, texts_in_two_splits
from llm_cls.data.groups import check_groups
from llm_cls.data.labels import ALL_NAMED, named, normalize_labels, order_labels
from llm_cls.data.split import Split, carve_val, check_counts, split_texts, stratified_split
from llm_cls.errors import DataError

ALL = ""  # the name of texts that no one has split yet


def build_corpus(
    config: DataConfig, given: Mapping[str, list[Text]], sources: Mapping[str, str], warnings: Sequence[str]
) -> Corpus:
    """The corpus of labelled texts.

    Splits that are given are used as they are. Without any, the texts are split; without val, it is a tenth of train;
    with train and val alone, the test split has no texts.

    Args:
        config: How they are split.
        given: The texts of "" (not split) or "train" alone, or of "train" with "val", "test" or both.
        sources: Where the texts of each split come from, for messages.
        warnings: Findings so far.

    Raises:
        DataError: There are too few labels, or too few texts of one, or a label that no training text has.
    """
    found = list(warnings)
    splits, alike = normalize_labels(given, config)
    found += alike
    has_test = "val" not in splits or "test" in splits
    base = ALL if ALL in splits else "train"
    parts = (config.folds or 3) if len(splits) == 1 else 2 if "val" not in splits else 1
    if config.group is not None:  # before their labels are counted: too few groups are too few of every label
        check_groups(splits[base], parts, sources[base], config.group)
    splits = _without_rare(splits, base, config, found)
    if len(splits) == 1:
        texts, only_train = _separate_rare(splits[base], parts, config, sources[base], found)
        splits = split_texts(texts, config, stratified_split, sources[base])
        splits["train"] += only_train
    elif "val" not in splits:
        texts, only_train = _separate_rare(splits[base], parts, config, sources[base], found)
        train, val = carve_val(texts, config, sources[base])
        splits = {"train": train + only_train, "val": val, "test": splits["test"]}
    splits = {split: splits.get(split, []) for split in SPLITS}
    _check_known_labels(splits, sources, config)
    labels = order_labels((text.label for text in splits["train"]), config, sources[base])
    if len(labels) < 2:
        raise DataError(
            f"{sources[base]}: data.label={config.label} must have at least two labels, found {len(labels)}. Check "
            "that it is the right column"
        )
    found += _findings(splits, labels, config)
    return Corpus(
        config.name,
        labels,
        splits,
        digest_splits(splits),
        has_titles=config.title is not None,
        warnings=tuple(f"{config.name}: {warning}" for warning in found),
        columns=tuple(text_columns(config)),
        own_columns=alias_columns(config),
        has_test=has_test,
    )


def _without_rare(
    splits: dict[str, list[Text]], base: str, config: DataConfig, found: list[str]
) -> dict[str, list[Text]]:
    """The texts after ``data.rare_labels=drop`` or ``merge``; ``found`` gets a warning of what was done."""
    if config.rare_labels not in ("drop", "merge"):
        return splits
    needed = (config.folds or 3) if len(splits) == 1 else 2
    counts = _counts(splits[base], config)
    rare = {text.label for texts in splits.values() for text in texts if counts.get(text.label, 0) < needed}
    if not rare or (config.rare_labels == "merge" and not counts.keys() & {*rare, config.other_label}):
        return splits  # no training text has one: they are refused under their own names
    found.append(_of_rare(rare, config))
    if config.rare_labels == "drop":
        return {name: [text for text in texts if text.label not in rare] for name, texts in splits.items()}
    return {
        name: [replace(text, label=config.other_label) if text.label in rare else text for text in texts]
        for name, texts in splits.items()
    }


def _separate_rare(
    texts: list[Text], needed: int, config: DataConfig, source: str, found: list[str]
) -> tuple[list[Text], list[Text]]:
    """The texts that can be split, and those that ``data.rare_labels=keep`` only trains on; ``found`` gets a warning.

    Raises:
        DataError: A label has too few texts for ``needed`` splits.
    """
    counts = _counts(texts, config)
    rare = {label for label, n in counts.items() if n < needed}
    if rare and config.rare_labels == "keep":
        found.append(_of_rare(rare, config))
        return [t for t in texts if t.label not in rare], [t for t in texts if t.label in rare]
    choices = "keep or drop" if config.rare_labels == "merge" else "keep, drop or merge"
    fix = f"or try data.rare_labels={choices}"
    check_counts(counts, needed, source, config.folds, fix, "text" if config.group is None else "group")
    return texts, []


def _counts(texts: Sequence[Text], config: DataConfig) -> dict[str, int]:
    """Number of texts of each label, or of groups with such texts."""
    if config.group is None:
        return dict(Counter(text.label for text in texts))
    groups: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for text in texts:
        groups[text.label].add(text.group_key)
    return {label: len(found) for label, found in groups.items()}


def _of_rare(rare: set[str], config: DataConfig) -> str:
    what = {
        "keep": "all their texts are training texts",
        "drop": "their texts are left out",
        "merge": f"they are one label, {config.other_label!r}",
    }[config.rare_labels]
    return f"too few texts of {named(sorted(rare), most=ALL_NAMED)}: {what} (data.rare_labels={config.rare_labels})"


def _check_known_labels(splits: Split, sources: Mapping[str, str], config: DataConfig) -> None:
    """Refuses labels that can be scored, but not learnt."""
    fix = "or remove the row, or try data.rare_labels=drop" + (", or another data.split_seed" if config.group else "")
    known = {text.label for text in splits["train"]}
    train = sources.get("train", sources.get(ALL, ""))
    for split in ("val", "test"):
        unknown = [text for text in splits[split] if text.label not in known]
        if unknown:
            labels = named(dict.fromkeys(text.label for text in unknown))
            more = f", and {len(unknown) - 1} more rows have such labels ({labels})" if len(unknown) > 1 else ""
            raise DataError(
                f"{sources.get(split, train)}: row {unknown[0].row} has the label {unknown[0].label!r}, which no "
                f"training text has{more}. Add texts of it to {train}, {fix}"
            )


def _findings(splits: Split, labels: Sequence[str], config: DataConfig) -> list[str]:
    """Properties of the texts that make the scores misleading."""
    found = []
    if rare := [label for label, n in sorted(Counter(t.label for t in splits["train"]).items()) if n == 1]:
        found.append(f"{len(rare)} of {len(labels)} labels have only one training text, for example {rare[0]!r}")
    if shared := texts_in_two_splits(splits):
        found.append(f"{shared} texts occur in more than one split, so the scores are too high")
    of_text: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for texts in splits.values():
        for text in texts:
            of_text[text.content].add(text.label)
    if contradictory := [sorted(given) for given in of_text.values() if len(given) > 1]:
        found.append(
            f"{len(contradictory)} texts occur with more than one label, for example {named(contradictory[0])}"
        )
    if config.group is not None:
        where: defaultdict[str, set[str]] = defaultdict(set)
        for name, texts in splits.items():
            for text in texts:
                where[text.group].add(name)
        if shared := sum(len(names) > 1 for group, names in where.items() if group.strip()):
            found.append(f"{shared} groups of data.group={config.group} occur in more than one split")
    if not splits["test"]:
        found.append("there is no test split: the scores are those of val, by which the best epoch is chosen")
    return found
