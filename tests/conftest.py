"""Small networks, pictures and data sets that the tests share."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from ssd34.core.labels import LabelSet
from ssd34.core.postprocess import ZOO
from ssd34.core.spec import ModelSpec, named_spec
from ssd34.datasets.open import open_dataset
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.deploy.graph.layers import Network, make_network
from ssd34.deploy.int8.calibrate import CalibrationStatistics, calibrate
from ssd34.files.checkpoint import Checkpoint
from ssd34.images.read import read_image
from ssd34.network.ssd import SSD, copy_arrays
from ssd34.runtime.detector import Detector
from tests.support.mirror import Mirror

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts so what runs in the background, and processes that tests interrupt inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

COCO_NUMBERS = (
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
)  # fmt: skip
"""COCO's numbers in the order in which pycocotools prints them."""

TINY_LABELS = LabelSet(("square", "disc", "cross"), (3, 7, 11))


def tiny_spec() -> ModelSpec:
    """A slim network on 64 pixels with four levels and three classes."""
    spec = named_spec("ssd300-resnet18").at_size(64)
    slim = tuple(dataclasses.replace(b, middle_channels=32, channels=64) for b in spec.extra_blocks)
    return spec.replace(name="tiny", num_classes=3, head_norm=True, extra_blocks=slim)


def drawn_checkpoint(spec: ModelSpec, labels: LabelSet, *, seed: int = 0) -> Checkpoint:
    """Random weights that spread scores widely, with batch statistics that are not trivial."""
    torch.manual_seed(seed)
    network = SSD(spec)
    generator = np.random.default_rng(seed)
    weights = copy_arrays(network)
    for name, array in weights.items():
        if name.endswith("running_var"):
            weights[name] = generator.uniform(0.5, 1.5, array.shape).astype(np.float32)
        elif name.endswith(("running_mean", "bias")):
            weights[name] = generator.normal(0, 0.1, array.shape).astype(np.float32)
        elif name.startswith("heads."):
            weights[name] = array * np.float32(0.2)
    return Checkpoint(spec=spec, labels=labels, weights=weights)


@pytest.fixture(scope="session", autouse=True)
def _no_fork() -> Iterator[None]:
    """No test makes a copy of this process: engines and the metrics library have run threads in it,
    and a copy may hang or crash."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fork", _refuse_to_fork, raising=False)
        yield


def _refuse_to_fork() -> int:
    raise AssertionError("fork of a process in which engines have run threads")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """On networks as small as these, threads wait for each other more than they compute."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        yield


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of several worker processes."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)


@pytest.fixture(scope="session")
def tiny_checkpoint() -> Checkpoint:
    return drawn_checkpoint(tiny_spec(), TINY_LABELS)


@pytest.fixture(scope="session")
def tiny_file(tiny_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as a file; not to be written to."""
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    tiny_checkpoint.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_network(tiny_checkpoint: Checkpoint) -> Network:
    return make_network(tiny_checkpoint)


@pytest.fixture(scope="session")
def tiny_statistics(tiny_network: Network) -> CalibrationStatistics:
    """Its calibration with three pictures."""
    names = ("astronaut", "chelsea", "coffee")
    return calibrate(tiny_network, [read_image(EXAMPLES / f"{name}.jpg") for name in names])


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the ONNX files below."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny_model(tiny_checkpoint: Checkpoint, model_folder: Path) -> Path:
    """An ONNX file with its own tail."""
    return exported(tiny_checkpoint, model_folder / "tiny.onnx", policy=ZOO)


@pytest.fixture(scope="session")
def tiny_raw_model(tiny_checkpoint: Checkpoint, model_folder: Path) -> Path:
    """The same network, ending at loc and conf."""
    return exported(tiny_checkpoint, model_folder / "tiny-raw.onnx", policy=None, batch=None)


@pytest.fixture(scope="session")
def tiny_batch_model(tiny_checkpoint: Checkpoint, model_folder: Path) -> Path:
    """The same network for four pictures at once, no more and no fewer."""
    return exported(tiny_checkpoint, model_folder / "tiny-batch.onnx", policy=None, batch=4)


def exported(checkpoint: Checkpoint, path: Path, **options: Any) -> Path:
    save_model(make_onnx_model(checkpoint, ExportOptions(**options)), path)
    return path


@pytest.fixture(scope="session")
def failing_model(tiny_raw_model: Path, model_folder: Path) -> Path:
    """The same network; it loads, and fails in every run with other than two pictures."""
    model = onnx.load(tiny_raw_model)
    (last,) = (node for node in model.graph.node if "loc" in node.output)
    last.output[list(last.output).index("loc")] = "loc_of_any"
    shape = np.array([2, 4, tiny_spec().num_default_boxes])
    model.graph.initializer.append(onnx.numpy_helper.from_array(shape, "pictures"))
    model.graph.node.append(
        onnx.helper.make_node("Reshape", ["loc_of_any", "pictures"], ["loc"], "make_loc_of_two")
    )
    (port,) = (port for port in model.graph.output if port.name == "loc")
    port.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, model_folder / "failing.onnx")
    return model_folder / "failing.onnx"


def annotation_of(number: int, image_id: int, label: int, box: Sequence[float]) -> dict[str, Any]:
    """COCO's entry of a box (xywh, pixels)."""
    category = TINY_LABELS.category_ids[label]
    return {
        "id": number, "image_id": image_id, "category_id": category, "bbox": box,
        "area": box[2] * box[3], "iscrowd": 0,
    }  # fmt: skip


def shapes_dataset(folder: Path, *, pictures: int, seed: int = 0) -> Path:
    """A folder with instances.json and images/: coloured shapes on noise, boxes exact.

    Squares are red, discs green, crosses blue; one to three of them in a picture.
    """
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, pictures + 1):
        width, height = (int(v) for v in generator.integers(80, 120, 2))
        pixels = generator.integers(90, 166, (height, width, 3)).astype(np.uint8)
        for _ in range(int(generator.integers(1, 4))):
            label = int(generator.integers(3))
            side = int(generator.integers(20, 45))
            left, top = (int(generator.integers(0, v - side)) for v in (width, height))
            patch = pixels[top : top + side, left : left + side]
            y, x = np.mgrid[:side, :side] - (side - 1) / 2
            mask = (
                np.ones((side, side), bool),
                x**2 + y**2 <= (side / 2) ** 2,
                (abs(x) < side / 6) | (abs(y) < side / 6),
            )[label]
            patch[mask] = np.eye(3, dtype=np.uint8)[label] * 255
            box = [left, top, side, side]
            annotations.append(annotation_of(len(annotations) + 1, number, label, box))
        name = f"{number:04}.png"
        Image.fromarray(pixels).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    categories = [
        {"id": c, "name": n}
        for n, c in zip(TINY_LABELS.names, TINY_LABELS.category_ids, strict=True)
    ]
    values = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of shapes."""
    return shapes_dataset(tmp_path_factory.mktemp("shapes") / "set", pictures=12)


@pytest.fixture(scope="session")
def found_shapes(shapes: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of shapes, with the tiny float network's best detections as their boxes."""
    folder = tmp_path_factory.mktemp("found") / "set"
    shutil.copytree(shapes / "images", folder / "images")
    values = json.loads((shapes / "instances.json").read_text())
    dataset = open_dataset(str(shapes))
    detector = Detector.load(tiny_model)
    annotations: list[dict[str, Any]] = []
    for sample in dataset.samples:
        for one in detector.detect(dataset.read(sample), score=0)[:20]:
            left, top, right, bottom = one.box
            box = [left, top, right - left, bottom - top]
            if min(box[2:]) >= 1:
                number = len(annotations) + 1
                annotations.append(annotation_of(number, sample.image_id, one.label - 1, box))
    values["annotations"] = annotations
    (folder / "instances.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def no_plots(monkeypatch):
    """For tests of the rest of the page: drawing is what takes long."""
    from ssd34.evaluate.report import page

    dot = io.BytesIO()
    Image.new("RGB", (1, 1)).save(dot, format="png")
    monkeypatch.setattr(page, "render_png", lambda *_: dot.getvalue())


@pytest.fixture
def mirror(monkeypatch):
    """A local HTTP server that plays a mirror."""
    monkeypatch.setenv("no_proxy", "*")
    with closing(Mirror()) as mirror:
        yield mirror


second = mirror
"""Another one."""
