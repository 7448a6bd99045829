"""Names of settings: only what differs between them, so that names stay short."""

from collections.abc import Sequence
from typing import Any

from llm_cls.reporting.formatting import rate
from llm_cls.reporting.settings import AXES, REPLICATES, Setting

_WORDS = {"model": "{}", "template": "template {}", "lr": "lr {}", "batch_size": "batch size {}", "lora_r": "r {}"}


def name_setting(setting: Setting, settings: Sequence[Setting]) -> str:
    """The name of a setting: its values that vary between ``settings``; its model where nothing varies."""
    return ", ".join(_part(setting, key) for key in _varied(settings) or ["model"])


def name_common(settings: Sequence[Setting], among: Sequence[Setting]) -> str:
    """The values that ``settings`` have in common and that vary within ``among``; empty where there are none."""
    varied = _varied(settings)
    return ", ".join(_part(settings[0], key) for key in _varied(among) if key not in varied)


def full_name(setting: Setting) -> str:
    """The name of a setting with the values of all axes."""
    known = [axis for axis in AXES if setting.axes[axis] is not None]
    return ", ".join(_part(setting, key) for key in (*known, *setting.extras))


def replicates(setting: Setting) -> str:
    """The repetitions of a setting: "3 seeds", "5 folds", or "1 run"."""
    names = {"seed": "seeds", "data.split_seed": "splits", "data.fold": "folds"}
    found = [(len({repr(run.config.get(key)) for run in setting.runs}), names[key]) for key in REPLICATES]
    several = [f"{n} {name}" for n, name in found if n > 1]
    return ", ".join(several) or f"{len(setting.runs)} run{'s' if len(setting.runs) > 1 else ''}"


def _varied(settings: Sequence[Setting]) -> list[str]:
    """The axes and other keys that differ between settings."""
    axes = [axis for axis in AXES if len({repr(s.axes[axis]) for s in settings}) > 1]
    extras = dict.fromkeys(key for s in settings for key in s.extras)
    return [*axes, *(key for key in extras if len({repr(s.extras.get(key)) for s in settings}) > 1)]


def _part(setting: Setting, key: str) -> str:
    if key not in AXES:
        return f"{key.rpartition('.')[2]} {setting.extras.get(key)}"
    item: Any = setting.axes[key]
    if item is None:
        return "no LoRA" if key == "lora_r" else f"no {key}"
    return _WORDS[key].format(rate(item) if key == "lr" and isinstance(item, int | float) else item)
