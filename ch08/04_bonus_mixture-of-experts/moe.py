"""A mixture of experts: a feed-forward part of which each token uses a few pieces only.

    from moe import MixtureConfig, MixtureModel

    config = MixtureConfig(vocab_size=2048, norm="rms", positions="rope", n_experts=8, n_chosen=2)
    loss = MixtureModel(config)(token_ids, targets=targets)                   # with the balance loss, while training

The rest of the model is that of the bonus on modern architectures. mixture-of-experts.ipynb explains it.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "03_bonus_modern-architectures"))
from modern import ModernBlock, ModernConfig, ModernModel, SwiGLU  # noqa: E402


@dataclass(frozen=True)
class MixtureConfig(ModernConfig):
    """A modern model's shape, with `n_experts` in each feed-forward part, each `hidden` wide, of which a token uses `n_chosen`.

    `balance` is the weight of the loss that keeps all experts in use. Raises ValueError for a number that can't be.
    """

    n_experts: int = 4
    n_chosen: int = 1
    balance: float = 0.01

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.n_chosen <= self.n_experts:
            raise ValueError(f"n_chosen is {self.n_chosen} and n_experts {self.n_experts}; a token uses 1 to all of them")
        if self.balance < 0:
            raise ValueError(f"balance is {self.balance}; it weighs a loss, choose 0 or more")


def route(logits: Tensor, n_chosen: int) -> tuple[Tensor, Tensor]:
    """Which experts (N, k) each token uses, and with what weights (N, k): their probabilities by the router's logits (N, E)."""
    weights, experts = logits.softmax(dim=-1).topk(n_chosen, dim=-1)          # (N, k) each
    return experts, weights


def balance_loss(logits: Tensor, experts: Tensor) -> Tensor:
    """1 if all experts are used alike, up to E if one is used by all (Fedus, Zoph and Shazeer, 2021).

    Each expert's share of the tokens times its mean probability, summed, times E; `experts` is (N, k), `logits` (N, E).
    """
    E = logits.shape[-1]
    share = torch.bincount(experts.flatten(), minlength=E).to(logits.dtype) / experts.numel()        # (E,), without a gradient
    return E * (share * logits.softmax(dim=-1).mean(dim=0)).sum()


class Mixture(nn.Module):
    """Experts and their router. `used` (E,) counts the tokens of the last pass, and `loss` is its balance loss."""

    def __init__(self, c: MixtureConfig):
        super().__init__()
        self.c = c
        self.router = nn.Linear(c.n_channels, c.n_experts, bias=False)
        self.experts = nn.ModuleList(SwiGLU(c.n_channels, c.hidden) for _ in range(c.n_experts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C): for each token the weighted sum of what its experts say."""
        flat = x.flatten(0, 1)                                                # (N, C)
        logits = self.router(flat)                                            # (N, E)
        experts, weights = route(logits, self.c.n_chosen)                     # (N, k) each
        out = torch.zeros_like(flat)
        for number, expert in enumerate(self.experts):
            token, place = (experts == number).nonzero(as_tuple=True)         # the tokens that chose it, and as which choice
            out = out.index_add(0, token, expert(flat[token]) * weights[token, place, None])
        self.loss = balance_loss(logits, experts)
        self.used = torch.bincount(experts.flatten(), minlength=self.c.n_experts)
        return out.view_as(x)


class MixtureBlock(ModernBlock):
    """A block whose feed-forward part is a mixture."""

    def __init__(self, c: MixtureConfig):
        super().__init__(c)
        self.feed_forward = Mixture(c)


class MixtureModel(ModernModel):
    """A modern model with mixtures; while training, its loss has the balance loss added."""

    make_block = MixtureBlock

    def forward(self, token_ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """As a `ModernModel`'s."""
        result = super().forward(token_ids, targets)
        if targets is None or not self.training:
            return result
        return result + self.config.balance * torch.stack([block.feed_forward.loss for block in self.blocks]).mean()


def n_weights(model: ModernModel) -> tuple[int, int]:
    """How many weights a model has, and how many of them one token uses."""
    every = sum(p.numel() for p in model.parameters())
    idle = [sum(p.numel() for p in block.feed_forward.experts.parameters()) for block in model.blocks
            if isinstance(block.feed_forward, Mixture)]
    c = model.config
    return every, every - sum(round(n * (1 - c.n_chosen / c.n_experts)) for n in idle)
