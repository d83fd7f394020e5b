"""The optimiser against PyTorch's own on the same parameters one by one."""

from __future__ import annotations

import torch

from abduce.fit.optimizer import clip, gradients_of, make_optimizer, parameter_groups, separate
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
