import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_policy import CAMERAS, TASKS, make_dataset, make_toy

from actquant.calibration.dataset import read_dataset_info
from actquant.calibration.frames import calibrate, sample_frames, split_episodes
from actquant.calibration.losses import draw_noise
from actquant.common.errors import CalibrationError, DatasetError


def test_frames_hold_observation_chunk_and_padding(dataset):
    loaded = make_toy()
    data = calibrate(loaded, dataset, n_frames=24, n_held_out=8)
    assert (len(data.calibration), len(data.held_out)) == (24, 8)
    assert not set(data.calibration_episodes) & set(data.held_out_episodes)
    assert {f.episode for f in data.calibration.frames} == set(data.calibration_episodes)
    sample = data.calibration[7]
    assert sample.frame.frame == 7 and sample.is_pad.tolist() == [False] + [True] * 5
    assert sample.actions.shape == (6, 7) and (sample.actions[0] == sample.actions[5]).all()
    image = sample.observation[CAMERAS[0]]
    assert image.dtype == np.uint8 and image.shape == (48, 48, 3)
    assert (image[:8, :8] == image[0, 0]).all() and image.max() > 100
    assert sample.observation["task"] in TASKS
    following = data.calibration[0].actions
    np.testing.assert_array_equal(following[1], data.calibration[1].actions[0])


def test_batches_hold_one_instruction_each_and_normalised_actions(dataset):
    loaded = make_toy()
    frames = calibrate(loaded, dataset, n_frames=10).calibration
    batches = list(frames.batches(4))
    assert sorted(f for b in batches for f in b.frames) == sorted(frames.frames)
    for batch in batches:
        assert len({frames.tasks[frames.frames.index(f)] for f in batch.frames}) == 1
    sample = frames[frames.frames.index(batches[0].frames[0])]
    action = batches[0].tensors["action"][0]
    np.testing.assert_allclose(action, (sample.actions - 0.1) / 0.5, rtol=1e-5, atol=1e-6)


def test_the_split_is_disjoint_and_follows_the_seed():
    chosen, kept = split_episodes(20, 0)
    assert (len(chosen), len(kept)) == (15, 5) and sorted(chosen + kept) == list(range(20))
    assert split_episodes(20, 0) == (chosen, kept) != split_episodes(20, 1)
    assert [len(part) for part in split_episodes(2, 0)] == [1, 1]
    with pytest.raises(CalibrationError, match="at least 2"):
        split_episodes(1, 0)


def test_frames_are_spread_over_episodes():
    rows = {e: (e * 10, e * 10 + 10) for e in range(5)}
    frames = sample_frames(range(5), rows, 12, 0)
    assert sorted(sum(f.episode == e for f in frames) for e in range(5)) == [2, 2, 2, 3, 3]
    assert all(f.index == f.episode * 10 + f.frame and 0 <= f.frame < 10 for f in frames)
    assert len(set(frames)) == 12
    assert len({f.episode for f in sample_frames(range(5), rows, 3, 0)}) == 3
    assert len(sample_frames(range(5), rows, 1000, 0)) == 50


def test_noise_belongs_to_the_frame_not_to_the_batch(dataset):
    loaded = make_toy()
    frames = calibrate(loaded, dataset).calibration.frames
    noise, time = draw_noise(loaded, frames[:4], 0)
    alone, moment = draw_noise(loaded, frames[2:3], 0)
    assert torch.equal(noise[2:3], alone) and torch.equal(time[2:3], moment)
    assert not torch.equal(draw_noise(loaded, frames[:4], 0, draw=1)[0], noise)
    many = draw_noise(loaded, frames * 20, 0)[1]
    assert many.min() > 0 and many.max() <= 1 and abs(float(many.mean()) - 0.6) < 0.12


@pytest.mark.parametrize("feature", ["action", "observation.state"])
def test_nan_names_episode_and_frame(tmp_path: Path, feature: str):
    folder = make_dataset(tmp_path / "bad", episodes=3, length=4, poison=(1, 2, feature))
    loaded = make_toy()
    data = next(d for d in (calibrate(loaded, folder, seed=s) for s in range(9))
                if 1 in d.calibration_episodes)  # fmt: skip
    with pytest.raises(CalibrationError, match=rf"episode 1, frame [012]: {feature}"):
        list(data.calibration.batches(2))


def test_features_that_do_not_fit_are_all_listed(tmp_path: Path):
    folder = make_dataset(
        tmp_path / "other", episodes=2, length=2, state_dim=3, action_dim=2, cameras=(CAMERAS[1],)
    )
    with pytest.raises(DatasetError) as caught:
        calibrate(make_toy(), folder)
    text = str(caught.value)
    assert "observation.state: expected shape (6,), found (3,)" in text
    assert "action: expected shape (7,), found (2,)" in text
    assert CAMERAS[0] in text


def test_image_size_is_checked(tmp_path: Path):
    folder = make_dataset(tmp_path / "large", episodes=2, length=2, side=96)
    with pytest.raises(DatasetError, match=r"expected height x width \(48, 48\), found \(96, 96\)"):
        calibrate(make_toy(), folder)


def test_folders_that_are_no_dataset_are_refused(tmp_path: Path, dataset):
    with pytest.raises(DatasetError, match=r"no meta/info\.json"):
        read_dataset_info(tmp_path)
    copy = shutil.copytree(dataset, tmp_path / "copy")
    info = json.loads((copy / "meta" / "info.json").read_text())
    (copy / "meta" / "info.json").write_text(json.dumps({**info, "codebase_version": "v2.1"}))
    with pytest.raises(DatasetError, match=r"v2\.1"):
        read_dataset_info(copy)
    (copy / "meta" / "info.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        read_dataset_info(copy)


def test_names_come_from_the_dataset(dataset):
    info = read_dataset_info(dataset)
    assert info.fps == 10 and info.names("action") == [f"a{i}" for i in range(7)]
    assert info.names("observation.state") == [f"o{i}" for i in range(6)]
    assert info.names("nothing") is None and info.cameras == list(CAMERAS)
