"""CLIP's text tower.

Radford et al., ICML 2021, arXiv 2103.00020. The names of the tensors are those of OpenAI's checkpoints.
"""

import torch
import torch.nn as nn
from torch import Tensor

from .arch import CLIPArch


class QuickGELU(nn.Module):
    """``x * sigmoid(1.702 x)``."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply to every element."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, type[nn.Module]] = {'quick_gelu': QuickGELU, 'gelu': nn.GELU}


class MLP(nn.Module):
    """Two linear layers with an activation between them."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.act = ACTIVATIONS[activation]()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to ``(..., width)``."""
        return self.c_proj(self.act(self.c_fc(x)))


class ResidualAttentionBlock(nn.Module):
    """Attention and a feed-forward network, each after a normalisation and beside a residual."""

    def __init__(self, width: int, heads: int, activation: str) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, activation)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply to ``(C, T, width)``; the mask ``(T, T)`` is the causal one."""
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False, attn_mask=mask, is_causal=True)[0]
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, arch: CLIPArch) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualAttentionBlock(arch.text_width, arch.text_heads, arch.activation) for _ in range(arch.text_layers)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Apply to ``(C, T, width)``."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


class TextTower(nn.Module):
    """From tokens to the space that both towers share.

    Args:
        arch: The sizes.
    """

    def __init__(self, arch: CLIPArch) -> None:
        super().__init__()
        self.context_length = arch.context_length
        self.token_embedding = nn.Embedding(arch.vocab_size, arch.text_width)
        self.positional_embedding = nn.Parameter(torch.empty(arch.context_length, arch.text_width))
        self.transformer = Transformer(arch)
        self.ln_final = nn.LayerNorm(arch.text_width)
        self.text_projection = nn.Parameter(torch.empty(arch.text_width, arch.embed_dim))
        forbidden = torch.ones(arch.context_length, arch.context_length, dtype=torch.bool).triu(1)
        self.register_buffer('causal', forbidden, persistent=False)
        self._draw()

    def _draw(self) -> None:
        width, depth = self.text_projection.shape[0], len(self.transformer.resblocks)
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)
        for block in self.transformer.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=(2 * depth * width) ** -0.5)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=(2 * depth * width) ** -0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the feature of each prompt, not normalised.

        Args:
            tokens: ``(C, T)`` with T at most the context length. The end-of-text token has the largest number and the
                feature is read where it stands first. No position after it is looked at, since no position sees a
                later one: prompts may be cut there without any change.

        Returns:
            ``(C, embed_dim)``.

        Raises:
            ValueError: There are more positions than the context has.
        """
        return self.encode(self.token_embedding(tokens), tokens.argmax(dim=-1))

    def encode(self, embedded: Tensor, ends: Tensor) -> Tensor:
        """Return the feature of each prompt, not normalised, from the embeddings of its tokens.

        Args:
            embedded: ``(C, T, width)`` with T at most the context length.
            ends: Where the end of each text stands, ``(C,)``.

        Returns:
            ``(C, embed_dim)``.

        Raises:
            ValueError: There are more positions than the context has.
        """
        length = embedded.shape[1]
        if length > self.context_length:
            raise ValueError(f'prompts have {length} tokens, the text tower takes {self.context_length}')
        x = embedded + self.positional_embedding[:length]
        x = self.transformer(x, self.causal[:length, :length])
        x = x[torch.arange(len(x), device=x.device), ends]  # (C, T, width) -> (C, width)
        return self.ln_final(x) @ self.text_projection
