"""Causal attention with what the families add to it: groups, windows, soft caps, ALiBi."""

from __future__ import annotations

import torch


def visible(length: int, window: int | None) -> torch.Tensor:
    """[query, key] mask: a query sees itself and what precedes it, `window` keys at most."""
    query = torch.arange(length)[:, None]
    key = torch.arange(length)[None, :]
    mask = key <= query
    return mask if window is None else mask & (key > query - window)


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    alibi: torch.Tensor | None = None,
) -> torch.Tensor:
    """q [T, heads, size]; k and v [T, kv heads, size]; gives [T, heads * size].

    `alibi` is the slope of each head; it is added to the scaled scores.
    """
    length, heads, size = q.shape
    group = heads // k.shape[1]
    k = k.repeat_interleave(group, dim=1)
    v = v.repeat_interleave(group, dim=1)
    scores = torch.einsum("ihd,jhd->hij", q, k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi is not None:
        scores = scores + alibi[:, None, None] * torch.arange(length, dtype=scores.dtype)
    scores = scores.masked_fill(~visible(length, window), float("-inf"))
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), v).reshape(length, heads * size)


def split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """[T, heads * size] -> [T, heads, size]."""
    return x.reshape(x.shape[0], heads, -1)


def split_per_head(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """Fused projection whose rows hold, head after head, that head's q, k and v."""
    per_head = qkv.reshape(qkv.shape[0], heads, 3, -1)
    return per_head[:, :, 0], per_head[:, :, 1], per_head[:, :, 2]


def split_per_group(qkv: torch.Tensor, heads: int, groups: int) -> tuple[torch.Tensor, ...]:
    """Fused projection whose rows hold, group after group, its queries, then its k and v."""
    length = qkv.shape[0]
    per_group = qkv.reshape(length, groups, heads // groups + 2, -1)
    q = per_group[:, :, :-2].reshape(length, heads, -1)
    return q, per_group[:, :, -2], per_group[:, :, -1]


def split_in_blocks(
    qkv: torch.Tensor, heads: int, kv_heads: int, size: int
) -> tuple[torch.Tensor, ...]:
    """Fused projection whose rows hold all q, then all k, then all v."""
    q, k, v = qkv.split([heads * size, kv_heads * size, kv_heads * size], dim=-1)
    return split_heads(q, heads), split_heads(k, kv_heads), split_heads(v, kv_heads)
