"""Post-training static quantization: a float network and its calibration to an int8 file.

Activations are uint8 with one scale and zero point per tensor, weights are symmetric int8, biases
int32. Decode, softmax and NMS stay in float, and each level's heads get back to float on their own,
before anything joins them.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import onnx

from ssd34.core.contract import LARGEST_NARROW_WEIGHT, LARGEST_WEIGHT, METADATA_QUANTIZATION
from ssd34.core.postprocess import ZOO, Policy
from ssd34.deploy.graph.builder import GraphBuilder, add_flattened_head
from ssd34.deploy.graph.export import ExportOptions, with_outputs
from ssd34.deploy.graph.layers import Network
from ssd34.deploy.int8.calibrate import Statistics
from ssd34.deploy.int8.plan import int8_plan
from ssd34.deploy.int8.ranges import METHODS, TRAINED
from ssd34.deploy.int8.writers import QdqWriter, QOperatorWriter
from ssd34.errors import OptionError
from ssd34.version import __version__

FORMS = ("qoperator", "qdq")
_WRITERS = {"qoperator": QOperatorWriter, "qdq": QdqWriter}


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How a network is quantized.

    Attributes:
        form: ``"qoperator"``: operators that compute in int8, from opset 12 on; ``"qdq"``: float
            operators between QuantizeLinear and DequantizeLinear, which runtimes fuse.
        opset: version of the operators. ``"qdq"`` below 13 has one scale for all of a weight.
        ranges: how the ranges of activations are found; see `ranges.value_range`; or
            ``"trained"``: the steps that quantization-aware training used.
        percentile: for the ranges of that name.
        per_channel: one scale for each output channel of a weight instead of one for all.
        reduce_range: weights of 7 bits, -64 to 64: processors without VNNI add two products in 16
            bits, which saturates with more.
        bias_correction: keep the mean of what rounded weights compute: their windows keep their
            sums, and the mean error on the calibration pictures is taken out of the biases.
        float_nodes: names of layers that stay in float, for example ``"backbone.conv1"``.
    """

    form: str = "qoperator"
    opset: int = 12
    ranges: str = "minmax"
    percentile: float = 99.99
    per_channel: bool = True
    reduce_range: bool = False
    bias_correction: bool = True
    float_nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise OptionError(f"unknown form {self.form!r}; expected one of {', '.join(FORMS)}")
        if self.opset < 12:
            raise OptionError(
                f"int8 files need opset 12 or newer, got {self.opset}: max-pools of bytes came "
                "with 12"
            )
        if self.form == "qdq" and self.per_channel and self.opset < 13:
            raise OptionError(
                "a QDQ file with one scale per channel needs opset 13 or newer, got "
                f"{self.opset}; use opset 13, per_channel=False or the form qoperator"
            )
        if self.ranges not in (*METHODS, TRAINED):
            raise OptionError(
                f"unknown ranges {self.ranges!r}; expected one of {', '.join(METHODS)}"
            )
        if not 50 <= self.percentile <= 100:
            raise OptionError(f"expected a percentile from 50 to 100, got {self.percentile}")

    def replace(self, **changes: Any) -> QuantizeOptions:
        """A copy with some values changed."""
        return dataclasses.replace(self, **changes)

    def is_kind_of(self, other: QuantizeOptions) -> bool:
        """Whether they make the same kind of file."""
        mine, theirs = ((o.form, o.opset, o.per_channel) for o in (self, other))
        return mine == theirs

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form; `from_dict` is its inverse."""
        return {**dataclasses.asdict(self), "float_nodes": list(self.float_nodes)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuantizeOptions:
        """The inverse of `to_dict`.

        Raises:
            OptionError: a value is unknown or outside what is allowed.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise OptionError(
                f"unknown quantization option {unknown[0]!r}; expected {', '.join(sorted(known))}"
            )
        return cls(**{**values, "float_nodes": tuple(values.get("float_nodes", ()))})


PUBLISHED_FORMS = {
    "12-int8": QuantizeOptions(form="qoperator", opset=12),
    "12-qdq": QuantizeOptions(form="qdq", opset=12, per_channel=False),
    "13-qdq": QuantizeOptions(form="qdq", opset=13),
}
"""What the end of a published int8 file's name stands for, as in ``ssd-12-int8``."""


def quantized_model(
    network: Network,
    statistics: Statistics,
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
        image_input: ``"float32"`` or ``"uint8"``. With bytes the first convolution reads the
            picture as it is, its normalisation folded into weights and bias.

    Raises:
        OptionError: an option is outside what is allowed, or a node is unknown.
        ModelError: the statistics belong to another network.
    """
    statistics.check_network(network)
    options = options.replace(float_nodes=network.resolve_names(options.float_nodes))
    export = ExportOptions(opset=options.opset, policy=policy, batch=batch, image_input=image_input)
    plan = int8_plan(
        network,
        statistics,
        ranges=options.ranges,
        percentile=options.percentile,
        per_channel=options.per_channel,
        largest_weight=LARGEST_NARROW_WEIGHT if options.reduce_range else LARGEST_WEIGHT,
        bias_correction=options.bias_correction,
        bytes_input=image_input == "uint8",
        float_nodes=frozenset(options.float_nodes),
    )
    builder = GraphBuilder(opset=options.opset)
    writer = _WRITERS[options.form](builder, plan)
    for layer in plan.network.layers:
        writer.add(layer)
    heads = {name: writer.as_float(name) for name in (*network.loc, *network.conf)}
    for name, value in heads.items():
        add_flattened_head(builder, network.spec, network.by_name[name], value)
    how = {**options.to_dict(), "pictures": statistics.pictures, "ssd34": __version__}
    return with_outputs(
        builder,
        network,
        export,
        metadata={METADATA_QUANTIZATION: json.dumps(how, sort_keys=True, separators=(",", ":"))},
    )
