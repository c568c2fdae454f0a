"""Which dataset a command is about: a folder with settings, or what a training's config calls by a name."""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from lgvi_core.errors import InputError

from .. import config as configs
from .sources import DRAWN, LAYOUTS, detect

CONFIG_ENDINGS = (".yaml", ".yml")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options that `read` reads."""
    parser.add_argument("dataset", metavar="DATASET", help="a folder, or a training's config.yaml with --data")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of the data, e.g. split=test")
    parser.add_argument("--kind", choices=LAYOUTS, help="the folder's layout (default: found by what is in it)")
    parser.add_argument("--data", metavar="NAME", help="what the config calls the dataset, under `data`")


def read(given: argparse.Namespace) -> tuple[str, dict]:
    """The dataset's name and its settings, `kind` among them, as `open_source` takes them."""
    name, settings = given.dataset, _settings(given.settings)
    if not name.lower().endswith(CONFIG_ENDINGS):
        if given.data is not None:
            raise InputError(f"--data {given.data} is a name in a config, and {name} is none: give a FILE.yaml")
        return Path(name).name, {"kind": given.kind or detect(name), "root": name, **settings}
    if given.kind is not None:
        raise InputError(f"--kind is for a folder; {name} says what kind its data are")
    data = configs.load(name).data
    if given.data not in data:
        raise InputError(f"--data is {given.data!r}; the config {name} has {', '.join(data)}")
    return given.data, {**data[given.data], **settings}


def on_disk(given: argparse.Namespace) -> tuple[str, dict]:
    """The same of a dataset that has files; `InputError` for one that the code draws."""
    name, settings = read(given)
    if settings.get("kind") in DRAWN:
        raise InputError(f"{name} is of kind {settings['kind']}, which the code draws: it has no files")
    return name, settings


def _settings(pairs: list[str]) -> dict:
    settings = {}
    for text in pairs:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"setting {key!r} is not of the form key=value")
        settings[key] = yaml.safe_load(value)
    return settings
