"""Building blocks that every family shares: projections, norms, activations, MLPs."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from weights import Weights

Activation = Callable[[torch.Tensor], torch.Tensor]


def linear(x: torch.Tensor, w: Weights, name: str, bias: bool = False) -> torch.Tensor:
    """Projection whose weight is stored [out, in]."""
    y = x @ w[f"{name}.weight"].T
    return y + w[f"{name}.bias"] if bias else y


def conv1d(x: torch.Tensor, w: Weights, name: str) -> torch.Tensor:
    """GPT-2's projection: weight stored [in, out], always with a bias."""
    return x @ w[f"{name}.weight"] + w[f"{name}.bias"]


def normalize_rms(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps)


def rms_norm(x: torch.Tensor, w: Weights, name: str, eps: float) -> torch.Tensor:
    return normalize_rms(x, eps) * w[f"{name}.weight"]


def gemma_rms_norm(x: torch.Tensor, w: Weights, name: str, eps: float) -> torch.Tensor:
    """Gemma stores the gain's distance from one."""
    return normalize_rms(x, eps) * (1.0 + w[f"{name}.weight"])


def layer_norm(
    x: torch.Tensor, w: Weights, name: str, eps: float, bias: bool = True
) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = centred.pow(2).mean(-1, keepdim=True)
    y = centred / torch.sqrt(variance + eps) * w[f"{name}.weight"]
    return y + w[f"{name}.bias"] if bias else y


def silu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(x)


def gelu_exact(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x.pow(3))
    return 0.5 * x * (1.0 + torch.tanh(inner))


def relu(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(min=0.0)


ACTIVATIONS: dict[str, Activation] = {
    "silu": silu,
    "swish": silu,
    "gelu": gelu_exact,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": relu,
}


def gated_mlp(
    x: torch.Tensor, w: Weights, activation: Activation, bias: bool = False
) -> torch.Tensor:
    """down(act(gate(x)) * up(x)), with the names that Llama gave the three projections."""
    gate = activation(linear(x, w, "gate_proj", bias))
    return linear(gate * linear(x, w, "up_proj", bias), w, "down_proj", bias)
