"""How fast training examples are made: processor time of each part, and images/s with workers.

python benchmarks/loader.py coco-train.zip --sizes 300 200
python benchmarks/loader.py coco-val.zip --width 1600 --pictures 80
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tables import keep, print_rows

from ssd34.core.spec import named_spec
from ssd34.datasets.dataset import Dataset
from ssd34.datasets.open import open_dataset
from ssd34.files.atomic import write_text
from ssd34.train.examples import example
from ssd34.train.examples.example import Draw, TrainingSet, make_training_sets
from ssd34.train.examples.loader import Loader
from ssd34.train.options import TrainOptions

PARTS = (
    (Dataset, "read_reduced", "decode"),
    (example, "draw_variation", "draw"),
    (example, "apply_variation", "resample, jitter"),
    (example, "match", "match"),
    (example, "encode", "encode"),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("data", help="a data set")
    parser.add_argument("--pictures", type=int, default=300)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 200])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cache-mb", type=int, nargs="+", default=[0, 4096])
    parser.add_argument(
        "--width", type=int, help="recode the pictures as JPEG of this width, with grain"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = options.data
        if options.width:
            data = _recoded(open_dataset(data), Path(folder), options.width, options.pictures)
        dataset = open_dataset(data)
        sources = make_training_sets([(dataset, 1.0)], dataset.labels)
        rows = [
            _measured(sources, size, cache, options.workers, options.pictures)
            for size in options.sizes
            for cache in options.cache_mb
        ]
    print_rows(rows, title=f"{dataset.name}: ms of processor time a picture; images/s")
    keep(options.json, rows, data=[options.data])


def _loader(sources: list[TrainingSet], size: int, cache_mb: int, workers: int) -> Loader:
    return Loader(
        sources, spec=named_spec("ssd300-resnet34"), size_now=lambda _: size,
        options=TrainOptions(batch_size=16, seed=1, workers=workers, cache_mb=cache_mb),
    )  # fmt: skip


def _measured(
    sources: list[TrainingSet], size: int, cache_mb: int, workers: list[int], pictures: int
) -> dict[str, Any]:
    """One size; with a cache once it is filled."""
    examples = _loader(sources, size, cache_mb, 0).examples
    examples.default_boxes(size)
    chosen = sources[0].usable[:pictures]
    rounds = 3 if cache_mb else 1
    with _clocks() as spent:
        for repeat in range(rounds):
            spent.update(dict.fromkeys(spent, 0.0))
            started = time.process_time()
            for number, picture in enumerate(chosen):
                examples[Draw(0, int(picture), (1, repeat, number), size)]
            total = time.process_time() - started
    row: dict[str, Any] = {"pixels": size, "cache": f"{examples.cache.used >> 20} MiB"}
    row |= {name: round(1e3 * seconds / len(chosen), 2) for name, seconds in spent.items()}
    row["an example, ms"] = round(1e3 * total / len(chosen), 2)
    for count in workers:
        row[f"{count} workers, images/s"] = round(
            _rate(sources, size, cache_mb, count, pictures), 1
        )
    return row


def _rate(
    sources: list[TrainingSet], size: int, cache_mb: int, workers: int, pictures: int
) -> float:
    """Images/s; two epochs of the pictures fill queues and cache first."""
    few = [type(s)(s.dataset, s.weight, s.labels, s.labelled, s.usable[:pictures],
                   s.frequency[:pictures]) for s in sources]  # fmt: skip
    loader = _loader(few, size, cache_mb, workers)
    batches = loader.batches(0)
    for _ in range(2 * loader.batches_per_epoch if cache_mb else 4):
        next(batches)
    started = time.perf_counter()
    made = sum(len(next(batches).images) for _ in range(loader.batches_per_epoch))
    rate = made / (time.perf_counter() - started)
    batches.close()
    return rate


@contextmanager
def _clocks() -> Iterator[dict[str, float]]:
    """Add up the processor time of the parts."""
    spent = dict.fromkeys([name for _, _, name in PARTS], 0.0)
    originals = [(place, attribute, getattr(place, attribute)) for place, attribute, _ in PARTS]
    for (place, attribute, original), (_, _, name) in zip(originals, PARTS, strict=True):
        setattr(place, attribute, _timed(original, spent, name))
    try:
        yield spent
    finally:
        for place, attribute, original in originals:
            setattr(place, attribute, original)


def _timed(function: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments, **keywords)
        finally:
            spent[name] += time.process_time() - started

    return timed


def _recoded(dataset: Dataset, folder: Path, width: int, pictures: int) -> str:
    """A COCO data set of the same pictures as a camera would give them: large, with grain."""
    (folder / "images").mkdir()
    generator = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for sample in [s for s in dataset.samples if (~s.ignored).any()][:pictures]:
        scale = width / max(sample.width, sample.height)
        size = (round(sample.width * scale), round(sample.height * scale))
        whole = Image.fromarray(dataset.read(sample)).resize(size, Image.Resampling.LANCZOS)
        grain = generator.normal(0, 4, (size[1], size[0], 1))
        stream = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(whole) + grain, 0, 255).astype(np.uint8)).save(
            stream, "JPEG", quality=90
        )
        name = f"{sample.image_id}.jpg"
        (folder / "images" / name).write_bytes(stream.getvalue())
        images.append(
            {"id": sample.image_id, "file_name": name, "width": size[0], "height": size[1]}
        )
        for box, label in zip(sample.boxes, sample.labels, strict=True):
            left, top, right, bottom = (np.minimum(box * scale, [*size, *size])).tolist()
            annotations.append(
                {"id": len(annotations) + 1, "image_id": sample.image_id,
                 "category_id": int(label), "iscrowd": 0, "area": (right - left) * (bottom - top),
                 "bbox": [left, top, right - left, bottom - top]}
            )  # fmt: skip
    categories = [{"id": n + 1, "name": name} for n, name in enumerate(dataset.labels.names)]
    values = {"images": images, "annotations": annotations, "categories": categories}
    write_text(folder / "instances.json", json.dumps(values))
    return str(folder)


if __name__ == "__main__":
    main()
