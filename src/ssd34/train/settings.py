"""The settings of a training run by name: their types, and how they are written and checked."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any

from ssd34.core.spec import SPECS
from ssd34.errors import OptionError
from ssd34.train.augment import Augmentation
from ssd34.train.options import TrainOptions

AUTO = "auto"
"""Settled by the machine, by the data and by what the run starts from."""

Settings = Mapping[str, Any]

NETWORK: dict[str, Any] = {"spec": str, "head_norm": bool, "init": str | None, "labels": str}
OPTIONS = {k: t for k, t in typing.get_type_hints(TrainOptions).items() if k != "augmentation"}
AUGMENTATION = typing.get_type_hints(Augmentation)

SETTINGS: dict[str, Any] = {**NETWORK, **OPTIONS, **AUGMENTATION}
"""Every setting's name and type."""

_CAN_BE_AUTO = (
    "spec", "head_norm", "labels", "precision", "trunk_statistics", "head_statistics",
    "frozen_stages",
)  # fmt: skip
_ONE_OF = {"spec": tuple(SPECS), "labels": ("coco", "data")}

_OPTION_NAMES = {
    "batch": "batch_size", "global_batch": "batch_size", "lr": "learning_rate",
    "warmup": "warmup_steps", "ema": "ema_decay", "clip": "gradient_clip",
    "freeze": "frozen_stages", "freeze_share": "frozen_share", "no_head_norm": "head_norm",
}  # fmt: skip
"""Settings whose option on the command line has another name."""


def parsed_setting(text: str) -> tuple[str, Any]:
    """``key=value`` as it is written on a command line.

    Raises:
        OptionError: no such setting, or a value of the wrong type.
    """
    key, separator, value = text.partition("=")
    key = key.strip()
    if not separator:
        raise OptionError(f"expected --set key=value, got {text!r}")
    _known(key)
    wanted = SETTINGS[key]
    try:
        return key, _parsed(value.strip(), wanted, auto=key in _CAN_BE_AUTO)
    except ValueError:
        raise OptionError(f"expected {key} to be {_described(key)}, got {value!r}") from None


def _known(key: str) -> None:
    if key not in SETTINGS:
        import difflib

        option = key.removeprefix("--").replace("-", "_")
        named = _OPTION_NAMES.get(option, option)
        close = [named] if named in SETTINGS else difflib.get_close_matches(key, SETTINGS, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(SETTINGS)}"
        raise OptionError(f"training has no setting {key!r}; {hint}")


def checked(key: str, value: Any) -> Any:
    """A value that is already typed, as JSON and click give it."""
    _known(key)
    allowed = _alternatives(SETTINGS[key])
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, int) and not isinstance(value, bool) and float in allowed:
        value = float(value)
    fits = (
        (value == AUTO and key in _CAN_BE_AUTO)
        or (value is None and type(None) in allowed)
        or type(value) in allowed
        or (
            isinstance(value, tuple)
            and any(typing.get_origin(kind) is tuple for kind in allowed)
            and all(isinstance(v, int | float) and not isinstance(v, bool) for v in value)
        )
    )
    choices = _ONE_OF.get(key)
    if not fits or (choices and value != AUTO and value not in choices):
        raise OptionError(f"expected {key} to be {_described(key)}, got {value!r}")
    return value


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _parsed(text: str, kind: Any, *, auto: bool) -> Any:
    """Raises ValueError where the text is no such value."""
    if auto and text == AUTO:
        return AUTO
    kinds = _alternatives(kind)
    if type(None) in kinds and text.lower() == "none":
        return None
    [wanted] = (one for one in kinds if one is not type(None))
    if wanted is bool:
        if text.lower() not in _BOOLEANS:
            raise ValueError(text)
        return _BOOLEANS[text.lower()]
    if typing.get_origin(wanted) is tuple:
        return tuple(float(part) for part in text.split(","))
    return wanted(text)


def written(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, tuple | list):
        return ",".join(f"{part:g}" for part in value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _described(key: str) -> str:
    """What a setting takes, for messages."""
    if key in _ONE_OF:
        words = [*_ONE_OF[key]]
    else:
        kinds = _alternatives(SETTINGS[key])
        words = [_KINDS.get(kind, "numbers such as 40,50") for kind in kinds]
    return " or ".join([*words, *([AUTO] if key in _CAN_BE_AUTO else [])])


_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    type(None): "none",
}
