"""The reference policy: its builder, its tokenizer and its training objective."""

import build_policy as bp  # noqa: E402
import pytest
import torch
from auxiliary import make_heads, position_loss  # noqa: E402
from objective import Objective, sample_times  # noqa: E402
from optimizer import allocate, lay_out, orthogonalise, views  # noqa: E402
from simulation import TASK_NAMES, UR3eEnv, all_instructions  # noqa: E402

TINY = bp.PolicySize(
    width=32, intermediate=48, heads=2, kv_heads=1, layers=3, vision_layers=1, image_size=32
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    bp.write_vlm_folder(folder / bp.VLM_FOLDER, all_instructions(), TINY)
    return folder, bp.build_policy(folder, TINY, seed=3)


def batch_for(size, count=3, samples=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    tokens = torch.randint(8, 200, (count, size.prompt_length), generator=g)
    lengths = torch.tensor([size.prompt_length, 5, 9])[:count, None]
    return {
        "images": torch.randint(
            0, 256, (count, 2, size.image_size, size.image_size, 3), generator=g, dtype=torch.uint8
        ),
        "state": torch.randn(count, bp.STATE_DIM, generator=g),
        "tokens": tokens,
        "mask": torch.arange(size.prompt_length)[None] < lengths,
        "actions": torch.randn(count, size.chunk, bp.ACTION_DIM, generator=g),
        "noise": torch.randn(count, samples, size.chunk, bp.ACTION_DIM, generator=g),
        "time": torch.rand(count, samples, generator=g),
    }


def lerobot_batch(batch):
    pixels = batch["images"].permute(0, 1, 4, 2, 3).float() / 255
    return {key: pixels[:, i] for i, key in enumerate(bp.CAMERAS)} | {
        bp.STATE: batch["state"],
        "observation.language.tokens": batch["tokens"],
        "observation.language.attention_mask": batch["mask"],
    }


def prefix_of(objective, weights, batch):
    return objective.prefix(weights, *(batch[k] for k in ("images", "state", "tokens", "mask")))


def assert_loss_is_the_policys(policy, size):
    batch, objective = batch_for(size), Objective(size)
    weights = dict(policy.state_dict())
    ours = objective.flow_loss(
        weights,
        prefix_of(objective, weights, batch),
        *(batch[k] for k in ("actions", "noise", "time")),
    )
    theirs = []
    for k in range(batch["time"].shape[1]):
        one = lerobot_batch(batch) | {bp.ACTION: batch["actions"]}
        theirs.append(policy.forward(one, noise=batch["noise"][:, k], time=batch["time"][:, k])[0])
    assert ours.item() == pytest.approx(torch.stack(theirs).mean().item(), rel=1e-5)


def test_loss_of_several_flow_samples_is_the_mean_of_the_policys_losses(tiny):
    assert_loss_is_the_policys(tiny[1], TINY)


def test_sampled_actions_are_those_of_the_policy(tiny):
    _, policy = tiny
    batch, objective = batch_for(TINY), Objective(TINY)
    weights, noise = dict(policy.state_dict()), batch["noise"][:, 0]
    with torch.no_grad():
        ours = objective.sample_actions(weights, prefix_of(objective, weights, batch), noise)
        theirs = policy.predict_action_chunk(lerobot_batch(batch), noise=noise.clone())
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_prompts_cut_to_the_longest_give_the_same_actions(tiny):
    _, policy = tiny
    batch, objective = batch_for(TINY, count=2), Objective(TINY)
    weights, noise = dict(policy.state_dict()), batch["noise"][:, 0]
    batch["mask"][:, 9:] = False
    short = batch | {k: batch[k][:, :9] for k in ("tokens", "mask")}
    with torch.no_grad():
        a, b = (
            objective.sample_actions(weights, prefix_of(objective, weights, x), noise)
            for x in (batch, short)
        )
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_checkpoint_loads_through_lerobot_and_acts(tiny, tmp_path):
    folder, policy = tiny
    stats = {
        bp.STATE: {"mean": torch.zeros(bp.STATE_DIM), "std": torch.ones(bp.STATE_DIM)},
        bp.ACTION: {"mean": torch.full((bp.ACTION_DIM,), 5.0), "std": torch.ones(bp.ACTION_DIM)},
    }
    bp.save_checkpoint(policy, stats, folder / bp.VLM_FOLDER, tmp_path / "checkpoint")
    loaded = bp.load_policy(tmp_path / "checkpoint")
    before, after = bp.load_processors(tmp_path / "checkpoint")
    for (name, a), (_, b) in zip(
        policy.state_dict().items(), loaded.state_dict().items(), strict=True
    ):
        assert torch.equal(a.half().float(), b), name  # stored in float16, loaded in float32
    observation = {key: torch.rand(3, 32, 32) for key in bp.CAMERAS}
    observation |= {bp.STATE: torch.zeros(bp.STATE_DIM), "task": all_instructions()[0]}
    ready = before(observation)
    noise = torch.zeros(1, TINY.chunk, bp.ACTION_DIM)
    action = after(loaded.predict_action_chunk(dict(ready), noise=noise))
    raw = policy.predict_action_chunk(dict(ready), noise=noise)
    torch.testing.assert_close(action, raw + 5, atol=1e-4, rtol=1e-4)


def test_tokenizer_holds_every_instruction_and_keeps_colours_apart(tiny):
    folder, _ = tiny
    vlm = folder / bp.VLM_FOLDER
    for task in TASK_NAMES:
        env = UR3eEnv(task, render_images=False)
        for start in range(5):
            env.reset(options={"start": start})
            assert env.instruction in all_instructions()
    assert bp.assert_prompts_fit(vlm, all_instructions(), TINY.prompt_length) <= TINY.prompt_length
    tokens, mask = bp.tokenize(vlm, all_instructions(), TINY.prompt_length)
    assert len({tuple(row.tolist()) for row in tokens}) == len(all_instructions())
    assert int(tokens.max()) < TINY.vocab and mask.any(1).all()
    with pytest.raises(ValueError, match="takes .* tokens"):
        bp.assert_prompts_fit(vlm, ["an instruction of words never seen before"], 4)


def test_every_weight_but_the_unread_ones_gets_a_gradient(tiny):
    _, policy = tiny
    heads = make_heads(TINY, 0)
    weights = {
        n: w.detach().clone().requires_grad_(True)
        for n, w in (dict(policy.state_dict()) | heads).items()
    }
    batch, objective = batch_for(TINY), Objective(TINY)
    count = len(batch["state"])
    batch |= {"objects": torch.rand(count, 6, 3), "tool": torch.rand(count, 3)}
    batch |= {"goal": torch.rand(count, 3), "present": torch.ones(count, 6, dtype=torch.bool)}
    batch["target"] = torch.arange(count)
    prefix = prefix_of(objective, weights, batch)
    loss = objective.flow_loss(weights, prefix, *(batch[k] for k in ("actions", "noise", "time")))
    (loss + position_loss(weights, TINY, prefix, batch)).backward()
    last = f"text_model.layers.{TINY.layers - 1}."
    for name, weight in weights.items():
        unread = "lm_head" in name or "text_model.norm" in name
        unread |= last in name and not any(
            k in name for k in ("k_proj", "v_proj", "input_layernorm")
        )
        assert (weight.grad is None) == unread, name


def test_every_slot_lies_in_its_owners_part_and_keeps_its_weight():
    tensors = {f"a.layers.{i}.weight": torch.randn(8, 4 + i % 2) for i in range(6)}
    tensors |= {"bias": torch.randn(5), "embedding.weight": torch.randn(7, 3)}
    slots = lay_out(tensors, 2, muon=True)
    shared = allocate(tensors, slots, 2, torch.float32)
    for name, view in views(shared.weights, slots).items():
        assert torch.equal(view, tensors[name])
    for owner in (0, 1):
        mine = sorted((s.start, s.end) for s in slots.values() if s.owner == owner)
        assert all(a[1] == b[0] for a, b in zip(mine, mine[1:], strict=False))
    assert {n for n, s in slots.items() if s.muon} == {n for n in tensors if ".layers." in n}


def test_orthogonalised_matrices_have_singular_values_near_one():
    out = orthogonalise(torch.randn(2, 24, 64, generator=torch.Generator().manual_seed(0)), 5)
    values = torch.linalg.svdvals(out)
    assert values.min() > 0.5 and values.max() < 1.4
    assert torch.equal(orthogonalise(torch.zeros(1, 4, 4), 5), torch.zeros(1, 4, 4))


def test_flow_times_follow_lerobots_distribution():
    times = sample_times((20_000,), torch.Generator().manual_seed(0))
    assert times.min() >= 0.001 and times.max() <= 1.0
    assert times.mean().item() == pytest.approx(0.6, abs=0.01)
    assert (times < 0.2).float().mean().item() == pytest.approx(0.2**1.5, abs=0.01)
