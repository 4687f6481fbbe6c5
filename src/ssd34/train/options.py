"""What a training run is told."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ssd34.core.postprocess import POLICIES, ZOO
from ssd34.errors import OptionError
from ssd34.train.augment import Augmentation
from ssd34.train.loss import BOX_LOSSES, CLASS_LOSSES
from ssd34.train.matcher import MATCHERS
from ssd34.train.schedule import DECAYS

OPTIMIZERS = {"adamw": (3e-4, 0.05), "sgd": (1.25e-3, 5e-4)}
"""Each optimizer's usual peak learning rate, at batch 16, and weight decay; SGD's are the
published ones."""

USUAL_BATCH = 16

SMALLEST = 32
"""Input size, in pixels."""

SIZE_STEP = 32
"""Input sizes of `multi_scale` are so many pixels apart."""

_CHOICES = {
    "optimizer": tuple(OPTIMIZERS),
    "schedule": ("cosine", "step"),
    "precision": ("bf16", "fp32"),
    "trunk_statistics": ("frozen", "batch"),
    "head_statistics": ("frozen", "batch"),
    "decayed": ("weights", "all"),
    "matcher": MATCHERS,
    "box_loss": BOX_LOSSES,
    "class_loss": CLASS_LOSSES,
    "policy": tuple(POLICIES),
}
_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, 1e9),
    "minutes": (1e-6, 1e9),
    "batch_size": (1, 1e6),
    "accumulate": (1, 1e6),
    "target_map": (0, 1),
    "learning_rate": (1e-12, 1e30),
    "trunk_rate": (0, 100),
    "momentum": (0, 1),
    "weight_decay": (0, 1e3),
    "warmup_steps": (0, 1e9),
    "ema_decay": (0, 1),
    "gradient_clip": (1e-12, 1e30),
    "frozen_stages": (0, 4),
    "frozen_share": (0, 1),
    "small_size": (SMALLEST, 1e5),
    "small_share": (0, 1),
    "multi_scale": (0, 0.5),
    "balance": (0, 1),
    "seed": (0, 2**63),
    "workers": (0, 1e4),
    "cache_mb": (0, 1e9),
    "checkpoint_minutes": (1e-6, 1e9),
    "evaluate_every": (1, 1e9),
}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The settings of a training run; the defaults suit little data and a pretrained trunk.

    Attributes:
        epochs: length of the run, or None with `minutes`.
        minutes: length of the run by the clock, without evaluations, or None with `epochs`.
        target_map: stop where an evaluation reaches this AP; None: go on to the end.
        batch_size: pictures a step, over all parts and processes.
        accumulate: parts in which each process computes its share of a batch, one after the
            other, to save memory; batch norm sees one part at a time.
        optimizer: ``"adamw"``, or ``"sgd"`` with momentum as published.
        learning_rate: peak rate; None: what suits the optimizer and the batch.
        trunk_rate: the trunk's learning rate as a share of that; a pretrained trunk needs less.
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
        trunk_statistics: ``"frozen"`` keeps the trunk's batch norm statistics as they came;
            ``"batch"`` trains with the batch's own.
        head_statistics: the same for the extra blocks.
        frozen_stages: parts of the trunk that do not train at first: 1 is the stem, 2 with
            layer1, and so on.
        frozen_share: share of the run in which they do not train.
        small_size: input size of the first part of the run, in pixels; None: full size.
        small_share: share of the run at that size.
        multi_scale: the input size of each step is drawn from 1 +- this share of it.
        matcher: which default box learns which object: ``"iou"``, as published, or ``"atss"``.
        box_loss: ``"smooth-l1"``, as published, or ``"giou"``.
        class_loss: ``"softmax"``: the hardest negatives, as published; ``"focal"``: all of them.
        policy: how detections are picked for evaluations, which decide on the best weights and on
            `target_map`.
        balance: pictures of a class that fewer than this share of its data set's pictures show
            are drawn more often; 0: all alike.
        augmentation: how the pictures are varied.
        seed: of everything random.
        workers: processes that prepare pictures; at most one a processor is used.
        cache_mb: MiB of decoded pictures kept in memory, on each machine; 0: none; None: what all
            pictures take, at most a quarter of the memory that is free when training starts.
        checkpoint_minutes: longest time between two checkpoints.
        evaluate_every: epochs from one evaluation, and the checkpoint before it, to the next; the
            end of the run is always measured.
    """

    epochs: int | None = 60
    minutes: float | None = None
    target_map: float | None = None
    batch_size: int = 16
    accumulate: int = 1
    optimizer: str = "adamw"
    learning_rate: float | None = None
    trunk_rate: float = 1.0
    momentum: float = 0.9
    weight_decay: float | None = None
    decayed: str = "weights"
    warmup_steps: int = 100
    schedule: str = "cosine"
    decay_epochs: tuple[float, ...] | None = None
    ema_decay: float = 0.999
    gradient_clip: float | None = 10.0
    precision: str = "bf16"
    trunk_statistics: str = "frozen"
    head_statistics: str = "batch"
    frozen_stages: int = 1
    frozen_share: float = 1.0
    small_size: int | None = None
    small_share: float = 0.0
    multi_scale: float = 0.0
    matcher: str = "iou"
    box_loss: str = "smooth-l1"
    class_loss: str = "softmax"
    policy: str = ZOO.name
    balance: float = 0.0
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(expand=0.3))
    seed: int = 34
    workers: int = 1
    cache_mb: int | None = None
    checkpoint_minutes: float = 5.0
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.minutes is None):
            raise OptionError("expected a length in either epochs or minutes")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise OptionError(f"expected {name} from {low:g} to {high:g}, got {value}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise OptionError(
                    f"expected {name} to be {' or '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if self.accumulate > self.batch_size:
            raise OptionError(
                f"expected at most one part a picture, got accumulate {self.accumulate} for a "
                f"batch of {self.batch_size}"
            )
        if self.decay_epochs is not None:
            if self.epochs is None:
                raise OptionError("decay_epochs needs a length in epochs; give it with --epochs")
            if not all(0 < epoch < float("inf") for epoch in self.decay_epochs):
                raise OptionError(f"expected decay_epochs > 0, got {self.decay_epochs}")

    @property
    def decays(self) -> tuple[float, ...]:
        """Shares of the run after which the step schedule decays."""
        if self.decay_epochs is None:
            return DECAYS
        assert self.epochs is not None
        return tuple(epoch / self.epochs for epoch in self.decay_epochs)

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

    def size_at(self, share: float, full: int, *, step: int) -> int:
        """Input size in pixels of a step, which begins after a share of the run."""
        side = self.small_size if self.small_size and share < self.small_share else full
        if self.multi_scale == 0:
            return side
        reach = int(side * self.multi_scale / SIZE_STEP)
        drawn = np.random.default_rng((self.seed, step)).integers(-reach, reach, endpoint=True)
        return max(SMALLEST, side + int(drawn) * SIZE_STEP)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainOptions:
        """The inverse of `to_dict`; what older versions did not write gets its default.

        Raises:
            OptionError: a value is unknown or not allowed.
        """
        augmentation = values.get("augmentation", {})
        for kind, settings in ((cls, values), (Augmentation, augmentation)):
            unknown = sorted(set(settings) - {known.name for known in dataclasses.fields(kind)})
            if unknown:
                raise OptionError(
                    f"training has no option {unknown[0]!r}; it is of a newer version"
                )
        given = {**values, "augmentation": Augmentation(**augmentation)}
        if given.get("decay_epochs") is not None:
            given["decay_epochs"] = tuple(given["decay_epochs"])
        return cls(**given)
