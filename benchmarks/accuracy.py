r"""Training recipes against each other: one start, one budget in pictures, one change at a time.

    python benchmarks/accuracy.py --data coco-train.zip=2 --data voc07.zip --val coco-val.zip \
        --classes voc --init default --set frozen_stages=4 --pictures 5120 --size 128 \
        --output results

With a detector as --init only its backbone is taken; extra blocks and heads start anew.

Each variant is trained by the project's own loop and measured at the size it was trained at, with
averaged weights and with the last step's. The output folder gets a line for each in results.jsonl.
Started again, the script leaves out what that file has and goes on with a variant that was cut off.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

import torch
from tables import draw_rows, keep
from torch import Tensor, nn
from torch.nn import functional

from ssd34.core.default_boxes import default_boxes_cxcywh
from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import ZOO, Picked, postprocess
from ssd34.core.spec import SPECS, ModelSpec, named_spec
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import open_dataset, select_classes
from ssd34.evaluate.bootstrap import match
from ssd34.evaluate.evaluator import detect_all
from ssd34.evaluate.metrics import CocoMetrics, measure_coco
from ssd34.evaluate.results import Results, read_results, write_results
from ssd34.evaluate.score import compare
from ssd34.files.checkpoint import LAST, read_checkpoint
from ssd34.network.ssd import SSD, load_weights
from ssd34.train.examples.example import make_training_sets
from ssd34.train.loop import train
from ssd34.train.options import Settings, TrainOptions, parse_setting
from ssd34.train.progress import Progress, TrainListener
from ssd34.train.recipe import read_recipe, settle_recipe
from ssd34.train.run import HISTORY
from ssd34.train.step import computes_bf16
from ssd34.train.validate import stage_network
from ssd34.workflows.training.job import weighted
from ssd34.workflows.training.runs import choose_classes, find_start

RESULTS = "results.jsonl"
DETECTIONS = "detections.json"

VARIANTS: dict[str, Settings] = {
    "small-data": {},
    "no head norm": {"head_norm": False},
    "ATSS": {"matcher": "atss"},
    "no zooming out": {"expand": 0.0},
    "small-data, seed 35": {"seed": 35},
    "sgd, step schedule": {"optimizer": "sgd", "schedule": "step", "learning_rate": None},
    "no crops": {"crop": False},
    "lr 3e-4": {"learning_rate": 3e-4},
    "step schedule": {"schedule": "step"},
    "balance 0.2": {"balance": 0.2},
    "no colour": {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0},
    "light FPN": {},
}
"""What each changes in the recipe."""

VOC_CLASSES = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "dining table", "dog", "horse", "motorcycle", "person", "potted plant", "sheep", "couch",
    "train", "tv",
)  # fmt: skip
"""Under COCO's names. They have most of the boxes: their AP is less noisy than that of all 80."""


class TopDownSSD(SSD):
    """The network with a light feature pyramid: each level adds a 1x1 convolution of the next
    coarser one, enlarged to its size; at first it adds nothing. Source: Lin et al., 2017.

    Only here, to see what it is worth: export and quantization do not know it.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.laterals = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in itertools.pairwise(spec.level_channels)
        )
        for parameter in self.laterals.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `SSD.forward`."""
        levels = len(self.spec.at_size(images.shape[-1]).steps)
        features = [self.backbone(images)]
        for extra in self.extras[: levels - 1]:
            features.append(extra(features[-1]))
        for level in reversed(range(levels - 1)):
            coarse = self.laterals[level](features[level + 1])
            enlarged = functional.interpolate(coarse, size=features[level].shape[-2:])
            features[level] = features[level] + enlarged
        loc, conf = zip(*map(self.heads, features, range(levels)), strict=True)
        return torch.cat(loc, dim=2), torch.cat(conf, dim=2)


NETWORKS: dict[str, type[SSD]] = {"light FPN": TopDownSSD}
"""Variants that are another network."""

POLICIES = {"all": ZOO.replace(name="all", score_threshold=0.001), "zoo": ZOO}
"""Short trainings score low, and how low depends on the loss: a least score would judge that."""

COLUMNS = {
    "AP": "AP", "AP50": "AP50", "VOC_AP": "AP, VOC classes", "VOC_AP50": "AP50, VOC classes",
    "person_AP50": "AP50, person",
}  # fmt: skip


def main() -> None:
    """Train what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", action="append", required=True, metavar="PATH[=WEIGHT]")
    parser.add_argument("--val", required=True)
    parser.add_argument("--init", required=True, help="the backbone: ImageNet's, or a detector's")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--spec", choices=list(SPECS), default="ssd300-resnet18")
    parser.add_argument("--recipe", default="small-data")
    parser.add_argument("--set", dest="common", action="append", default=[], metavar="KEY=VALUE",
                        help="for all variants")  # fmt: skip
    parser.add_argument("--classes", choices=["all", "voc"], default="all")
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    results = options.output / RESULTS
    for name in options.variants:
        if name not in {record["variant"] for record in read(results)}:
            record = {"variant": name, **measured(VARIANTS[name], name=name, options=options)}
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            print(json.dumps(record), flush=True)
    rows = [titled(record) for record in read(results)]
    print(draw_rows(rows))
    data = [weighted(path)[0] for path in (*options.data, options.val)]
    keep(options.json, rows, data=data)


def read(results: Path) -> list[dict[str, Any]]:
    """The records of a file, one a line."""
    if not results.exists():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def measured(changed: Settings, *, name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train one variant and measure it."""
    start = find_start(options.init).backbone_alone
    common = dict(parse_setting(text) for text in options.common)
    plan = settle_recipe(
        read_recipe(options.recipe),
        {"epochs": 1, "workers": 0, "checkpoint_minutes": 2.0, **common, **changed},
        start=start.kind,
        bf16=computes_bf16(torch.device("cpu")),
        folded=start.folded,
    )
    datasets = [(load(path, options), weight) for path, weight in map(weighted, options.data)]
    validation = load(options.val, options)
    labels = choose_classes("auto", [dataset for dataset, _ in datasets])
    all_draws = sum(weight * _learnable(dataset) for dataset, weight in datasets)
    datasets = [(data, weight * options.pictures / all_draws) for data, weight in datasets]
    torch.manual_seed(plan.options.seed)
    spec = named_spec(options.spec).replace(
        num_classes=len(labels), head_norm=plan.settings["head_norm"] is not False
    )
    network = NETWORKS.get(name, SSD)(spec.at_size(options.size))
    start.put_into(network, labels)

    folder = run_folder(options.output, name)
    folder.mkdir(parents=True, exist_ok=True)
    marks: list[tuple[int, float]] = []

    def progress(now: Progress) -> None:
        marks.append((now.step, time.process_time()))
        print(f"{name}: {now.share:.0%}, loss {now.loss:.3f}, {now.elapsed:.0f} s", flush=True)

    outcome = train(
        network,
        labels,
        sources=make_training_sets(datasets, labels, balance=plan.options.balance),
        validation=validation,
        options=plan.options,
        output=folder,
        resume=(folder / LAST).is_file(),
        listener=TrainListener(progress=progress),
    )
    saved = read_checkpoint(folder / LAST, training=True)
    last_step = {
        k.removeprefix("model."): a for k, a in saved.training.items() if k.startswith("model.")
    }
    found = {}
    for weights, arrays in (("last step", last_step), ("averaged", saved.weights)):
        load_weights(network, arrays, source=weights)
        results = detected(network, labels, validation, plan.options)
        found[weights] = {n: numbers(measure_coco(validation, r)) for n, r in results.items()}
    write_results(folder / DETECTIONS, results["all"])
    steps = [event for event in read(folder / HISTORY) if event["event"] == "step"]
    batch = plan.options.batch_size
    return {
        "changed": dict(changed),
        "common": common,
        "seed": plan.options.seed,
        "init": Path(options.init).name,
        "spec": options.spec,
        "size": options.size,
        "classes": len(labels),
        "pictures": outcome.steps * batch,
        "loss": round(sum(event["loss"] for event in steps[-5:]) / len(steps[-5:]), 4),
        "pictures_per_cpu_s": _speed(marks, batch),
        "elapsed_s": round(steps[-1]["elapsed"]),
        **found,
        "difference": difference(validation, results["all"], first=options.output),
    }


def load(path: str, options: argparse.Namespace) -> Dataset:
    """A data set, with the classes that count."""
    dataset = open_dataset(path)
    return select_classes(dataset, VOC_CLASSES) if options.classes == "voc" else dataset


def _speed(marks: list[tuple[int, float]], batch: int) -> float | None:
    """Pictures a second of the processor's, which other programs do not change much."""
    if len(marks) < 2:
        return None
    (first, since), (last, until) = marks[0], marks[-1]
    return round((last - first) * batch / (until - since), 2)


def _learnable(dataset: Dataset) -> int:
    """Pictures that have something to learn."""
    return sum(bool((~sample.ignored).any()) for sample in dataset.samples)


def detected(
    network: SSD, labels: LabelSet, dataset: Dataset, options: TrainOptions
) -> dict[str, Results]:
    """What a network finds under each of `POLICIES`."""
    stages = stage_network(network, device=torch.device("cpu"), precision=options.precision)
    boxes = default_boxes_cxcywh(network.spec)

    def pick(raw: Any) -> tuple[Picked, ...]:
        return tuple(
            postprocess(*raw, default_boxes_cxcywh=boxes, policy=policy)
            for policy in POLICIES.values()
        )

    stages = dataclasses.replace(stages, pick=pick)
    found = [found.results for found in detect_all(stages, dataset, labels, batch_size=16)]
    return {
        name: Results.joined(part) for name, part in zip(POLICIES, zip(*found, strict=True),
                                                         strict=True)
    }  # fmt: skip


def difference(dataset: Dataset, results: Results, *, first: Path) -> list[float] | None:
    """AP50 less that of the first variant in the folder `first`, which was drawn from the same
    pictures, and the ends of its 95 % interval; None for the first itself."""
    records = read(first / RESULTS)
    if not records:
        return None
    reference = read_results(run_folder(first, records[0]["variant"]) / DETECTIONS, dataset)
    compared = compare(match(dataset, reference), match(dataset, results), resamples=400)
    found = compared.summary["AP50"]
    assert found.interval  # the classes are not rare
    ends = (found.interval.low, found.interval.high)
    return [round(value, 5) for value in (found.difference, *ends)]


def run_folder(output: Path, name: str) -> Path:
    """Where a variant is trained."""
    return output / "runs" / re.sub(r"[^a-z0-9]+", "-", name.lower())


def numbers(metrics: CocoMetrics) -> dict[str, float]:
    """What the table shows."""
    by_class, by_class50 = metrics.class_ap, metrics.class_ap50
    found = {
        "AP": metrics.ap,
        "AP50": metrics.ap50,
        "VOC_AP": sum(by_class[name] for name in VOC_CLASSES) / len(VOC_CLASSES),
        "VOC_AP50": sum(by_class50[name] for name in VOC_CLASSES) / len(VOC_CLASSES),
        "person_AP50": by_class50["person"],
    }
    return {name: round(value, 5) for name, value in found.items()}


def titled(record: dict[str, Any]) -> dict[str, Any]:
    """A row of the table: the averaged weights' numbers with every score, then AP50 of the last
    step's, and with the usual least score."""
    every = record["averaged"]["all"]
    return {
        "variant": record["variant"],
        **{title: f"{every[key]:.4f}" for key, title in COLUMNS.items()},
        "difference in AP50": _interval(record["difference"]),
        "AP50, last step": f"{record['last step']['all']['AP50']:.4f}",
        "AP50, scores from 0.05": f"{record['averaged']['zoo']['AP50']:.4f}",
        "loss": f"{record['loss']:.2f}",
        "pictures per CPU s": record["pictures_per_cpu_s"],
    }


def _interval(difference: list[float] | None) -> str:
    if difference is None:
        return ""
    change, low, high = difference
    return f"{change:+.4f} ({low:+.4f} to {high:+.4f})"


if __name__ == "__main__":
    main()
