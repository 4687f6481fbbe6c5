"""Evaluation: the metric against pycocotools, pictures a second against a plain loop, memory.

python benchmarks/evaluation.py --data coco-val.zip --detections found.json --pictures 100 5000

Detections are what ssd34 evaluate --detections wrote. Larger sets are the same pictures again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tables import keep, run_command

from ssd34 import Detector
from ssd34.core.boxes import xywh_from_xyxy
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import open_dataset
from ssd34.evaluate.bootstrap import estimate_uncertainty, match
from ssd34.evaluate.evaluator import detect_all, stage_detector
from ssd34.evaluate.metrics import measure_coco
from ssd34.evaluate.results import Results, read_results

APART = 10_000_000
"""Between the image ids of one repetition and the next."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True)
    parser.add_argument("--detections", type=Path, help="for the metric; left out: not measured")
    parser.add_argument("--model", default="default")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--loop", type=int, default=100, help="pictures of the loop; 0: none")
    parser.add_argument("--pictures", type=int, nargs="*", default=[100, 5000])
    parser.add_argument("--memory-model", help="model of the memory runs; default: --model")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    dataset = open_dataset(options.data)
    found: dict[str, list[dict[str, Any]]] = {}
    if options.detections:
        results = read_results(options.detections, dataset)
        sizes = (len(dataset), max(options.pictures))
        found["metric"] = [metric(dataset, results, pictures=number) for number in sizes]
    if options.loop:
        found["loop"] = loop(options.model, dataset, number=options.loop, threads=options.threads)
    if not options.no_memory:
        model = options.memory_model or options.model
        found["memory"] = [memory(model, dataset, pictures=n) for n in options.pictures]
    print(json.dumps(found, indent=1))
    keep(options.json, found, models=[options.model], data=[options.data])


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result, and seconds by the clock and of the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = work()
    return made, {
        "wall_s": round(time.perf_counter() - wall, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
    }


def repeated(dataset: Dataset, results: Results, *, pictures: int) -> tuple[Dataset, Results]:
    """The first so many pictures of the set repeated without end, and their detections."""
    samples, parts = [], []
    for copy in range(-(-pictures // len(dataset))):
        moved = [
            type(s)(**{**vars(s), "image_id": s.image_id + copy * APART}) for s in dataset.samples
        ]
        samples += moved
        ids = results.image_ids + copy * APART
        parts.append(Results(ids, results.category_ids, results.boxes_xywh, results.scores))
    many = Dataset(dataset.name, dataset.labels, tuple(samples[:pictures]), dataset.images)
    return many, Results.joined(parts).within(many)


def annotations_of(dataset: Dataset) -> dict[str, Any]:
    """A data set as COCO's annotations, each number as it is in memory."""
    boxes = (
        {"image_id": s.image_id, "category_id": dataset.labels.category_id(label), "area": area,
         "bbox": box, "iscrowd": ignored}
        for s in dataset.samples
        for box, label, area, ignored in zip(
            xywh_from_xyxy(s.boxes).tolist(), s.labels.tolist(), s.areas.tolist(),
            s.ignored.astype(int).tolist(), strict=True,
        )
    )  # fmt: skip
    classes = zip(dataset.labels.names, dataset.labels.category_ids, strict=True)
    return {
        "images": [
            {"id": s.image_id, "file_name": s.file_name, "width": s.width, "height": s.height}
            for s in dataset.samples
        ],
        "annotations": [{"id": number, **box} for number, box in enumerate(boxes, start=1)],
        "categories": [{"id": category, "name": name} for name, category in classes],
    }


def metric(dataset: Dataset, results: Results, *, pictures: int) -> dict[str, Any]:
    """The metric alone by both libraries, and the intervals."""
    many, found = repeated(dataset, results, pictures=pictures)
    ours, our_time = timed(lambda: measure_coco(many, found))
    truth, listed = annotations_of(many), list(found)
    theirs, their_time = timed(lambda: pycocotools(truth, listed))
    matches, match_time = timed(lambda: match(many, found))
    _, draw_time = timed(lambda: estimate_uncertainty(matches, resamples=1000))
    numbers = [-1 if value is None else value for value in ours.summary.values()]
    return {
        "pictures": len(many),
        "boxes": len(truth["annotations"]),
        "detections": len(found),
        "largest difference": max(abs(a - b) for a, b in zip(numbers, theirs, strict=True)),
        "ours, s": our_time["cpu_s"],
        "pycocotools, s": their_time["cpu_s"],
        "intervals: matching, s": match_time["cpu_s"],
        "1000 draws, s": draw_time["cpu_s"],
    }


def pycocotools(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """The twelve numbers."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = truth
        annotations.createIndex()
        evaluation = COCOeval(annotations, annotations.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def loop(model: str, dataset: Dataset, *, number: int, threads: int | None) -> list[dict[str, Any]]:
    """Pictures a second of evaluate and of detect one after the other, in turns."""
    detector = Detector.load(model, threads=threads)
    some = Dataset(dataset.name, dataset.labels, dataset.samples[:number], dataset.images)
    stages = stage_detector(detector)

    def plain() -> None:
        for sample in some.samples:
            detector.detect(some.read(sample), score=0)

    def streamed() -> None:
        for _ in detect_all(stages, some, detector.labels):
            pass

    times: dict[str, list[dict[str, float]]] = {"evaluate": [], "detect": []}
    streamed()
    for _ in range(3):
        for name, work in (("evaluate", streamed), ("detect", plain)):
            times[name].append(timed(work)[1])
    return [
        {
            "way": name,
            "threads": detector.session.threads,
            "pictures/s": round(len(some) / min(t["wall_s"] for t in rounds), 2),
        }
        for name, rounds in times.items()
    ]


def memory(model: str, dataset: Dataset, *, pictures: int) -> dict[str, Any]:
    """Peak memory of the command, in a process of its own."""
    many, _ = repeated(dataset, Results.of([]), pictures=pictures)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sample in dataset.samples[:pictures]:
            file = folder / "images" / sample.file_name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(dataset.images.read_bytes(sample.file_name))
        (folder / "instances.json").write_text(json.dumps(annotations_of(many)))
        report, detections = folder / "report.json", folder / "detections.json"
        used = run_command(
            "evaluate", model, "--data", name, "--json", report, "--detections", detections,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        with detections.open() as file_of_rows:
            number = sum(line.startswith("{") for line in file_of_rows)
    return {
        "model": model,
        "pictures": pictures,
        "detections": number,
        "most memory, MB": used.memory,
        "s": round(used.seconds, 1),
    }


if __name__ == "__main__":
    main()
