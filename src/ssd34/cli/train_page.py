"""The page that ``ssd34 train`` leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssd34.core.counted import counted
from ssd34.core.detections import Detections
from ssd34.data.atomic import write_text
from ssd34.data.checkpoint import read_checkpoint, read_header
from ssd34.data.dataset import Dataset
from ssd34.errors import ImageError
from ssd34.runtime.draw import draw

if TYPE_CHECKING:
    from ssd34.train.page import Exhibit
    from ssd34.train.progress import Outcome

PAGE = "report.html"
PICTURES = 6
SCORE = 0.3
LONGEST_SIDE = 640


def write_page(outcome: Outcome, validation: Dataset, facts: Sequence[str], device: Any) -> Path:
    """Write ``report.html`` beside the checkpoints; returns where it is."""
    from ssd34.train.page import read_history, training_page
    from ssd34.train.run import HISTORY

    folder = outcome.last.parent
    weights = outcome.best if outcome.best.exists() else outcome.last
    checkpoint = read_checkpoint(weights)
    page = training_page(
        f"{checkpoint.spec.name}, {counted(len(checkpoint.labels), 'class')}",
        read_history(folder / HISTORY),
        # The best weights may be from before a resume that changed settings.
        recipe=read_header(outcome.last).state["notes"].get("recipe", {}),
        facts=[
            *facts,
            f"Weights of the pictures below: {weights.name}; shown are detections that score "
            f"{SCORE:g} or more, in the first pictures that have objects.",
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
        picture = draw(image, found)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        exhibits.append(Exhibit(sample.file_name, picture))
    return exhibits
