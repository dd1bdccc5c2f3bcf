"""Sparse experts with top-1 routing, after the Switch Transformer (Fedus et al. 2021, arXiv 2101.03961)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .blocks import Decoder


class Switch(nn.Module):
    """A feed-forward part of which each token uses one expert, scaled by the router's probability of it.

    Every expert is called once, on the tokens that were sent to it, however many: unlike the paper's, it has no
    capacity beyond which tokens are dropped, so that products are the same whatever the routing. The router computes
    in float32 (the paper's section 2.4, selective precision).

    Args:
        width: Of a token.
        experts: How many.
        expert: Makes one.
    """

    def __init__(self, width: int, experts: int, expert: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.router = nn.Linear(width, experts)
        self.experts = nn.ModuleList(expert() for _ in range(experts))
        self._imbalance: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        with torch.autocast(x.device.type, enabled=False):
            probabilities = self.router(tokens.float()).softmax(-1)
        gate, chosen = probabilities.max(-1)
        sent = torch.bincount(chosen, minlength=len(self.experts))
        if self.training:
            self._imbalance = imbalance(sent, probabilities)
        order = chosen.argsort(stable=True)
        parts = tokens.index_select(0, order).split(sent.tolist())
        given = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        mixed: Tensor = gate.unsqueeze(-1) * given.index_select(0, order.argsort())
        return mixed.view_as(x)

    def taken_imbalance(self) -> Tensor:
        """The imbalance of the last forward pass in training, once: a graph is not held from step to step."""
        if self._imbalance is None:
            raise ValueError("no forward pass in training mode came before: call the module first")
        taken, self._imbalance = self._imbalance, None
        return taken


def imbalance(sent: Tensor, probabilities: Tensor) -> Tensor:
    """The load-balancing loss before its weight: experts x the sum of f P (Fedus et al. 2021, section 2.2, eq. 4).

    f is the share of tokens sent to an expert, P the mean probability that the router gave it. It is 1 where both are
    even, and the number of experts where all goes to one. Its gradient is that of P.

    Args:
        sent: [experts] tokens that each got.
        probabilities: [tokens, experts] of the router.

    Example:
        >>> even, one = torch.full((4, 2), 0.5), torch.tensor([[1.0, 0.0]]).expand(4, 2)
        >>> imbalance(torch.tensor([2, 2]), even).item(), imbalance(torch.tensor([4, 0]), one).item()
        (1.0, 2.0)
    """
    return len(sent) * (sent / sent.sum() * probabilities.mean(0)).sum()


class SwitchDecoder(Decoder):
    """A language model some of whose blocks hold a `Switch`; the loss that it adds keeps their experts in use.

    Args:
        blocks: As of a Decoder, like the rest.
        balance: Weight of the load-balancing loss; 0.01 in the paper.
        rest: Width, context, vocabulary.
    """

    def __init__(self, blocks: list[nn.Module], *, balance: float = 0.01, **rest: int) -> None:
        super().__init__(blocks, **rest)
        self.balance = balance
        self.switches = [part for part in self.modules() if isinstance(part, Switch)]

    def auxiliary(self) -> Tensor:
        """The load-balancing loss of the last forward pass, summed over the blocks."""
        return self.balance * torch.stack([switch.taken_imbalance() for switch in self.switches]).sum()
