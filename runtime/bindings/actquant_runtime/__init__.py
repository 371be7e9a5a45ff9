"""The actquant runtime: runs a policy file, and quantizes weights with ggml's formats."""

from actquant_runtime._core import ArgumentError, ModelFileError, check_header, checksum
from actquant_runtime.golden import golden_inputs, golden_observation
from actquant_runtime.hub import HubError
from actquant_runtime.previous import PreviousChunk
from actquant_runtime.quantization import (
    build_info,
    dequantize,
    find_device,
    quantize,
    quantize_with_feedback,
    types,
)
from actquant_runtime.runtime import DeviceWarning, PromptCutWarning, Runtime
from actquant_runtime.window import ObservationWindow

__all__ = [
    "ArgumentError",
    "DeviceWarning",
    "HubError",
    "ModelFileError",
    "ObservationWindow",
    "PreviousChunk",
    "PromptCutWarning",
    "Runtime",
    "build_info",
    "check_header",
    "checksum",
    "dequantize",
    "find_device",
    "golden_inputs",
    "golden_observation",
    "quantize",
    "quantize_with_feedback",
    "types",
]
