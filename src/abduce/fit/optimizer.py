"""How parameters move: the optimiser and its state, the learning rate's schedule, clipping, averaging of weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from abduce.fit.settings import Settings
from abduce.nets.mlp import OwnRate

_fused: Any = torch.__dict__.get("_fused_adamw_")  # AdamW's kernel, where torch has it
CLEAR = 0.98  # share of the square of the longest gradient below which its length need not be known to the last bit


def parameter_groups(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """Decay only the networks' matrices; modules that declare a rate of their own move at it, undecayed."""
    rates = {"linear": settings.linear_rate, "mask": settings.mask_rate}
    own = {p: rates[m.rate] for m in model.modules() if isinstance(m, OwnRate) for p in m.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in (p for p in model.parameters() if p.requires_grad):
        rate = settings.learning_rate * own.get(parameter, 1.0)
        decay = settings.weight_decay if parameter.ndim > 1 and parameter not in own else 0.0
        groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": r, "base": r, "weight_decay": w} for (r, w), p in groups.items()]


def make_optimizer(step: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """AdamW or plain gradient steps on the :func:`flat` parameters; each group of them has its own rate as ``base``."""
    make = torch.optim.SGD if settings.optimizer == "sgd" else torch.optim.AdamW
    groups = [group | {"params": [flat(group["params"])]} for group in parameter_groups(step, settings)]
    return make(groups, lr=settings.learning_rate, fused=True)


@torch.no_grad()
def flat(parameters: list[nn.Parameter]) -> nn.Parameter:
    """One parameter in whose memory those given, and their gradients, lie from now on, one after the other.

    What is done to all of them, zero, norm and step, is then one pass each, and gradients keep their memory from step to step.
    :func:`separate` undoes it.
    """
    sizes = [p.numel() for p in parameters]
    whole = nn.Parameter(parameters[0].new_empty(sum(sizes)))
    whole.grad = torch.zeros_like(whole)
    for p, values, gradient in zip(parameters, whole.data.split(sizes), whole.grad.split(sizes), strict=True):
        order = p.size(), p.stride()  # convolutions may have their channels last
        values.as_strided(*order, values.storage_offset()).copy_(p)
        p.data = values.as_strided(*order, values.storage_offset())
        p.grad = gradient.as_strided(*order, gradient.storage_offset())
    return whole


@torch.no_grad()
def separate(module: nn.Module) -> None:
    """Give each parameter memory of its own again, and no gradient."""
    for parameter in module.parameters():
        parameter.data, parameter.grad = parameter.data.clone(), None


def rate(progress: float, schedule: str = "cosine") -> float:
    """Learning-rate factor: a short linear start, then a cosine down to a twentieth, or a line down to zero.

    >>> [round(rate(t), 3) for t in (0.0, 0.02, 1.0)], rate(0.25, "linear")
    ([0.1, 1.0, 0.05], 0.75)
    """
    if schedule == "linear":
        return 1 - progress
    if progress < 0.02:
        return 0.1 + 0.9 * progress / 0.02
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (progress - 0.02) / 0.98))


@torch.no_grad()
def clip(gradients: list[Tensor], most: float) -> None:
    """Scale gradients, all together, down to a norm of ``most``."""
    if sum(float(torch.dot(g, g)) for g in gradients) < CLEAR * most**2:
        return  # a product is quicker than a norm, and in most steps enough to know
    norm = torch.stack([torch.linalg.vector_norm(g) for g in gradients]).norm()
    if norm > most:
        for gradient in gradients:
            gradient.mul_(most / (norm + 1e-6))


@torch.no_grad()
def take(optimizer: torch.optim.Optimizer) -> None:
    """An optimiser's step on :func:`flat` parameters.

    On a processor AdamW's own kernel is called without what torch does around it, which takes longer than the kernel on a
    small network; the first step, which makes its state, is torch's.
    """
    plain = bool(_fused) and type(optimizer) is torch.optim.AdamW
    plain = plain and all(
        (p := group["params"][0]) in optimizer.state and p.device.type == "cpu"
        for group in optimizer.param_groups
    )
    if not plain:
        optimizer.step()
        return
    for group in optimizer.param_groups:
        (parameter,), (beta1, beta2) = group["params"], group["betas"]
        state = optimizer.state[parameter]
        state["step"] += 1
        _fused(
            [parameter],
            [parameter.grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def gradients_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The buffers that hold the gradients of :func:`flat` parameters."""
    return [p.grad for group in optimizer.param_groups for p in group["params"]]


def moments(optimizer: Any) -> dict[str, Tensor]:
    """Adam's state as a flat dictionary of tensors; plain gradient steps have none."""
    states = optimizer.state_dict()["state"]
    return {f"{i}.{name}": t for i, state in states.items() for name, t in state.items()}


def load_moments(optimizer: Any, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`moments` gave, in place of what there is."""
    body = {**optimizer.state_dict(), "state": {}}
    for key, tensor in tensors.items():
        i, name = key.split(".", 1)
        body["state"].setdefault(int(i), {})[name] = tensor
    optimizer.load_state_dict(body)


class Average:
    """Running mean of the weights over the ``last`` steps of a run (Polyak & Juditsky 1992): the noise of steps evens out."""

    def __init__(self, step: nn.Module, last: float):
        self.parameters, self.last = list(step.parameters()), last
        self.count, self.mean = 0, []

    @torch.no_grad()
    def add(self, left: int) -> None:
        """Count in the weights, if no more than the last steps are left."""
        if left <= self.last:
            self.mean = self.mean or [torch.zeros_like(p) for p in self.parameters]
            self.count += 1
            for mean, parameter in zip(self.mean, self.parameters, strict=True):
                mean.lerp_(parameter, 1 / self.count)

    @torch.no_grad()
    def store(self) -> None:
        """Put the mean in the weights' place, if there is one yet."""
        if self.count:
            for parameter, mean in zip(self.parameters, self.mean, strict=True):
                parameter.copy_(mean)

    def state(self) -> dict[str, Tensor]:
        """What a stopped run goes on from, together with the count."""
        return {str(i): t for i, t in enumerate(self.mean)}

    def load(self, tensors: dict[str, Tensor], count: int) -> None:
        """Go on from :meth:`state`."""
        self.mean, self.count = [tensors[str(i)] for i in range(len(tensors))], count
