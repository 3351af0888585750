"""Positions: rotary embeddings with their scalings, and the slopes of ALiBi."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

Config = dict


@dataclass(frozen=True)
class Rotary:
    """cos and sin [T, dims / 2] of a rotary embedding over the first `dims` of a head."""

    cos: torch.Tensor
    sin: torch.Tensor

    @staticmethod
    def of(inverse: torch.Tensor, length: int, attention_factor: float = 1.0) -> Rotary:
        angles = torch.arange(length, dtype=torch.float64)[:, None] * inverse[None, :]
        return Rotary(angles.cos() * attention_factor, angles.sin() * attention_factor)

    def rotate_halves(self, x: torch.Tensor) -> torch.Tensor:
        """Pairs dimension i with i + dims / 2; x is [T, heads, size]."""
        pairs = self.cos.shape[-1]
        first, second, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
        cos, sin = self.cos[:, None], self.sin[:, None]
        return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)

    def rotate_neighbours(self, x: torch.Tensor) -> torch.Tensor:
        """Pairs dimension 2i with 2i + 1 (GPT-J); x is [T, heads, size]."""
        dims = 2 * self.cos.shape[-1]
        even, odd, rest = x[..., 0:dims:2], x[..., 1:dims:2], x[..., dims:]
        cos, sin = self.cos[:, None], self.sin[:, None]
        turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1)
        return torch.cat([turned.flatten(-2), rest], -1)


def inverse_frequencies(theta: float, dims: int) -> torch.Tensor:
    return theta ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)


def rotary(config: Config, dims: int, length: int) -> Rotary:
    """The rotary embedding of a config with `rope_theta` and `rope_scaling`."""
    theta = config["rope_theta"]
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return Rotary.of(*SCALINGS[kind](config, scaling, theta, dims, length))


def _default(config: Config, scaling: Config, theta: float, dims: int, length: int):
    return inverse_frequencies(theta, dims), length


def _linear(config: Config, scaling: Config, theta: float, dims: int, length: int):
    return inverse_frequencies(theta, dims) / scaling["factor"], length


def _dynamic(config: Config, scaling: Config, theta: float, dims: int, length: int):
    """NTK-aware base that grows with the sequence, once it exceeds the trained length."""
    trained = config["max_position_embeddings"]
    stretch = scaling["factor"] * max(length, trained) / trained - (scaling["factor"] - 1)
    return inverse_frequencies(theta * stretch ** (dims / (dims - 2)), dims), length


def _llama3(config: Config, scaling: Config, theta: float, dims: int, length: int):
    """Keeps short wavelengths, divides long ones, blends those in between."""
    trained, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    inverse = inverse_frequencies(theta, dims)
    turns = trained * inverse / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return inverse * (kept + (1 - kept) / factor), length


def _yarn(config: Config, scaling: Config, theta: float, dims: int, length: int):
    """Interpolates the dimensions that turn seldom over the trained length."""
    factor = scaling["factor"]
    trained = (
        scaling.get("original_max_position_embeddings") or config["max_position_embeddings"]
    )
    low = _dimension_of_turns(scaling.get("beta_fast") or 32, trained, theta, dims)
    high = _dimension_of_turns(scaling.get("beta_slow") or 1, trained, theta, dims)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    if low == high:
        high += 0.001
    index = torch.arange(dims // 2, dtype=torch.float64)
    interpolated = ((index - low) / (high - low)).clamp(0.0, 1.0)
    inverse = inverse_frequencies(theta, dims)
    scaled = inverse * (interpolated / factor + (1 - interpolated))
    return scaled, length, _yarn_attention_factor(scaling)


def _dimension_of_turns(turns: float, trained: int, theta: float, dims: int) -> float:
    """The (fractional) frequency index that turns this often over the trained length."""
    return dims * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(theta))


def _yarn_attention_factor(scaling: Config) -> float:
    if scaling.get("attention_factor") is not None:
        return scaling["attention_factor"]

    def magnitude(weight: float) -> float:
        factor = scaling["factor"]
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    numerator, denominator = scaling.get("mscale"), scaling.get("mscale_all_dim")
    if numerator and denominator:
        return magnitude(numerator) / magnitude(denominator)
    return magnitude(1.0)


def _longrope(config: Config, scaling: Config, theta: float, dims: int, length: int):
    """A factor per frequency: one list within the trained length, another beyond it."""
    trained = config.get("original_max_position_embeddings")
    extended = config["max_position_embeddings"]
    stretch = extended / trained if trained else scaling["factor"]
    trained = trained or extended
    factors = scaling["long_factor"] if length > trained else scaling["short_factor"]
    inverse = inverse_frequencies(theta, dims) / torch.tensor(factors, dtype=torch.float64)
    attention_factor = scaling.get("attention_factor")
    if attention_factor is None:
        attention_factor = (
            1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(trained))
        )
    return inverse, length, attention_factor


SCALINGS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}


def alibi_slopes(heads: int) -> torch.Tensor:
    """ALiBi as in its paper: for a count that is no power of two, the slopes of the power
    below it, then every second slope of the power above it."""
    below = 2 ** math.floor(math.log2(heads))
    slopes = _geometric_slopes(below, 8.0)
    if below < heads:
        slopes = torch.cat([slopes, _geometric_slopes(2 * below, 8.0)[0::2][: heads - below]])
    return slopes


def mpt_slopes(heads: int, bias_max: float) -> torch.Tensor:
    """ALiBi as MPT orders it: the slopes of the power of two above, odd places first."""
    above = 2 ** math.ceil(math.log2(heads))
    slopes = _geometric_slopes(above, bias_max)
    if above > heads:
        slopes = torch.cat([slopes[1::2], slopes[0::2]])[:heads]
    return slopes


def _geometric_slopes(heads: int, bias_max: float) -> torch.Tensor:
    exponents = torch.arange(1, heads + 1, dtype=torch.float64) * (bias_max / heads)
    return 2.0**-exponents
