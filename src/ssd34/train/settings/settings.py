"""The settings of a training run by name: their types, and how they are written and read."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal

from ssd34.core.spec import SPECS, rename_trunk
from ssd34.errors import OptionError
from ssd34.setting_types import check, describe_kind, kinds_of
from ssd34.train.examples.augment import Augmentation
from ssd34.train.settings.options import TrainOptions

AUTO = "auto"
"""Settled by the machine, by the data and by what the run starts from."""

Settings = Mapping[str, Any]


_Auto = Literal["auto"]
OPTIONS = {key: kind for key, kind in kinds_of(TrainOptions).items() if key != "augmentation"}
AUGMENTATION = kinds_of(Augmentation)

SETTINGS: dict[str, Any] = {
    # What the training loop does not know.
    "spec": Literal.__getitem__((*SPECS, AUTO)),
    "head_norm": bool | _Auto,
    "init": str | None,
    "labels": Literal["coco", "data", "auto"],
    "coco_names": bool,
    "tensorboard": bool,
    **OPTIONS,
    **AUGMENTATION,
    # What a recipe can leave to the machine and the start.
    "precision": OPTIONS["precision"] | _Auto,
    "backbone_statistics": OPTIONS["backbone_statistics"] | _Auto,
    "head_statistics": OPTIONS["head_statistics"] | _Auto,
    "frozen_stages": OPTIONS["frozen_stages"] | _Auto,
}
"""Every setting's name and type."""

FORMER_OPTIONS = {
    "batch": "batch_size", "global_batch": "batch_size", "lr": "learning_rate",
    "warmup": "warmup_steps", "ema": "ema_decay", "clip": "gradient_clip",
    "freeze": "frozen_stages", "freeze_share": "frozen_share", "no_head_norm": "head_norm",
}  # fmt: skip
"""Settings whose option on the command line has or had another name, by that one."""

_WORDS = {
    "true": True, "yes": True, "on": True, "false": False, "no": False, "off": False, "none": None,
}  # fmt: skip


def parse_setting(text: str) -> tuple[str, Any]:
    """``key=value`` as it is written on a command line.

    Raises:
        OptionError: no such setting, or a value that it does not take.
    """
    key, separator, value = text.partition("=")
    key = rename_trunk(key.strip())
    if not separator:
        raise OptionError(f"expected --set key=value, got {text!r}")
    return key, check_setting(key, _parsed(value.strip(), _kind(key)))


def check_setting(key: str, value: Any) -> Any:
    """A value that is already typed, as JSON and click give it.

    Raises:
        OptionError: no such setting, or a value that it does not take.
    """
    return check(key, value, _kind(key))


def list_settings(options: TrainOptions) -> dict[str, Any]:
    """Every setting that options hold, by name, with the learning rate and weight decay that they
    come to."""
    values = dataclasses.asdict(options)
    augmentation = values.pop("augmentation")
    settled = {"learning_rate": options.peak_rate, "weight_decay": options.decay}
    return {**values, **augmentation, **settled}


def write_setting(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, tuple | list):
        return ",".join(f"{part:g}" for part in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _kind(key: str) -> Any:
    if key not in SETTINGS:
        named = FORMER_OPTIONS.get(key)
        close = [named] if named else difflib.get_close_matches(key, SETTINGS, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(SETTINGS)}"
        raise OptionError(f"training has no setting {key!r}; {hint}")
    return SETTINGS[key]


def _parsed(text: str, kind: Any) -> Any:
    """What a text looks like: a word, numbers or just a text."""
    words = describe_kind(kind)
    if text.lower() in _WORDS and (text.lower() == "none" or "a text" not in words):
        return _WORDS[text.lower()]
    try:
        if "numbers" in words:
            return tuple(float(part) for part in text.split(","))
        return text if "a text" in words else int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text
