"""What changes in the settings of a run that goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from ssd34.errors import OptionError
from ssd34.train.options import TrainOptions
from ssd34.train.schedule import DECAYS
from ssd34.train.settings import (
    AUGMENTATION,
    AUTO,
    NETWORK,
    OPTIONS,
    Settings,
    checked,
    written,
)

USUAL_SMALL_SHARE = 0.6
"""Share of the run at `small_size`, where only that is given."""


def changed_options(options: TrainOptions, changed: Settings) -> TrainOptions:
    """Options of a run that goes on, with what was given again.

    Raises:
        OptionError: a setting is unknown or outside what is allowed.
    """
    given = {key: checked(key, value) for key, value in changed.items()}
    if "epochs" in given or "minutes" in given:
        given = {"epochs": None, "minutes": None, **given}
        if given["epochs"] is None:
            given.setdefault("decay_epochs", None)
    if small_size_alone(given, options.small_share):
        given["small_share"] = USUAL_SMALL_SHARE
    given = {key: value for key, value in given.items() if value != AUTO}
    augmentation = dataclasses.replace(
        options.augmentation, **{k: v for k, v in given.items() if k in AUGMENTATION}
    )
    now = dataclasses.replace(
        options,
        augmentation=augmentation,
        **{k: v for k, v in given.items() if k in OPTIONS},
    )
    if (now.epochs, now.decay_epochs) != (options.epochs, options.decay_epochs):
        check_decays(now, given)
    return now


def check_decays(options: TrainOptions, given: Settings) -> None:
    """
    Raises:
        OptionError: decays were given and would never come.
    """
    decays = options.decay_epochs
    if not decays:
        return
    if options.schedule != "step":
        if given.get("decay_epochs") is not None:
            raise OptionError(
                f"decay_epochs needs --schedule step, got {options.schedule}; leave one of them out"
            )
        return
    if options.epochs is not None and max(decays) >= options.epochs:
        raise OptionError(
            f"expected decay_epochs before the run's end at {options.epochs}, got "
            f"{written(decays)}; give others with --set decay_epochs="
            f"{written(tuple(share * options.epochs for share in DECAYS))}"
        )


def small_size_alone(given: Settings, share: float) -> bool:
    """Whether a small size was given for a share of the run that is 0 and was not."""
    return bool(given.get("small_size")) and "small_share" not in given and share == 0


def changed_note(
    note: Mapping[str, Any], options: TrainOptions, changed: Settings
) -> dict[str, Any]:
    """The recipe of a run that goes on, as `ssd34.train.recipe.Plan.to_dict` writes it.

    Args:
        note: the recipe so far.
        options: with which the run goes on.
        changed: what was given again.
    """
    settings = {**note["settings"], **settings_of(options)}
    was = note["settings"]
    given = [key for key, value in changed.items() if key not in NETWORK and value != AUTO]
    new = [key for key in given if was.get(key) != _as_json(settings[key])]
    return {
        **note,
        "changed": {key: settings[key] for key in dict.fromkeys([*note["changed"], *new])},
        "settings": settings,
        "settled": {k: v for k, v in note.get("settled", {}).items() if k not in given},
    }


def settings_of(options: TrainOptions) -> dict[str, Any]:
    """Every setting that options hold, by name, with the learning rate and weight decay that they
    come to."""
    return {
        **{key: getattr(options, key) for key in OPTIONS},
        **{key: getattr(options.augmentation, key) for key in AUGMENTATION},
        "learning_rate": options.peak_rate,
        "weight_decay": options.decay,
    }


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
