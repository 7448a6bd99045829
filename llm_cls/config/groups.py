"""The groups of ``conf/`` and their choices, read without Hydra."""

import re
from functools import cache
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

_PACKAGE = Path(__file__).resolve().parents[1]
# In a wheel conf/ is inside the package, in a checkout beside it.
CONF = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"
GROUPS = (
    "model",
    "template",
    "data",
    "lora",
    "optimizer",
    "loss",
    "engine",
    "trainer",
    "logger",
    "pruner",
    "experiment",
)


def choices(group: str) -> list[str]:
    """The names of the files of ``group``, numbers in their order: r4 before r16."""
    names = (path.stem for path in (CONF / group).glob("*.yaml"))
    return sorted(names, key=lambda name: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", name)])


@cache
def default_choices() -> dict[str, str | None]:
    """The choice of each group where the command line names none."""
    defaults = OmegaConf.load(CONF / "config.yaml").defaults
    pairs = [next(iter(entry.items())) for entry in defaults if isinstance(entry, DictConfig)]
    return {group: choice for group, choice in pairs if group in GROUPS}
