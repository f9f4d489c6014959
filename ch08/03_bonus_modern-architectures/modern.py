"""From our GPT to the models of today in six changes, each of which can be switched on alone; reads Llama and Qwen3 checkpoints.

    from modern import ModernConfig, ModernModel, load_modern

    model = ModernModel(ModernConfig(vocab_size=2048, norm="rms", positions="rope"))
    model, config = load_modern("a folder that transformers has written")

modern-architectures.ipynb takes the changes apart one by one.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


@dataclass(frozen=True)
class ModernConfig:
    """The shape of a model, and which changes it has; without any it is chapter 4's GPT.

    `norm`: "layer" or "rms". `positions`: "learned" or "rope". `feed_forward`: "gelu" or "swiglu". `n_kv_heads`: how many heads
    of keys and values the `n_heads` of queries share (None: one each). `n_hidden`: the width inside the feed-forward part (None:
    4 C, or 8/3 C with SwiGLU, which has as many weights). Raises ValueError for a shape that can't be.
    """

    vocab_size: int
    context_length: int = 512
    n_channels: int = 128
    n_heads: int = 4
    n_layers: int = 4
    norm: str = "layer"
    positions: str = "learned"
    feed_forward: str = "gelu"
    bias: bool = True
    n_kv_heads: int | None = None
    qk_norm: bool = False
    n_hidden: int | None = None
    head_size: int | None = None
    rope_base: float = 10_000.0
    eps: float = 1e-5
    tie_head: bool = True

    def __post_init__(self):
        for name, known in (("norm", ("layer", "rms")), ("positions", ("learned", "rope")), ("feed_forward", ("gelu", "swiglu"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose {known[0]!r} or {known[1]!r}")
        if self.head_size is None and self.n_channels % self.n_heads:
            raise ValueError(f"n_channels is {self.n_channels} and n_heads {self.n_heads}; make the first a multiple of the second")
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads is {self.n_heads} and n_kv_heads {self.kv_heads}; make the first a multiple of the second")
        if self.positions == "rope" and self.size % 2:
            raise ValueError(f"a head has {self.size} components; rotation takes them in pairs, so make it an even number")

    @property
    def size(self) -> int:
        """D: the components of a head."""
        return self.head_size or self.n_channels // self.n_heads

    @property
    def kv_heads(self) -> int:
        """G: the heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def hidden(self) -> int:
        """The width inside the feed-forward part."""
        return self.n_hidden or (4 * self.n_channels if self.feed_forward == "gelu" else 8 * round(self.n_channels / 3))


class RMSNorm(nn.Module):
    """Division by the root of the mean square (Zhang and Sennrich, 2019), then a learned scale; no mean, no shift."""

    def __init__(self, n_channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n_channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C); the mean is taken in float32."""
        square = x.float().square().mean(dim=-1, keepdim=True)                # (..., 1)
        return (x.float() * torch.rsqrt(square + self.eps)).to(x.dtype) * self.weight


def rotate(x: Tensor, positions: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary position embedding (Su et al., 2021) of x (B, H, T, D): pair i is turned by position · base^(-2i/D).

    A pair are components i and i + D/2, as Llama has them; positions are (T,).
    """
    half = x.shape[-1] // 2
    speed = base ** -(torch.arange(half, device=x.device, dtype=torch.float32) / half)           # (D/2,) radians a position
    angle = positions[:, None].float() * speed                                                   # (T, D/2)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class ModernAttention(nn.Module):
    """Causal attention in which several heads of queries may share a head of keys and values (Ainslie et al., 2023)."""

    def __init__(self, c: ModernConfig):
        super().__init__()
        self.c = c
        self.q = nn.Linear(c.n_channels, c.n_heads * c.size, bias=c.bias)
        self.k = nn.Linear(c.n_channels, c.kv_heads * c.size, bias=c.bias)
        self.v = nn.Linear(c.n_channels, c.kv_heads * c.size, bias=c.bias)
        self.out = nn.Linear(c.n_heads * c.size, c.n_channels, bias=c.bias)
        if c.qk_norm:
            self.q_norm, self.k_norm = RMSNorm(c.size, c.eps), RMSNorm(c.size, c.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Mix x (B, T, C) over time into (B, T, C)."""
        B, T, _ = x.shape
        q, k, v = (part(x).view(B, T, -1, self.c.size).transpose(1, 2) for part in (self.q, self.k, self.v))   # (B, H or G, T, D)
        if self.c.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.c.positions == "rope":
            positions = torch.arange(T, device=x.device)
            q, k = rotate(q, positions, self.c.rope_base), rotate(k, positions, self.c.rope_base)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.c.kv_heads != self.c.n_heads)
        return self.out(mixed.transpose(1, 2).reshape(B, T, -1))              # (B, H, T, D) -> (B, T, H D) -> (B, T, C)


class SwiGLU(nn.Module):
    """A feed-forward part with a gate (Shazeer, 2020): one product is multiplied by the SiLU of another."""

    def __init__(self, n_channels: int, n_hidden: int, bias: bool = False):
        super().__init__()
        self.gate = nn.Linear(n_channels, n_hidden, bias=bias)
        self.expand = nn.Linear(n_channels, n_hidden, bias=bias)
        self.contract = nn.Linear(n_hidden, n_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        return self.contract(F.silu(self.gate(x)) * self.expand(x))           # (B, T, C) -> (B, T, n_hidden) -> (B, T, C)


class GELUFeedForward(nn.Module):
    """The feed-forward part of GPT-2, of any width."""

    def __init__(self, n_channels: int, n_hidden: int, bias: bool = True):
        super().__init__()
        self.expand = nn.Linear(n_channels, n_hidden, bias=bias)
        self.contract = nn.Linear(n_hidden, n_channels, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        return self.contract(F.gelu(self.expand(x), approximate="tanh"))


def norm_of(c: ModernConfig) -> nn.Module:
    """The norm that a configuration asks for."""
    return RMSNorm(c.n_channels, c.eps) if c.norm == "rms" else nn.LayerNorm(c.n_channels, c.eps)


class ModernBlock(nn.Module):
    """Attention, then feed-forward, each behind a norm and added to the stream; as in chapter 4."""

    def __init__(self, c: ModernConfig):
        super().__init__()
        self.norm1, self.norm2, self.attention = norm_of(c), norm_of(c), ModernAttention(c)
        make = SwiGLU if c.feed_forward == "swiglu" else GELUFeedForward
        self.feed_forward = make(c.n_channels, c.hidden, c.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class ModernModel(nn.Module):
    """A decoder with the changes of its configuration; starts as chapter 4's GPT does."""

    def __init__(self, config: ModernConfig):
        super().__init__()
        self.config, c = config, config
        self.token_embedding = nn.Embedding(c.vocab_size, c.n_channels)
        if c.positions == "learned":
            self.position_embedding = nn.Embedding(c.context_length, c.n_channels)
        self.blocks = nn.ModuleList(self.make_block(c) for _ in range(c.n_layers))
        self.final_norm = norm_of(c)
        self.head = nn.Linear(c.n_channels, c.vocab_size, bias=False)
        if c.tie_head:
            self.head.weight = self.token_embedding.weight
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                into_stream = name.endswith(("attention.out", "contract"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * c.n_layers) if into_stream else 0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    make_block = ModernBlock

    def forward(self, token_ids: Tensor, targets: Tensor | None = None) -> Tensor:
        """Ids (B, T) to logits (B, T, V); with targets (B, T) to the mean loss. Raises ValueError beyond the context."""
        if (T := token_ids.shape[1]) > self.config.context_length:
            raise ValueError(f"the input has {T} tokens, the model's context is {self.config.context_length}; shorten it")
        x = self.token_embedding(token_ids)                                   # (B, T, C)
        if self.config.positions == "learned":
            x = x + self.position_embedding.weight[:T]
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.final_norm(x))
        return logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def cache_bytes(c: ModernConfig, element_size: int = 2) -> int:
    """The memory of keys and values, in bytes a token."""
    return 2 * c.n_layers * c.kv_heads * c.size * element_size


# ---------------------------------------------------------------- checkpoints of the field

FAMILIES = ("llama", "qwen3")
NAMES = {"input_layernorm": "norm1", "post_attention_layernorm": "norm2", "self_attn.q_proj": "attention.q",
         "self_attn.k_proj": "attention.k", "self_attn.v_proj": "attention.v", "self_attn.o_proj": "attention.out",
         "self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm", "mlp.gate_proj": "feed_forward.gate",
         "mlp.up_proj": "feed_forward.expand", "mlp.down_proj": "feed_forward.contract"}
OUTER = {"embed_tokens.weight": "token_embedding.weight", "norm.weight": "final_norm.weight", "lm_head.weight": "head.weight"}


def config_from_transformers(settings: dict) -> ModernConfig:
    """The shape of a Llama or Qwen3 from its config.json. Raises ValueError, naming it, for what isn't built here."""
    family = settings.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type is {family!r}; this reads {' and '.join(FAMILIES)}")
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    for name, value, wanted in (("hidden_act", settings.get("hidden_act", "silu"), "silu"), ("rope_type", kind, "default"),
                                ("use_sliding_window", settings.get("use_sliding_window") or False, False),
                                ("attention_bias", settings.get("attention_bias", False), False),
                                ("mlp_bias", settings.get("mlp_bias", False), False)):
        if value != wanted:
            raise ValueError(f"{name} is {value!r}; this reads models with {wanted!r}")
    try:
        return ModernConfig(settings["vocab_size"], settings["max_position_embeddings"], settings["hidden_size"],
                            settings["num_attention_heads"], settings["num_hidden_layers"], "rms", "rope", "swiglu",
                            False, settings.get("num_key_value_heads"), family == "qwen3",
                            settings["intermediate_size"], settings.get("head_dim"),
                            rope.get("rope_theta", settings.get("rope_theta", 10_000.0)), settings["rms_norm_eps"],
                            settings.get("tie_word_embeddings", False))
    except KeyError as error:
        raise ValueError(f"config.json has no {error.args[0]!r}; is it a {family}'s?") from None


def our_name(name: str) -> str:
    """What a tensor of transformers is called here."""
    name = name.removeprefix("model.")
    if not name.startswith("layers."):
        return OUTER[name]
    _, number, *inner, kind = name.split(".")
    return f"blocks.{number}.{NAMES['.'.join(inner)]}.{kind}"


def load_modern(folder: str | Path) -> tuple[ModernModel, ModernConfig]:
    """A Llama or Qwen3 from a folder that `transformers` has written, in float32. ValueError if there's none, or it is damaged."""
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"there is no config.json in {str(folder)!r}; name a folder that transformers has written")
    config = config_from_transformers(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"there are no .safetensors in {str(folder)!r}; save the model with safe_serialization")
    try:
        tensors = {our_name(name): tensor.float() for file in files for name, tensor in load_file(file).items()}
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"the weights in {str(folder)!r} can't be read: {error}") from None
    model = ModernModel(config)
    if config.tie_head:
        tensors.setdefault("head.weight", tensors.get("token_embedding.weight"))
    own = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    if wrong := sorted(name for name in own.keys() | tensors.keys() if name not in own or tensors.get(name) is None
                       or tuple(tensors[name].shape) != own[name]):
        raise ValueError(f"{len(wrong)} tensors don't fit config.json, {wrong[0]!r} first; is a file missing?")
    model.load_state_dict(tensors)
    return model.eval(), config
