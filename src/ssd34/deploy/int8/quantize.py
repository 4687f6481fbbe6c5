"""Post-training static quantization: a float network and its calibration to an int8 file.

Activations are uint8, weights symmetric int8, biases int32; decode, softmax and NMS stay in float.
"""

from __future__ import annotations

import json

import onnx

from ssd34.core.contract import METADATA_QUANTIZATION
from ssd34.core.postprocess import ZOO, Policy
from ssd34.deploy.graph.builder import GraphBuilder, add_flattened_head
from ssd34.deploy.graph.export import ExportOptions, finish_with_outputs
from ssd34.deploy.graph.layers import Network
from ssd34.deploy.int8.calibrate import CalibrationStatistics
from ssd34.deploy.int8.plan import QuantizeOptions, plan_int8
from ssd34.deploy.int8.writers import QdqWriter, QOperatorWriter
from ssd34.version import __version__

_WRITERS = {"qoperator": QOperatorWriter, "qdq": QdqWriter}


PUBLISHED_FORMS = {
    "12-int8": QuantizeOptions(form="qoperator", opset=12),
    "12-qdq": QuantizeOptions(form="qdq", opset=12, per_channel=False),
    "13-qdq": QuantizeOptions(form="qdq", opset=13),
}
"""What the end of a published int8 file's name stands for, as in ``ssd-12-int8``."""


def quantize_network(
    network: Network,
    statistics: CalibrationStatistics,
    options: QuantizeOptions,
    *,
    policy: Policy | None = ZOO,
    batch: int | None = 1,
    image_input: str = "float32",
) -> onnx.ModelProto:
    """The int8 file of a network.

    Args:
        network: in float.
        statistics: of the same network.
        options: how.
        policy: of the tail, None: without; batch and image_input: as in `ExportOptions`.
        batch: pictures at once.
        image_input: ``"float32"`` or ``"uint8"``.

    Raises:
        OptionError: an option is outside what is allowed, or a node is unknown.
        ModelError: the statistics belong to another network.
    """
    statistics.check_network(network)
    options = options.replace(float_nodes=network.resolve_names(options.float_nodes))
    export = ExportOptions(opset=options.opset, policy=policy, batch=batch, image_input=image_input)
    plan = plan_int8(network, statistics, options, bytes_input=image_input == "uint8")
    builder = GraphBuilder(opset=options.opset)
    writer = _WRITERS[options.form](builder, plan)
    for layer in plan.network.layers:
        writer.add(layer)
    heads = {name: writer.as_float(name) for name in (*network.loc, *network.conf)}
    for name, value in heads.items():
        add_flattened_head(builder, network.spec, network.by_name[name], value)
    how = {**options.to_dict(), "pictures": statistics.pictures, "ssd34": __version__}
    return finish_with_outputs(
        builder,
        network,
        export,
        metadata={METADATA_QUANTIZATION: json.dumps(how, sort_keys=True, separators=(",", ":"))},
    )
