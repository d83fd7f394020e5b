"""The optimiser against PyTorch's own on the same parameters one by one."""

from __future__ import annotations

import pytest
import torch

from abduce.fit.optimizer import clip, gradients_of, make_optimizer, parameter_groups, separate, take
from abduce.fit.settings import Settings
from abduce.nets.mlp import MLP


def test_flat_parameters_move_as_they_would_one_by_one():
    """Twenty steps of AdamW and of plain gradients, decay and rates by group, against an optimiser of the tensors apart."""
    for name in ("adamw", "sgd"):
        settings = Settings(learning_rate=0.05, weight_decay=0.3, optimizer=name)
        torch.manual_seed(0)
        ours, theirs = (MLP(4, (8,), 3, linear_path=True) for _ in range(2))
        theirs.load_state_dict(ours.state_dict())
        groups = parameter_groups(theirs, settings)
        make = torch.optim.SGD if name == "sgd" else torch.optim.AdamW
        peer, optimizer = make(groups, lr=0.05), make_optimizer(ours, settings)
        x, y = torch.randn(50, 4), torch.randn(50, 3)
        for _ in range(20):
            for model, moved in ((ours, optimizer), (theirs, peer)):
                moved.zero_grad(set_to_none=False)
                (model(x) - y).square().mean().backward()
                moved.step()
        for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=key)
        memory = {p.untyped_storage().data_ptr() for p in ours.parameters()}
        assert len(memory) == len(groups)  # one buffer a group
        before = {key: p.clone() for key, p in ours.state_dict().items()}
        separate(ours)
        assert len({p.untyped_storage().data_ptr() for p in ours.parameters()}) == len(
            list(ours.parameters())
        )
        assert all(torch.equal(p, before[key]) for key, p in ours.state_dict().items())
        assert all(p.grad is None for p in ours.parameters())


def test_long_gradients_are_scaled_down_together():
    torch.manual_seed(0)
    ours, theirs = (MLP(4, (8,), 3, linear_path=True) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizer, x = make_optimizer(ours, Settings()), torch.randn(50, 4)
    for model in (ours, theirs):
        model(x).square().sum().backward()
    clip(gradients_of(optimizer), 1e9)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    clip(gradients_of(optimizer), 0.5)
    torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_a_step_taken_directly_is_torchs_own_to_the_bit():
    """Decay and rates by group, the rate moving, against the optimiser's own ``step`` on the same flat parameters."""
    for name in ("adamw", "sgd"):
        settings = Settings(learning_rate=0.05, weight_decay=0.3, optimizer=name, linear_rate=0.1)
        torch.manual_seed(0)
        ours, theirs = (MLP(4, (8,), 3, linear_path=True) for _ in range(2))
        theirs.load_state_dict(ours.state_dict())
        optimizer, peer = make_optimizer(ours, settings), make_optimizer(theirs, settings)
        x, y = torch.randn(50, 4), torch.randn(50, 3)
        for i in range(20):
            for model, moved in ((ours, optimizer), (theirs, peer)):
                for group in moved.param_groups:
                    group["lr"] = group["base"] / (1 + i)
                moved.zero_grad(set_to_none=False)
                (model(x) - y).square().mean().backward()
            take(optimizer)
            peer.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
        own, other = (m.state_dict()["state"] for m in (optimizer, peer))
        assert all(
            torch.equal(own[i][key], other[i][key]) for i in own for key in own[i] if own[i][key] is not None
        )


def test_a_gradient_just_too_long_is_scaled_as_a_long_one_is():
    for length, expected in ((0.5, 0.5), (0.995, 0.995), (1.01, 1.0), (30.0, 1.0)):
        gradient = torch.full((4,), length / 2)
        clip([gradient], 1.0)
        assert gradient.norm().item() == pytest.approx(expected, rel=1e-5)
    broken = torch.tensor([float("nan"), 1.0])
    clip([broken], 1.0)
    assert broken[1] == 1  # a fall is for others to see
