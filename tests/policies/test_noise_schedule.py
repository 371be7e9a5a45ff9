"""Every row of a sampler's table is one `scheduler.step` of diffusers."""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

from actquant.common.errors import CheckpointError
from actquant.policies.given_noise import given_noise
from actquant.policies.noise_schedule import sampler

TIMES, STEPS = 50, 7


def step(row, x, o, e):
    p, q, c, u, v, w, s, z = row
    assert z == 0
    x0 = p * x + q * o
    x0 = x0.clamp(-c, c) if c else x0
    return u * x0 + v * x + w * o + s * e


@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    ("steps", "settings"),
    [
        (STEPS, {"beta_schedule": "squaredcos_cap_v2"}),
        (TIMES, {"beta_schedule": "squaredcos_cap_v2"}),
        (TIMES, {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}),
        (STEPS, {"beta_schedule": "linear", "clip_sample_range": 0.4}),
        (STEPS, {"beta_schedule": "scaled_linear", "timestep_spacing": "trailing"}),
        (STEPS, {"beta_schedule": "linear", "timestep_spacing": "linspace"}),
        (STEPS, {"beta_schedule": "linear", "steps_offset": 1}),
    ],
    ids=["cosine", "all-steps", "unclipped", "linear", "trailing", "linspace", "offset"],
)
def test_a_row_is_a_step(kind, prediction_type, steps, settings):
    scheduler = kind(num_train_timesteps=TIMES, prediction_type=prediction_type, **settings)
    table = sampler(scheduler, steps)
    assert table.timesteps == tuple(map(float, scheduler.timesteps))
    drawing = [row for row in table.coefficients if row[6]]
    assert table.fresh_count == len(drawing)
    generator = torch.Generator().manual_seed(0)
    for t, row in zip(scheduler.timesteps, table.coefficients, strict=True):
        x, o, e = (torch.randn(1, 8, 3, generator=generator) for _ in range(3))
        with given_noise(*[e] if row[6] else []):
            expected = scheduler.step(o, t, x).prev_sample
        torch.testing.assert_close(step(row, x, o, e), expected, atol=1e-5, rtol=1e-5)


def test_ddpm_draws_at_all_but_the_last_step_and_ddim_never():
    ddpm = sampler(DDPMScheduler(num_train_timesteps=TIMES), STEPS)
    assert [bool(row[6]) for row in ddpm.coefficients] == [True] * (STEPS - 1) + [False]
    assert sampler(DDIMScheduler(num_train_timesteps=TIMES), STEPS).fresh_count == 0


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDPMScheduler(thresholding=True), "thresholding"),
        (DDPMScheduler(variance_type="learned"), "variance_type 'learned'"),
        (DDPMScheduler(variance_type="fixed_large"), "variance_type 'fixed_large'"),
        (DDPMScheduler(num_train_timesteps=5), "7 inference steps"),
        (DDIMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"), "alpha is 0"),
        (DPMSolverMultistepScheduler(), "DPMSolverMultistepScheduler is not supported"),
    ],
)
def test_what_is_not_of_the_form_is_refused(scheduler, message):
    with pytest.raises(CheckpointError, match=message):
        sampler(scheduler, STEPS)
