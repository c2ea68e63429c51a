"""Hydra's compositions, kept for the process: a command composes twice at 0.1 s each, once for `hydra.mode` alone.

Which files are composed depends on the overrides of groups; Hydra sets all other keys in the result, here in a copy.
"""

import copy
import dataclasses
from typing import Any

import pytest
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides, create_defaults_list
from omegaconf import DictConfig

compose_from_list = ConfigLoaderImpl._compose_config_from_defaults_list


def use_hydras_functions(patch: pytest.MonkeyPatch) -> None:
    """Compose anew for every command."""
    patch.setattr(config_loader_impl, "create_defaults_list", create_defaults_list)
    patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose_from_list)


def keep_compositions(patch: pytest.MonkeyPatch) -> None:
    """Compose once for all commands with the same verb and groups."""
    lists: dict[tuple[object, ...], DefaultsList] = {}
    composed: dict[int, DictConfig] = {}

    def list_once(repo: Any, config_name: str, overrides_list: list[Any], **options: bool) -> DefaultsList:
        groups = [item.input_line for item in overrides_list if repo.group_exists(item.key_or_group)]
        key = (config_name, *groups, *options.items(), *(source.path for source in repo.get_sources()))
        if key not in lists:
            lists[key] = create_defaults_list(repo, config_name, overrides_list, **options)
        return dataclasses.replace(lists[key], config_overrides=Overrides(repo, overrides_list).config_overrides)

    def compose_once(self: Any, defaults: list[Any], repo: Any) -> DictConfig:
        if id(defaults) not in composed:  # `lists` keeps them
            composed[id(defaults)] = compose_from_list(self, defaults, repo)
        return copy.deepcopy(composed[id(defaults)])

    patch.setattr(config_loader_impl, "create_defaults_list", list_once)
    patch.setattr(ConfigLoaderImpl, "_compose_config_from_defaults_list", compose_once)
