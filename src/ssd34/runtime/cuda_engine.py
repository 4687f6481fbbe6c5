"""ONNX Runtime on an NVIDIA card: the package onnxruntime-gpu, the extra ``gpu``.

It was written where no GPU was to be had, and has never run on one. ONNX Runtime runs on the
processor what the GPU cannot, and only its log says so. Here that is an error: without a provider,
without a driver, and where a convolution would not run on the GPU.
"""

from __future__ import annotations

import ctypes
import io
import re
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssd34.errors import MissingExtraError, ModelError
from ssd34.files.tree import text_of
from ssd34.runtime.engine import CUDA, ONNXRUNTIME, computes_in_int8, describe_failure
from ssd34.runtime.onnxruntime_engine import (
    REINSTALL_GPU,
    OnnxRuntimeEngine,
    onnxruntime,
    session_options,
)
from ssd34.text import one_line

PROVIDER = "CUDAExecutionProvider"

PROVIDER_OPTIONS = {"use_tf32": "0"}
"""Float stays float32: by default products would have 10 bits of fraction on newer GPUs."""

DEVICE = "cuda"
"""Of tensors; the first GPU, or the one that ``CUDA_VISIBLE_DEVICES`` names first."""

_NEEDS = (
    f"onnxruntime-gpu {onnxruntime.__version__} needs an NVIDIA GPU, a driver for CUDA "
    f"{getattr(onnxruntime, 'cuda_version', None) or 'of its version'}, and libraries that "
    "pip install 'onnxruntime-gpu[cuda,cudnn]' brings"
)

_FAILURE = re.compile(r"(?:CUDA|CUDNN|CUBLAS)\w* failure \d+: ([^;]+?)\s*;")


class CudaEngine(OnnxRuntimeEngine):
    """See `ssd34.runtime.engine.Engine`."""

    name = CUDA

    def __init__(self, path: Path, *, threads: int) -> None:
        """Load a file onto the GPU. MissingExtraError: ONNX Runtime cannot use a GPU here.
        ModelError: broken, in int8, or with convolutions that the GPU has no kernels for."""
        require_cuda()
        if computes_in_int8(path):
            raise ModelError(
                f"{path}: computes in int8, and ONNX Runtime has no int8 convolutions for a GPU: "
                f"use the float file that it was made from (default-float for the embedded model), "
                f"or the engine {ONNXRUNTIME}"
            )
        options = session_options(threads)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        super().__init__(path, options)

    def _open(self, path: Path, options: onnxruntime.SessionOptions) -> Any:
        providers = [(PROVIDER, PROVIDER_OPTIONS), "CPUExecutionProvider"]
        try:
            session = onnxruntime.InferenceSession(
                text_of(path), options, providers=providers, enable_fallback=False
            )
        except RuntimeError as error:
            found = _FAILURE.search(str(error))
            if found is None:
                raise
            raise MissingExtraError(
                f"the engine {CUDA} cannot run here: {found[1]}; {_NEEDS}"
            ) from None
        if PROVIDER not in session.get_providers():
            raise MissingExtraError(
                f"the engine {CUDA} cannot run here: ONNX Runtime left it out; {_NEEDS}"
            )
        astray = [
            node.op_type
            for part in session.get_provider_graph_assignment_info()
            if part.ep_name != PROVIDER
            for node in part.get_nodes()
            if "Conv" in node.op_type
        ]
        if astray:
            raise ModelError(
                f"{path}: {len(astray)} of its convolutions ({', '.join(sorted(set(astray)))}) "
                f"would run on the processor; {_NEEDS}; or use the engine {ONNXRUNTIME}"
            )
        return session

    def run(self, outputs: Sequence[str], feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """See `ssd34.runtime.engine.Engine`. Inputs are copied to the GPU once and outputs back
        once, whatever their number of pictures; all between stays there."""
        try:
            binding = self._session.io_binding()
            for name, value in feed.items():
                value = np.ascontiguousarray(value)
                there = onnxruntime.OrtValue.ortvalue_from_numpy(value, DEVICE)
                binding.bind_ortvalue_input(name, there)
            for name in outputs:
                binding.bind_output(name, DEVICE)
            self._session.run_with_iobinding(binding)
            found: list[NDArray[Any]] = binding.copy_outputs_to_cpu()
        except Exception as error:  # the library has no common base of its own
            raise ModelError(describe_failure(self._path, self.name, error)) from error
        return found


def has_cuda_provider() -> bool:
    """Whether the ONNX Runtime that is installed was built for GPUs, which may lack all else."""
    return PROVIDER in onnxruntime.get_available_providers()


def require_cuda() -> None:
    """Refuse with MissingExtraError where `find_cuda_fault` sees why no file can be run."""
    fault = find_cuda_fault()
    if fault:
        raise MissingExtraError(f"the engine {CUDA} cannot run here: {fault}")


def find_cuda_fault() -> str | None:
    """Why no file can be run on a GPU, in one line; None where nothing is seen to be missing.

    Loads the libraries of CUDA and cuDNN that pip has installed, and the provider's own. Only on
    Linux: elsewhere the file that is loaded shows what is missing.
    """
    if not has_cuda_provider():
        return (
            "the ONNX Runtime that is installed is for processors only; of onnxruntime and "
            f"onnxruntime-gpu just one may be there: {REINSTALL_GPU}"
        )
    with redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if sys.platform != "linux" or not library.exists():
        return None
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        reason = one_line(error)
        if "libcuda.so" in reason:
            return f"there is no NVIDIA driver ({reason}); {_NEEDS}"
        return f"a library is missing ({reason}); {_NEEDS}"
    return None
