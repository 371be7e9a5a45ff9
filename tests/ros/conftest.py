"""A tiny policy without noise, whose actions depend on the scene and on all of the state."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "runtime"))

from policy_files import EMBEDDING, STATE_PADDED, write_one_shot

PREFIX = f"""
%0 = input {EMBEDDING} name=image_embedding_0
%1 = input f32[1,{STATE_PADDED}] name=state
%2 = linear f32[1,2,4] %0 @out.w
%3 = slice f32[1,1,4] %2 dim=1 start=1 end=2
%4 = concat f32[1,3,4] %2 %3 dim=1
%5 = slice f32[1,4] %1 dim=1 start=0 end=4
%6 = reshape f32[1,1,4] %5 shape=[1,1,4]
%7 = add f32[1,3,4] %4 %6
output actions %7
"""
TAME = {
    "actquant.state.names": ("array", ["lift.pos", "turn.pos", "grip.pos"]),
    "actquant.action.names": ("array", ["lift.pos", "grip.pos"]),
    "actquant.action.mean": ("array", [0.1, 0.3]),
    "actquant.action.std": ("array", [0.01, 0.02]),
}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("policy") / "tame.gguf"
    return write_one_shot(path, PREFIX, TAME)
