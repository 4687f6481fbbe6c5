"""Float and int8 files of a network with drawn weights, to compare their speed.

Accuracy means nothing here; the time does not depend on the weights.

    python benchmarks/drawn_files.py ssd1200-resnet34 drawn --pictures examples
    ssd34 benchmark drawn/float.onnx drawn/12-int8.onnx drawn/13-qdq.onnx --threads 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ssd34 import named_spec
from ssd34.core.labels import COCO_LABELS
from ssd34.core.postprocess import ZOO
from ssd34.core.spec import SPECS
from ssd34.deploy.graph.builder import save_model
from ssd34.deploy.graph.export import ExportOptions, make_onnx_model
from ssd34.deploy.graph.layers import make_network
from ssd34.deploy.int8.calibrate import calibrate
from ssd34.deploy.int8.quantize import PUBLISHED_FORMS, quantize_network
from ssd34.deploy.search.pictures import from_folder
from ssd34.files.checkpoint import Checkpoint
from ssd34.network.ssd import SSD, copy_arrays


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description="Float and int8 files of drawn weights.")
    parser.add_argument("spec", choices=list(SPECS))
    parser.add_argument("output", type=Path)
    parser.add_argument("--pictures", required=True, help="a folder of pictures that calibrate")
    parser.add_argument("--input", choices=["float32", "uint8"], default="float32")
    parser.add_argument("--reduce-range", action="store_true", help="weights of 7 bits")
    options = parser.parse_args()
    torch.manual_seed(34)
    spec = named_spec(options.spec)
    checkpoint = Checkpoint(spec=spec, labels=COCO_LABELS, weights=copy_arrays(SSD(spec)))
    options.output.mkdir(parents=True, exist_ok=True)
    model = make_onnx_model(checkpoint, ExportOptions(policy=ZOO, image_input=options.input))
    save_model(model, options.output / "float.onnx")
    network = make_network(checkpoint)
    statistics = calibrate(network, from_folder(options.pictures, pictures=3).read())
    for form, how in PUBLISHED_FORMS.items():
        how = how.replace(reduce_range=options.reduce_range)
        model = quantize_network(network, statistics, how, image_input=options.input)
        save_model(model, options.output / f"{form}.onnx")
    for path in sorted(options.output.glob("*.onnx")):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
