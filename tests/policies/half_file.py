"""A captured policy as a file whose matrices are F16."""

from pathlib import Path

from actquant.capture.policy import CapturedPolicy
from actquant.model_file import write_model


def write_half(captured: CapturedPolicy, path: Path) -> Path:
    return write_model(
        path,
        stages=captured.stages,
        encodings={},
        metadata=captured.metadata,
        tensor_names=captured.tensor_names,
        float_type="F16",
    )
