"""Named settings of a training run, and how they are changed one by one.

A recipe is a table of settings by name. What it leaves out has the default of `TrainOptions`;
what it sets to ``"auto"`` depends on the machine and on what the run starts from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssd34.core.spec import rename_trunk
from ssd34.errors import OptionError
from ssd34.text import parse_json
from ssd34.train.examples.augment import Augmentation
from ssd34.train.options import (
    AUGMENTATION,
    AUTO,
    DECAYS,
    OPTIONS,
    Settings,
    TrainOptions,
    check_setting,
    drop_removed,
    list_settings,
    write_setting,
)

USUAL_SMALL_SHARE = 0.6
"""Share of the run at `small_size`, where only that is given."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings by the names of `SETTINGS`, under a name, and where they come from."""

    name: str
    about: str
    settings: Settings


_PUBLISHED: Settings = {
    "spec": "ssd300-resnet34",
    "head_norm": False,
    "init": "resnet34-b627a593",
    "labels": AUTO,
    "epochs": 60,
    "batch_size": 32,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": None,  # 2.5e-3 at batch 32, linear in the batch
    "weight_decay": 5e-4,
    "decayed": "all",
    "schedule": "step",
    "decay_epochs": (40.0, 50.0),
    "warmup_steps": 0,
    "gradient_clip": None,
    "ema_decay": 0.0,
    "precision": "fp32",
    "backbone_statistics": "batch",
    "head_statistics": "batch",
    "frozen_stages": 0,
    "matcher": "iou",
    "policy": "mlperf",
    "expand": 0.0,
    "crop": True,
    "flip": 0.5,
    "brightness": 0.125,
    "contrast": 0.5,
    "saturation": 0.5,
    "hue": 0.05,
}

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="small-data",
            about="hundreds to thousands of pictures, best from an ImageNet backbone (--init)",
            settings={
                "precision": AUTO,
                "backbone_statistics": AUTO,
                "head_statistics": AUTO,
                "frozen_stages": AUTO,
                "matcher": "atss",
                "expand": 0.3,
            },
        ),
        Recipe(
            name="fine-tune",
            about="a trained detector adapts to other pictures and classes",
            settings={
                "init": "default",
                "epochs": 12,
                "learning_rate": 1e-4,
                "backbone_rate": 0.3,
                "matcher": "atss",
                "warmup_steps": 20,
                "ema_decay": 0.98,
                "precision": AUTO,
                "backbone_statistics": "frozen",
                "head_statistics": "frozen",
                "frozen_stages": 2,
                "expand": 0.3,
            },
        ),
        Recipe(
            name="benchmark",
            about="the SSD training benchmark's reference: batch 32, 60 epochs",
            settings=_PUBLISHED,
        ),
        Recipe(
            name="benchmark-256",
            about="the best published runs at batch 256; the warm-up's length is ours",
            settings={
                **_PUBLISHED,
                "batch_size": 256,
                "learning_rate": 0.0253,
                "weight_decay": 1.3e-4,
                "decay_epochs": (44.0, 55.0),
                "warmup_steps": 300,
            },
        ),
    )
}
"""The recipes by name; the first is what training uses unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class SettledRecipe:
    """A recipe in which everything is settled.

    Attributes:
        recipe: its name.
        changed: what the user set otherwise.
        settings: every setting's value.
        settled: what was left open, or does not apply, as it stood: such as ``"auto"`` or None.
        options: the settings as the loop takes them.
    """

    recipe: str
    changed: Settings
    settings: Settings
    settled: Settings
    options: TrainOptions

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form, which `read_recipe` takes."""
        return {key: value for key, value in vars(self).items() if key != "options"}


def read_recipe(name: str) -> Recipe:
    """A recipe by its name, or from a run's ``recipe.json``, in which what was decided for that run
    is open again; OptionError where it is neither."""
    if name in RECIPES:
        return RECIPES[name]
    path = Path(name)
    if not path.is_file():
        raise OptionError(
            f"unknown recipe {name!r}; expected {', '.join(RECIPES)} or a recipe.json of a run"
        )
    try:
        content = parse_json(rename_trunk(path.read_text(encoding="utf-8-sig")))
        # Older versions did not write what was settled.
        chosen = drop_removed({**content["settings"], **content.get("settled", {})})
        settings = {key: check_setting(key, value) for key, value in chosen.items()}
        return Recipe(name=str(content["recipe"]), about=str(path), settings=settings)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(f"{path}: not a recipe ({type(error).__name__}: {error})") from None


def settle_recipe(
    recipe: Recipe,
    changed: Settings,
    *,
    start: str,
    bf16: bool,
    folded: Sequence[str] = (),
) -> SettledRecipe:
    """Settle a recipe; OptionError for settings that do not go together.

    Args:
        changed: what the user set otherwise, by name, as `check_setting` returns it.
        start: ``"random"``, ``"backbone"`` or ``"detector"``: what the first weights are.
        bf16: whether the processor computes in bf16.
        folded: settings of batch norm that the start has folded into its convolutions: it has no
            statistics to train with any more.
    """
    given = dict(changed)
    if given.get("minutes") is not None and "epochs" not in given:
        given["epochs"] = None
    if given.get("epochs") is not None and "minutes" not in given:
        given["minutes"] = None
    settings = {**list_defaults(), **recipe.settings, **given}
    if "decay_epochs" not in given:
        settings["decay_epochs"] = _scaled_decays(recipe.settings, settings)
    if given.get("small_size") and "small_share" not in given and settings["small_share"] == 0:
        settings["small_share"] = USUAL_SMALL_SHARE
    chosen = dict(settings)
    automatic = {
        "precision": "bf16" if bf16 else "fp32",
        "backbone_statistics": "batch" if start == "random" else "frozen",
        "head_statistics": "frozen" if "head_statistics" in folded else "batch",
        "frozen_stages": 0 if start == "random" else 1,
    }
    for key, value in automatic.items():
        if settings[key] == AUTO:
            settings[key] = value
    if not settings["small_size"]:
        settings["small_share"] = 0.0
    options = TrainOptions(
        augmentation=Augmentation(**{key: settings[key] for key in AUGMENTATION}),
        **{key: settings[key] for key in OPTIONS},
    )
    for key in folded:
        if settings[key] != "frozen":
            raise OptionError(
                f"{key}={settings[key]} needs batch norm, which an ONNX file has folded into its "
                f"convolutions; give --set {key}=frozen, or --init with the checkpoint"
            )
    _check_decays(options, given)
    settings |= list_settings(options)
    return SettledRecipe(
        recipe=recipe.name,
        changed=dict(changed),
        settings=settings,
        settled={k: v for k, v in chosen.items() if v == AUTO or v != settings[k]},
        options=options,
    )


def resume_options(options: TrainOptions, changed: Settings) -> TrainOptions:
    """Options of a resumed run with those of `RESUMED` that were given; OptionError if wrong."""
    given = dict(changed)
    if given.keys() & {"epochs", "minutes"}:
        given = {"epochs": None, "minutes": None, **given}
        if given["epochs"] is None:
            given["decay_epochs"] = None
    now = dataclasses.replace(options, **given)
    if now.epochs != options.epochs:
        _check_decays(now, given)
    return now


def resume_note(note: Settings, options: TrainOptions, changed: Settings) -> dict[str, Any]:
    """The recipe of a run that is resumed with some changes, as `SettledRecipe.to_dict` writes it;
    empty where it had none, as runs of older versions."""
    if not note:
        return {}
    settings = drop_removed({**note["settings"], **list_settings(options)})
    new = {key: settings[key] for key in changed if note["settings"].get(key) != settings[key]}
    return {**note, "changed": {**note["changed"], **new}, "settings": settings}


def _check_decays(options: TrainOptions, given: Settings) -> None:
    """Refuse decays that were given and would never come."""
    decays = options.decay_epochs
    if not decays:
        return
    if options.schedule != "step":
        if given.get("decay_epochs") is not None:
            raise OptionError(
                f"decay_epochs needs schedule=step, got {options.schedule}; leave one of them out"
            )
        return
    if options.epochs is not None and max(decays) >= options.epochs:
        raise OptionError(
            f"expected decay_epochs before the run's end at {options.epochs}, got "
            f"{write_setting(decays)}; give others with --set decay_epochs="
            f"{write_setting(tuple(share * options.epochs for share in DECAYS))}"
        )


def _scaled_decays(recipe: Settings, settings: Settings) -> tuple[float, ...] | None:
    """A recipe's decays in a run of another length; None where none apply."""
    decays, now = recipe.get("decay_epochs"), settings["epochs"]
    was = recipe.get("epochs", TrainOptions.epochs)
    if not decays or not was or now is None or settings["schedule"] != "step":
        return None
    return tuple(round(epoch * now / was, 6) for epoch in decays)


def list_defaults() -> dict[str, Any]:
    """Every setting's value where neither a recipe nor the user says otherwise."""
    options, augmentation = TrainOptions(), Augmentation()
    return {
        "spec": AUTO, "head_norm": AUTO, "init": None, "labels": AUTO,
        "coco_names": False, "tensorboard": False,
        **{key: getattr(options, key) for key in OPTIONS},
        **{key: getattr(augmentation, key) for key in AUGMENTATION},
        "small_share": USUAL_SMALL_SHARE,
    }  # fmt: skip
