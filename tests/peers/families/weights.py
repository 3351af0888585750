"""Weights: made from a formula for the fixtures, or read from a safetensors file."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

FNV_OFFSET = 0xCBF29CE484222325
FNV_PRIME = 0x100000001B3
GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MASK64 = (1 << 64) - 1


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of a fixture: every value is mean + amplitude * k / 512, k in [-512, 511]."""

    shape: tuple[int, ...]
    mean: int
    amplitude: float


def fnv1a64(text: str) -> int:
    """FNV-1a hash, 64 bit, of the UTF-8 text."""
    value = FNV_OFFSET
    for byte in text.encode("utf-8"):
        value = ((value ^ byte) * FNV_PRIME) & MASK64
    return value


def splitmix64(start: int, count: int) -> np.ndarray:
    """The first `count` outputs of splitmix64 whose state begins at `start`."""
    index = np.arange(1, count + 1, dtype=np.uint64)
    z = np.uint64(start) + index * np.uint64(GOLDEN_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def make_tensor(name: str, spec: TensorSpec) -> torch.Tensor:
    """The tensor that the fixture formula gives for this name."""
    count = int(np.prod(spec.shape))
    k = (splitmix64(fnv1a64(name), count) >> np.uint64(54)).astype(np.int64) - 512
    values = spec.mean + spec.amplitude * k / 512.0
    exact = values.astype(np.float16).astype(np.float64)
    if not np.array_equal(values, exact):
        raise ValueError(f"{name}: a value is not exact in float16")
    return torch.from_numpy(values).reshape(spec.shape)


def make_tensors(specs: dict[str, TensorSpec]) -> dict[str, torch.Tensor]:
    return {name: make_tensor(name, spec) for name, spec in specs.items()}


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, as float64."""
    data = path.read_bytes()
    (header_size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + header_size])
    body = data[8 + header_size :]
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = _to_float64(body[begin:end], entry["dtype"])
        tensors[name] = torch.from_numpy(values).reshape(entry["shape"])
    return tensors


def _to_float64(raw: bytes, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        high_halves = np.frombuffer(raw, dtype="<u2").astype(np.uint32)
        return (high_halves << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, dtype={"F16": "<f2", "F32": "<f4"}[dtype]).astype(np.float64)


@dataclass
class Weights:
    """Tensors below a name prefix; remembers which ones were asked for."""

    tensors: dict[str, torch.Tensor]
    prefix: str = ""
    used: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> torch.Tensor:
        full_name = self.prefix + name
        self.used.add(full_name)
        return self.tensors[full_name]

    def below(self, prefix: str) -> Weights:
        """The same tensors seen from a longer prefix."""
        return Weights(self.tensors, self.prefix + prefix, self.used)

    def unused(self) -> list[str]:
        return sorted(set(self.tensors) - self.used)
