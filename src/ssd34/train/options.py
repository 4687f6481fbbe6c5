"""The options of a training run; its settings by name, how they are written and read."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

from ssd34.core.postprocess import ZOO, named_policy
from ssd34.core.spec import SPECS, rename_trunk
from ssd34.errors import OptionError
from ssd34.setting_types import Share, check, check_fields, describe_kind, kinds_of, read_fields
from ssd34.train.examples.augment import Augmentation

OPTIMIZERS = {"adamw": (3e-4, 0.05), "sgd": (1.25e-3, 5e-4)}
"""Each optimizer's usual peak rate, at batch 16, and weight decay; SGD's are the published ones."""

USUAL_BATCH = 16

SMALLEST = 32
"""Input size, in pixels."""

DECAYS: tuple[float, ...] = (40 / 60, 50 / 60)
"""The published decays, as shares of the run."""

RESUMED = ("epochs", "minutes", "workers", "cache_mb")
"""Settings that may change when a run is resumed."""

REMOVED = {"multi_scale": 0.0, "box_loss": "smooth-l1", "class_loss": "softmax"}
"""Settings of former versions, and the values that are the only ones now."""

Statistics = Literal["frozen", "batch"]
Large = Annotated[float, Meta(ge=1e-12, le=1e30)]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The settings of a training run; the defaults suit little data and a pretrained backbone.

    Attributes:
        epochs: length of the run, or None with `minutes`.
        minutes: length of the run by the clock, without evaluations, or None with `epochs`.
        target_map: stop where an evaluation reaches this AP; None: train to the end.
        batch_size: pictures a step, over all parts and processes.
        accumulate: parts in which each process computes its share of a batch, one after the
            other, to save memory; batch norm sees one part at a time.
        optimizer: ``"adamw"``, or ``"sgd"`` with momentum as published.
        learning_rate: peak rate; None: what suits the optimizer and the batch.
        backbone_rate: the backbone's learning rate as a share of that; a pretrained one
            needs less.
        momentum: of SGD.
        weight_decay: None: what suits the optimizer.
        decayed: ``"weights"``: it acts on convolution weights, not on normalisations and biases;
            ``"all"``: on everything, as published.
        warmup_steps: steps of linear warm-up.
        schedule: ``"cosine"`` or ``"step"`` (x0.1 each time).
        decay_epochs: the epochs after which ``"step"`` decays; None: after 40/60 and 50/60 of the
            run.
        ema_decay: of the averaged weights, which are evaluated and shipped; 0: the last step's.
        gradient_clip: largest norm of the gradient; None: no limit.
        precision: ``"bf16"`` (autocast) or ``"fp32"``.
        backbone_statistics: ``"frozen"`` keeps the backbone's batch norm statistics as they came;
            ``"batch"`` trains with the batch's own.
        head_statistics: the same for the extra blocks.
        frozen_stages: parts of the backbone that do not train at first: 1 is the stem, 2 with
            layer1, and so on.
        frozen_share: share of the run in which they do not train.
        small_size: input size of the first part of the run, in pixels; None: full size.
        small_share: share of the run at that size.
        matcher: which default box learns which object: ``"iou"``, as published, or ``"atss"``.
        policy: the NMS policy of evaluations, which decide on the best weights and on
            `target_map`.
        balance: pictures of a class that fewer than this share of its data set's pictures show
            are drawn more often; 0: all alike.
        score_weight: the loss of the default boxes that learn a box counts as much as the box's
            ``score``, where the data have one.
        augmentation: how the pictures are varied.
        seed: of everything random.
        workers: processes that prepare pictures; at most one a processor is used.
        cache_mb: MiB of decoded pictures kept in memory, on each machine; 0: none; None: what all
            pictures take, at most a quarter of the memory that is free when training starts.
        checkpoint_minutes: longest time between two checkpoints.
        evaluate_every: epochs from one evaluation, and the checkpoint before it, to the next; the
            end of the run is always measured.
    """

    epochs: Annotated[int, Meta(ge=1, le=10**9)] | None = 60
    minutes: Annotated[float, Meta(gt=0, le=1e9)] | None = None
    target_map: Share | None = None
    batch_size: Annotated[int, Meta(ge=1, le=10**6)] = 16
    accumulate: Annotated[int, Meta(ge=1, le=10**6)] = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    learning_rate: Large | None = None
    backbone_rate: Annotated[float, Meta(ge=0, le=100)] = 1.0
    momentum: Share = 0.9
    weight_decay: Annotated[float, Meta(ge=0, le=1000)] | None = None
    decayed: Literal["weights", "all"] = "weights"
    warmup_steps: Annotated[int, Meta(ge=0, le=10**9)] = 100
    schedule: Literal["cosine", "step"] = "cosine"
    decay_epochs: tuple[Annotated[float, Meta(gt=0, le=1e9)], ...] | None = None
    ema_decay: Share = 0.999
    gradient_clip: Large | None = 10.0
    precision: Literal["bf16", "fp32"] = "bf16"
    backbone_statistics: Statistics = "frozen"
    head_statistics: Statistics = "batch"
    frozen_stages: Annotated[int, Meta(ge=0, le=4)] = 1
    frozen_share: Share = 1.0
    small_size: Annotated[int, Meta(ge=SMALLEST, le=10**5)] | None = None
    small_share: Share = 0.0
    matcher: Literal["iou", "atss"] = "iou"
    policy: str = ZOO.name
    balance: Share = 0.0
    score_weight: bool = False
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(expand=0.3))
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 34
    workers: Annotated[int, Meta(ge=0, le=10**4)] = 1
    cache_mb: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    checkpoint_minutes: Annotated[float, Meta(gt=0, le=1e9)] = 5.0
    evaluate_every: Annotated[int, Meta(ge=1, le=10**9)] = 1

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.minutes is None):
            raise OptionError("expected a length in either epochs or minutes")
        check_fields(self)
        named_policy(self.policy)
        if self.accumulate > self.batch_size:
            raise OptionError(
                f"expected at most one part a picture, got accumulate {self.accumulate} for a "
                f"batch of {self.batch_size}"
            )
        if self.decay_epochs is not None and self.epochs is None:
            raise OptionError("decay_epochs needs a length in epochs; give it with --epochs")

    @property
    def peak_rate(self) -> float:
        """The peak learning rate; unless given, linear in the batch."""
        usual = OPTIMIZERS[self.optimizer][0] * self.batch_size / USUAL_BATCH
        return usual if self.learning_rate is None else self.learning_rate

    @property
    def decay(self) -> float:
        """The weight decay."""
        usual = OPTIMIZERS[self.optimizer][1]
        return usual if self.weight_decay is None else self.weight_decay

    def rate_at(self, step: int, share: float) -> float:
        """The learning rate after so many steps and this share of the run, 0..1."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        if self.schedule == "cosine":
            return self.peak_rate * warm * 0.5 * (1 + math.cos(math.pi * share))
        decays = DECAYS
        if self.decay_epochs is not None:
            assert self.epochs is not None
            decays = tuple(epoch / self.epochs for epoch in self.decay_epochs)
        return self.peak_rate * warm * 0.1 ** sum(share >= decay for decay in decays)

    def size_at(self, share: float, full: int) -> int:
        """Input size in pixels of a step that begins after a share of the run."""
        return self.small_size if self.small_size and share < self.small_share else full

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainOptions:
        """The inverse of `dataclasses.asdict`; what older versions did not write gets its default.
        OptionError where a value is unknown or not allowed."""
        return read_fields(cls, drop_removed(values))


def drop_removed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that are gone since; OptionError where one of them is not as it always
    is now."""
    for key, only in REMOVED.items():
        if values.get(key, only) != only:
            raise OptionError(
                f"{key}={values[key]} is gone, it is {only} now; begin another run from the weights"
            )
    return {key: value for key, value in values.items() if key not in REMOVED}


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
    """``key=value`` as it is written on a command line; OptionError as `check_setting`."""
    key, separator, value = text.partition("=")
    key = rename_trunk(key.strip())
    if not separator:
        raise OptionError(f"expected --set key=value, got {text!r}")
    return key, check_setting(key, _parsed(value.strip(), _kind(key)))


def check_setting(key: str, value: Any) -> Any:
    """A value that is already typed, as JSON and click give it; OptionError where there is no such
    setting, or it does not take the value."""
    return check(key, value, _kind(key))


def list_settings(options: TrainOptions) -> dict[str, Any]:
    """Every setting of options, by name, with the rate and weight decay they come to."""
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
