"""Which versions of the ONNX operators a file can be written in."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from ssd34.errors import OptionError
from ssd34.runtime.onnxruntime_engine import onnxruntime, open_onnx

OLDEST = 10
"""The first with NonMaxSuppression."""


def find_ir_version(opset: int) -> int:
    """The file format of an opset, as in the published files (10: 5, 12: 7)."""
    return helper.find_min_ir_version_for([helper.make_opsetid("", opset)])


def find_onnx_release(opset: int) -> str:
    """The first release of ONNX with an opset, such as ``"1.7"``; ``"unknown"`` to this one."""
    releases = (row[0] for row in helper.VERSION_TABLE if row[2] == opset)
    return ".".join(next(releases, "unknown").split(".")[:2])


def list_opsets() -> range:
    """From the oldest that the network needs to the newest that the installed onnx defines."""
    return range(OLDEST, onnx.defs.onnx_opset_version() + 1)


def find_newest_opset() -> int:
    """The newest that the installed onnx defines and the installed ONNX Runtime loads."""
    return next(opset for opset in reversed(list_opsets()) if _loads(opset))


def check_opset(opset: int) -> None:
    """Raise an OptionError where the opset is not one of `list_opsets`."""
    if opset not in list_opsets():
        raise OptionError(
            f"unknown opset {opset}; expected {OLDEST} to {list_opsets()[-1]}, the newest that "
            f"the installed onnx {onnx.__version__} defines"
        )


def _loads(opset: int) -> bool:
    """Whether ONNX Runtime loads the smallest file of an opset."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "smallest", [x], [y])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=find_ir_version(opset)
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        open_onnx(model.SerializeToString(), options)
    except Exception:  # the library has no common base of its own
        return False
    return True
