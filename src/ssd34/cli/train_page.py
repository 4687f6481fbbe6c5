"""The page that ``ssd34 train`` leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ImageDraw

from ssd34.core.counted import counted
from ssd34.core.detections import Detections
from ssd34.data.atomic import write_text
from ssd34.data.checkpoint import read_checkpoint, read_header
from ssd34.data.dataset import Dataset
from ssd34.errors import ImageError
from ssd34.runtime.draw import dashed_box, draw

if TYPE_CHECKING:
    from ssd34.train.page import Exhibit

PAGE = "report.html"
PICTURES = 6
SHOWN = 10
SCORE = 0.1
"""Up to so many detections in a picture, the best of those that score so much or more."""

TRUTH = (255, 255, 255)
LONGEST_SIDE = 640


def write_page(folder: Path, validation: Dataset, facts: Sequence[str], device: Any) -> Path:
    """Write ``report.html`` beside a run's checkpoints, of which there has to be one; returns
    where it is."""
    from ssd34.train.history import read_history
    from ssd34.train.page import training_page
    from ssd34.train.run import BEST, HISTORY, LAST

    weights = next(folder / name for name in (BEST, LAST) if (folder / name).exists())
    checkpoint = read_checkpoint(weights)
    page = training_page(
        f"{checkpoint.spec.name}, {counted(len(checkpoint.labels), 'class')}",
        read_history(folder / HISTORY),
        # The best weights may be from before a resume that changed settings.
        recipe=read_header(folder / LAST).state["notes"].get("recipe", {}),
        facts=[
            *facts,
            f"Weights of the pictures below: {weights.name}; shown are the {SHOWN} best detections "
            f"that score {SCORE:g} or more, in the first pictures that have objects; dashed: where "
            "these are.",
        ],
        exhibits=_exhibits(checkpoint, validation, device),
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _exhibits(checkpoint: Any, validation: Dataset, device: Any) -> list[Exhibit]:
    """What the network finds in some pictures of the validation set."""
    from ssd34.network.ssd import SSD, load_weights
    from ssd34.train.measure import stages_of_network
    from ssd34.train.page import Exhibit

    network = SSD(checkpoint.spec)
    load_weights(network, checkpoint.weights, source="the run")
    stages = stages_of_network(network.to(device), device=device)
    exhibits: list[Exhibit] = []
    for sample in validation.samples:
        if len(exhibits) == PICTURES:
            break
        if sample.ignored.all():
            continue
        try:
            image = validation.read(sample)
        except ImageError:
            continue
        [raw] = stages.infer([stages.prepare(image)])
        [picked] = stages.pick(raw)
        found = Detections.from_picked(
            picked, label_set=checkpoint.labels, width=sample.width, height=sample.height,
            score=SCORE,
        )  # fmt: skip
        picture = draw(image, found.where(np.arange(len(found)) < SHOWN))
        canvas, line = ImageDraw.Draw(picture), max(1, round(min(picture.size) / 180))
        for box in sample.boxes[~sample.ignored].tolist():
            dashed_box(canvas, tuple(box), colour=TRUTH, line=line)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        exhibits.append(Exhibit.of(sample.file_name, picture))
    return exhibits
