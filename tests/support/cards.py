"""ONNX Runtime as its package for cards behaves, on machines without one.

The texts are those of onnxruntime-gpu 1.31.1, as it said them without CUDA's libraries, without a
driver, and with a ``libcuda.so.1`` that is too old or knows no card. What runs, runs in the real
ONNX Runtime, on the processor.
"""

import ctypes
import sys
from types import SimpleNamespace

import onnxruntime

from ssd34.runtime import cuda_engine

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

NO_LIBRARY = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
NO_DRIVER = "libcuda.so.1: cannot open shared object file: No such file or directory"

_CALL = (
    "/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:{} "
    "std::conditional_t<THRW, void, onnxruntime::common::Status> onnxruntime::CudaCall(ERRTYPE, "
    "const char*, const char*, SUCCTYPE, const char*, const char*, int) [with ERRTYPE = cudaError; "
    "bool THRW = true; SUCCTYPE = cudaError; std::conditional_t<THRW, void, common::Status> = "
    "void] "
)
_FAILURE = (
    _CALL.format(154) + _CALL.format(146) + "CUDA failure {} ; GPU=-1 ; hostname=secret ; "
    "file=/onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider.cc ; line=355 ; "
    "expr=cudaSetDevice(info_.device_id); \n\n"
)
OLD_DRIVER = _FAILURE.format("35: CUDA driver version is insufficient for CUDA runtime version")
NO_CARD = _FAILURE.format("100: no CUDA-capable device is detected")


class _Part(SimpleNamespace):
    """Some nodes and where they run."""

    def get_nodes(self):
        return self.nodes


class _Session(onnxruntime.InferenceSession):  # type: ignore[misc]
    """Of a package that has a card, as it says."""

    def __init__(self, path, options, *, providers, enable_fallback, left_out=False, on_card=None):
        self.left_out, self.on_card = left_out, on_card
        assert enable_fallback is False, "or it would go on without the card"
        assert [providers[0][0], providers[1]] == [CUDA, CPU]
        super().__init__(path, options, providers=[CPU])

    def get_providers(self):
        return [CPU] if self.left_out else [CUDA, CPU]

    def get_provider_graph_assignment_info(self):
        nodes = [n for p in super().get_provider_graph_assignment_info() for n in p.get_nodes()]
        assert nodes, "it was not asked to tell"
        there = self.on_card or bool
        return [_Part(ep_name=CUDA if there(node) else CPU, nodes=[node]) for node in nodes]


def put_card(monkeypatch, folder, *, library=None, failure=None, left_out=False, on_card=None):
    """Let there be the package for cards.

    Args:
        folder: where the package lies, as it says.
        library: why its library is not loaded.
        failure: why it makes no session.
        left_out: whether it leaves its provider out of sessions.
        on_card: whether a node runs there; None: all do.
    """

    def session(*arguments, **options):
        if failure:
            raise RuntimeError(failure)
        return _Session(*arguments, **options, left_out=left_out, on_card=on_card)

    def load(name):
        assert name.endswith("libonnxruntime_providers_cuda.so")
        if library:
            raise OSError(library)

    (folder / "capi").mkdir(parents=True)
    (folder / "capi" / "libonnxruntime_providers_cuda.so").touch()
    package = SimpleNamespace(
        __file__=str(folder / "__init__.py"),
        InferenceSession=session,
        SessionOptions=onnxruntime.SessionOptions,
        OrtValue=onnxruntime.OrtValue,
        get_available_providers=lambda: ["TensorrtExecutionProvider", CUDA, CPU],
        preload_dlls=lambda: print(f"Failed to load {library}"),
    )
    monkeypatch.setattr(cuda_engine, "onnxruntime", package)
    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(cuda_engine, "DEVICE", "cpu")
    monkeypatch.setattr(sys, "platform", "linux")
