"""The metric behind the published numbers of the ONNX Model Zoo's SSD files, with its defects.

It compared labels that count 1 to 80 with COCO's category ids, which have gaps, and so lost nine
classes; and it counted every crowd region as an ordinary object. Only for comparing like with
like: numbers under it are not COCO's.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ssd34.data.classes import of_classes
from ssd34.data.dataset import Dataset
from ssd34.errors import OptionError

LOST_CLASSES = (
    "stop sign", "umbrella", "suitcase", "frisbee", "spoon", "remote", "cell phone", "microwave",
    "toaster",
)  # fmt: skip


def seen_by_zoo_2021(dataset: Dataset) -> Dataset:
    """The data set as that metric saw it: without nine classes, and without crowds' flags.

    Raises:
        OptionError: it is not COCO's 80 classes.
    """
    missing = [name for name in LOST_CLASSES if name not in dataset.labels.names]
    if missing:
        raise OptionError(
            f"--metric zoo-2021 is defined on COCO's 80 classes; {dataset.name} has no "
            f"{missing[0]!r}; leave the option out"
        )
    kept = of_classes(dataset, [n for n in dataset.labels.names if n not in LOST_CLASSES])
    samples = tuple(
        dataclasses.replace(sample, crowd=np.zeros_like(sample.crowd)) for sample in kept.samples
    )
    return dataclasses.replace(kept, samples=samples)
