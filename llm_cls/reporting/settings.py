"""Runs grouped into settings, and fair choices among them."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llm_cls.metrics.selection import Monitor
from llm_cls.metrics.statistics import mean_sd
from llm_cls.reporting.runs import Run
from llm_cls.runs.identity import RESOLVED, changes_result

# What the published tables vary, and where the configuration has it.
AXES = {
    "model": "model.name",
    "template": "template.name",
    "lr": "optimizer.lr",
    "batch_size": "data.batch_size",
    "lora_r": "lora.r",
}
# Repetitions of one setting differ in these.
REPLICATES = ("seed", "data.split_seed", "data.fold")


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but seed and fold.

    Attributes:
        axes: Value on each of ``AXES``.
        extras: Other keys that vary between the settings of the report, with their values.
        key: Identifies the setting: each varied key with its value.
        runs: The scored runs; at least one.
    """

    axes: Mapping[str, Any]
    extras: Mapping[str, Any]
    key: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]

    @property
    def monitor(self) -> Monitor:
        """What selected the epochs of its runs, and selects among settings."""
        return self.runs[0].monitor

    @cached_property
    def val_score(self) -> float:
        """Mean val figure by ``monitor``, by which settings are chosen."""
        return mean_sd([run.value("val", self.monitor.name) for run in self.runs])[0]

    @property
    def goodness(self) -> float:
        """``val_score`` with a sign that makes more better."""
        return self.monitor.goodness(self.val_score)

    @property
    def score(self) -> float:
        """The mean test score by which settings are compared."""
        return self.test(self.monitor.on_test)

    def test(self, name: str) -> float:
        """Mean of a test score over the runs; NaN if not ``has_test``."""
        return mean_sd([run.value("test", name) for run in self.runs])[0]

    @property
    def has_test(self) -> bool:
        """Whether there are test texts, and with them test scores."""
        return all(run.metrics is not None and run.metrics.test is not None for run in self.runs)

    @property
    def rank(self) -> float:
        """By which tables are sorted, more first: ``score``, or the val figure where there are no test texts."""
        return self.score if self.has_test else self.goodness

    @cached_property
    def score_sd(self) -> float | None:
        """Standard deviation of ``score`` over seeds and folds; None for a single run."""
        return mean_sd([run.value("test", self.monitor.on_test) for run in self.runs])[1]

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % interval of ``score`` over test texts: for several runs the mean of their bounds."""
        field = "f1_ci95" if self.monitor.on_test == "f1" else "monitor_ci95"
        tests = [run.metrics.test for run in self.runs if run.metrics and run.metrics.test]
        known = [bounds for test in tests if (bounds := getattr(test, field))]
        if not known:
            return None
        return mean_sd([b[0] for b in known])[0], mean_sd([b[1] for b in known])[0]

    @property
    def best_run(self) -> Run:
        """The run with the best val figure, the first one of equals."""
        return max(self.runs, key=lambda run: self.monitor.goodness(run.value("val", self.monitor.name)))

    @property
    def collapsed(self) -> bool:
        """Whether half of its runs or more never predict half of the labels."""
        return 2 * sum(run.metrics.collapsed for run in self.runs if run.metrics) >= len(self.runs)

    def rest(self, axis: str) -> tuple[tuple[str, str], ...]:
        """The key without what belongs to ``axis``."""
        return tuple(pair for pair in self.key if not _belongs(pair[0], axis))


def axes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The value on each of ``AXES``; no rank where there is no adapter."""
    values = {axis: as_number(config.get(key)) for axis, key in AXES.items()}
    if config.get("lora.enabled") is False:
        values["lora_r"] = None
    return values


def as_number(value: Any) -> Any:
    """Numbers as numbers: a template named "0" is 0, and YAML 1.1 reads 5e-4 as text."""
    if isinstance(value, str) and re.fullmatch(r"(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", value):
        number = float(value)
        return value if not math.isfinite(number) else int(value) if value.isdecimal() else number
    return value


def varied_keys(runs: Iterable[Run]) -> list[str]:
    """Keys of the configuration that have several values and can change a result, sorted."""
    values: dict[str, set[str]] = defaultdict(set)
    configs = [run.config for run in runs if run.config]
    for config in configs:
        for key, item in config.items():
            values[key].add(repr(item))
    counts = Counter(key for config in configs for key in config)
    several = (key for key, found in values.items() if len(found) > 1 or counts[key] < len(configs))
    return sorted(key for key in several if _can_differ(key))


def _can_differ(key: str) -> bool:
    """Whether scored runs can differ in their result because of ``key``.

    All are of one corpus, so the names of its files do not matter; and none was ended by its pruner.
    """
    return changes_result(key) and RESOLVED.get(key) != "data.digest" and not key.startswith("pruner.")


def group(runs: Sequence[Run]) -> list[Setting]:
    """The settings of the scored runs, sorted by model, template, lr, batch size and r."""
    scored = [run for run in runs if run.scored]
    keys = [key for key in varied_keys(scored) if key not in REPLICATES]
    members: dict[tuple[tuple[str, str], ...], list[Run]] = defaultdict(list)
    for run in scored:
        members[tuple((key, repr(run.config.get(key))) for key in keys)].append(run)
    extras = _extra_keys(keys, scored)
    settings = [
        Setting(
            axes_of(found[0].config), {key: as_number(found[0].config.get(key)) for key in extras}, key, tuple(found)
        )
        for key, found in members.items()
    ]
    return sorted(settings, key=lambda s: (*(sort_key(v) for v in s.axes.values()), s.key))


def sort_key(value: Any) -> tuple[int, float, str]:
    """Orders numbers before text and both before nothing."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return (1, 0.0, str(value)) if value is not None else (2, 0.0, "")


def best(settings: Iterable[Setting]) -> Setting:
    """The setting with the best val figure; the first one on a tie."""
    return max(settings, key=lambda s: s.goodness)


def best_per(settings: Sequence[Setting], axis: str) -> list[Setting]:
    """The best setting for each value of ``axis``, among settings that make the values comparable.

    A value that was tried with more settings than the others has more chances to look good. So of each value
    only the settings count that were tried with another value of the axis too, everything else being equal;
    where there is none, all of them.
    """
    values_of: dict[Any, set[Any]] = defaultdict(set)
    for setting in settings:
        values_of[setting.rest(axis)].add(setting.axes[axis])
    chosen = []
    for found in _by(settings, lambda s: s.axes[axis]).values():
        shared = [s for s in found if len(values_of[s.rest(axis)]) > 1]
        chosen.append(best(shared or found))
    return chosen


def lr_series(settings: Sequence[Setting]) -> list[list[Setting]]:
    """Settings that differ only in the learning rate, as series; those with one learning rate are left out."""
    found = _by(settings, lambda s: s.rest("lr")).values()
    return [sorted(s, key=lambda one: sort_key(one.axes["lr"])) for s in found if len({o.axes["lr"] for o in s}) > 1]


def shown_lr_series(settings: Sequence[Setting], most: int = 8) -> list[list[Setting]]:
    """The series to show, the one with the best val figure first.

    Of more than ``most`` series, each model keeps the one with most learning rates; of equals the one with the
    most usual other values, then the one with the best val figure.
    """
    series = lr_series(settings)
    usual = Counter((axis, repr(v)) for s in series for one in s for axis, v in one.axes.items())

    def rank(one: list[Setting]) -> tuple[int, int, float]:
        return (
            len(one),
            sum(usual[axis, repr(v)] for axis, v in one[0].axes.items() if axis != "lr"),
            best(one).goodness,
        )

    if len(series) > most:
        series = [max(found, key=rank) for found in _by(series, lambda s: s[0].axes["model"]).values()]
    return sorted(series, key=lambda s: -best(s).goodness)[:most]


def _by(items: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def _belongs(key: str, axis: str) -> bool:
    """Whether a key changes together with an axis: a model brings its architecture, a template its text."""
    return key == AXES[axis] or (axis in ("model", "template") and key.startswith(f"{axis}."))


def _extra_keys(keys: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Varied keys that need a separate column: neither an axis nor determined by the model or template."""
    extras = []
    for key in keys:
        if key in AXES.values() or key == "lora.enabled":
            continue
        owner = next((AXES[a] for a in ("model", "template") if key.startswith(f"{a}.")), None)
        pairs = {(repr(run.config.get(owner)), repr(run.config.get(key))) for run in runs} if owner else set()
        if owner is None or len(pairs) > len({name for name, _ in pairs}):
            extras.append(key)
    return extras
