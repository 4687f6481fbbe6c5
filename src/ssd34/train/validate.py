"""COCO metrics of a torch network, during training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import ZOO, Picked, Policy, postprocess
from ssd34.core.preprocess import preprocess
from ssd34.datasets.dataset import Dataset, Problem
from ssd34.evaluate.evaluator import Found, Stages, detect_all
from ssd34.evaluate.metrics import CocoMetrics, measure_coco
from ssd34.evaluate.results import Results
from ssd34.network.ssd import SSD
from ssd34.train.distributed import ALONE, Ranks
from ssd34.train.examples.loader import gather_problems


def stage_network(
    network: SSD, *, device: torch.device, precision: str = "fp32", policy: Policy = ZOO
) -> Stages:
    """A torch network under a policy, in the evaluator's stages; left in evaluation mode."""
    network.eval()
    default_boxes = default_boxes_cxcywh(network.spec)

    @torch.no_grad()
    def infer(
        prepared: Sequence[NDArray[np.float32]],
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        batch = torch.from_numpy(np.concatenate(prepared))
        batch = batch.to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loc, conf = network(batch)
        return list(zip(loc.float().cpu().numpy(), conf.float().cpu().numpy(), strict=True))

    def pick(raw: tuple[NDArray[np.float32], NDArray[np.float32]]) -> tuple[Picked, ...]:
        # The boxes of a run that diverges may overflow; its AP and its loss show that.
        with np.errstate(over="ignore", invalid="ignore"):
            return (postprocess(*raw, default_boxes_cxcywh=default_boxes, policy=policy),)

    return Stages(lambda image: preprocess(image, network.spec.image_size), infer, pick)


class StoppedError(Exception):
    """An evaluation was asked to stop; never seen outside of training."""


def evaluate_network(
    network: SSD,
    labels: LabelSet,
    dataset: Dataset,
    *,
    device: torch.device,
    precision: str = "fp32",
    policy: Policy = ZOO,
    batch_size: int = 16,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    problem: Callable[[Problem], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
) -> CocoMetrics | None:
    """COCO metrics of a torch network, left in evaluation mode, under a policy; None in processes
    other than the first. Unreadable pictures count as empty.

    Args:
        progress: called with the pictures done and all there are.
        problem: called, in every process, for each picture that any of them could not read.
        stop: asked after each picture; where it says so in any process, all stop with StoppedError.
        ranks: the processes; each detects in its share of the pictures.
    """
    stages = stage_network(network, device=device, precision=precision, policy=policy)
    share = dataclasses.replace(dataset, samples=dataset.samples[ranks.rank :: ranks.count])
    every: list[Found] = []
    for found in detect_all(stages, share, labels, batch_size=batch_size):
        every.append(found)
        progress(min(len(every) * ranks.count, len(dataset)), len(dataset))
        if stop():
            break
    if ranks.any(len(every) < len(share)):
        raise StoppedError
    for each in gather_problems([found.problem for found in every if found.problem], ranks):
        problem(each)
    position = {sample.image_id: number for number, sample in enumerate(dataset.samples)}
    mine = Results.joined(results for found in every for results in found.results)
    numbered = mine.as_array()
    numbered[:, 0] = [position[image_id] for image_id in mine.image_ids.tolist()]
    rows = np.concatenate(ranks.gather(numbered))
    if not ranks.first:
        return None
    # Equal scores rank in the order of the pictures, as in one process.
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    image_ids = np.array([sample.image_id for sample in dataset.samples], np.int64)
    positions, categories = rows[:, [0, 6]].astype(np.int64).T
    return measure_coco(
        dataset, Results(image_ids[positions], categories, rows[:, 1:5], rows[:, 5])
    )
