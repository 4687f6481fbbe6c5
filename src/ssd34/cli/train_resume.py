"""``ssd34 train --resume``: what a run that goes on takes from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd34.cli.train_setup import classes
from ssd34.data.checkpoint import Checkpoint
from ssd34.data.dataset import Dataset
from ssd34.errors import OptionError

if TYPE_CHECKING:
    from ssd34.train.options import TrainOptions
    from ssd34.train.recipe import Recipe

_TOGETHER = (
    {"schedule", "decay_epochs"},
    {"epochs", "minutes", "decay_epochs"},
    {"small_size", "small_share"},
)
"""Settings that change others."""


def check_empty(folder: Path) -> None:
    """A new run does not overwrite the weights of another one.

    Raises:
        OptionError: the folder holds some.
    """
    from ssd34.train.run import BEST, LAST

    if (folder / LAST).exists():
        raise OptionError(
            f"{folder}: already holds a run; add --resume to go on with it, or choose "
            "another folder"
        )
    if (folder / BEST).exists():
        raise OptionError(
            f"{folder}: holds {BEST} of another run, which this one would replace; choose another "
            "folder"
        )


def options_to_go_on(
    begun: Checkpoint, given: Mapping[str, Any], recipe: Recipe | None
) -> TrainOptions:
    """The settings of the run that goes on, with what was given again.

    Raises:
        OptionError: the run began with another recipe or network, or a setting is not allowed.
    """
    from ssd34.train.changed import changed_options
    from ssd34.train.options import TrainOptions
    from ssd34.train.start import Start

    if recipe is not None:
        _check_recipe(begun, given, recipe)
    _check_network(begun, given)
    options = changed_options(TrainOptions.from_dict(begun.state["options"]), given)
    for key in Start("the run", detector=begun).folded:
        if getattr(options, key) != "frozen":
            raise OptionError(
                f"expected {key} to stay frozen, got {getattr(options, key)!r}: the run began with "
                "batch norm that was folded into the convolutions; leave it out"
            )
    return options


def recipe_to_go_on(
    begun: Checkpoint, given: Mapping[str, Any], options: TrainOptions
) -> dict[str, Any]:
    """The recipe note of the run that goes on, with what was given again; empty where the run has
    none, as those of older versions."""
    from ssd34.train.changed import changed_note

    note = begun.state["notes"].get("recipe")
    return changed_note(note, options, given) if note else {}


def _check_recipe(begun: Checkpoint, given: Mapping[str, Any], recipe: Recipe) -> None:
    """The recipe can be given again; a file, as long as it holds what the run was told."""
    from ssd34.train.recipe import RECIPES
    from ssd34.train.settings import checked, written

    note = begun.state["notes"].get("recipe", {})
    was = note.get("recipe", "small-data")
    if recipe.name != was:
        raise OptionError(
            f"--recipe {recipe.name}: the run began with {was}; leave it out, or begin another run"
        )
    if recipe is RECIPES.get(recipe.name):
        return
    chosen = {**note.get("settings", {}), **note.get("settled", {})}
    since = {*note.get("changed", {}), *given}
    since.update(key for group in _TOGETHER if since & group for key in group)
    for key, value in recipe.settings.items():
        if key in chosen and key not in since and value != (now := checked(key, chosen[key])):
            raise OptionError(
                f"{recipe.about}: has {key}={written(value)}, the run in --output {written(now)}; "
                "leave --recipe out, and give what shall change by itself"
            )


def _check_network(begun: Checkpoint, given: Mapping[str, Any]) -> None:
    """What shaped the network and its first weights can be given again, but not otherwise."""
    known: dict[str, Any] = {"spec": begun.spec.name, "head_norm": begun.spec.head_norm}
    for key, was in known.items():
        if given.get(key, "auto") not in ("auto", was):
            raise _began_otherwise(key, was, given[key])
    settings = begun.state["notes"].get("recipe", {}).get("settings", {})  # of old runs, none
    if "init" in given and "init" in settings:
        was, now = settings["init"], given["init"]
        # The same file may be named from another folder.
        if was != now and (not was or not now or Path(was).resolve() != Path(now).resolve()):
            raise _began_otherwise("init", was, now)


def check_classes(begun: Checkpoint, given: Mapping[str, Any], datasets: Sequence[Dataset]) -> None:
    """
    Raises:
        OptionError: ``labels`` was given and means other classes than those of the run.
    """
    choice = given.get("labels", "auto")
    if choice != "auto" and classes(choice, datasets).names != begun.labels.names:
        was = f"of {len(begun.labels)} classes ({begun.labels.preview(4)})"
        raise _began_otherwise("labels", was, choice)


def _began_otherwise(key: str, was: Any, now: Any) -> OptionError:
    from ssd34.train.settings import written

    return OptionError(
        f"expected {key} {written(was)}, with which the run in --output began, got "
        f"{written(now)}; leave it out, or begin another run"
    )
