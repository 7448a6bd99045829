"""Hydra reads and merges the files of ``conf/`` once per process for equal choices of files, not for each command line.

That is most of the time of a composition, of which the tests make thousands. What a command line sets is applied to a
copy each time. Commands in fresh processes, such as ranks, and compositions with files of the user's own do not know
of this.
"""

import copy
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from omegaconf import DictConfig

from llm_cls.config.groups import CONF

create_defaults_list, merge = (
    config_loader_impl.create_defaults_list,
    ConfigLoaderImpl._compose_config_from_defaults_list,
)
load_config = ConfigRepository.load_config
FILES: dict[str, Any] = {}
LISTS: dict[str, DefaultsList] = {}
MERGED: dict[str, DictConfig] = {}


def remember_compositions() -> None:
    """For the rest of this process, and in its forks."""
    ConfigRepository.load_config = _load_config
    config_loader_impl.create_defaults_list = _create_defaults_list
    ConfigLoaderImpl._compose_config_from_defaults_list = _merge


def _load_config(self: ConfigRepository, config_path: str) -> Any:
    """One of these files; None if there is none."""
    if not _never_changes(self):
        return load_config(self, config_path)
    if config_path not in FILES:
        FILES[config_path] = load_config(self, config_path)
    found = copy.copy(FILES[config_path])
    if found is not None:
        found.config = copy.deepcopy(found.config)
    return found


def _create_defaults_list(repo: Any, config_name: Any, overrides_list: Any, **options: Any) -> DefaultsList:
    """The files that ``overrides_list`` chooses, and the values that it sets."""
    given = Overrides(repo, overrides_list)
    key = repr((config_name, given.override_choices, given.append_group_defaults, given.deletions))
    if "???" in key or not _never_changes(repo):  # only a choice that is missing makes the options matter
        return create_defaults_list(repo, config_name, overrides_list, **options)
    if key not in LISTS:
        LISTS[key] = create_defaults_list(repo, config_name, overrides_list, **options)
    found = LISTS[key]
    return DefaultsList(found.defaults, found.defaults_tree, given.config_overrides, found.overrides)


def _merge(self: ConfigLoaderImpl, defaults: Any, repo: Any) -> DictConfig:
    """The content of these files."""
    if not _never_changes(repo):
        return merge(self, defaults, repo)
    key = repr(defaults)
    if key not in MERGED:
        MERGED[key] = merge(self, defaults, repo)
    return copy.deepcopy(MERGED[key])


def _never_changes(repo: Any) -> bool:
    """Whether all files are Hydra's own or those of ``conf/``."""
    return all(s.scheme() in ("pkg", "structured") or s.path == str(CONF) for s in repo.get_sources())
