"""The processors: the runtime normalises and tokenizes itself, so nothing changes numbers here."""

from __future__ import annotations

from typing import Any

from .configuration_actquant import CompressedConfig
from .lerobot_api import (
    AddBatchDimensionProcessorStep,
    DeviceProcessorStep,
    PolicyAction,
    PolicyProcessorPipeline,
    RenameObservationsProcessorStep,
    make_policy_processor_pipelines,
)


def make_actquant_pre_post_processors(
    config: CompressedConfig, dataset_stats: Any = None
) -> tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]:
    """Makes the processors: renaming, for `--rename_map`, and a batch dimension if there is none.

    The statistics are the file's; `dataset_stats` is not used.
    """
    return make_policy_processor_pipelines(
        input_steps=[
            RenameObservationsProcessorStep(rename_map={}),
            AddBatchDimensionProcessorStep(),
            DeviceProcessorStep(device=config.device or "cpu"),
        ],
        output_steps=[DeviceProcessorStep(device="cpu")],
    )
