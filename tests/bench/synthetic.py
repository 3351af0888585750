"""Synthetic Llama checkpoints of any size, written without holding them: noise of a plausible
magnitude in bfloat16, norms of ones. They load and run like a real model and predict nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import random
import struct

NOISE_BYTES = 16 << 20
ONE = b"\x80\x3f"  # bfloat16, little endian


@dataclasses.dataclass(frozen=True)
class Shape:
    hidden: int
    intermediate: int
    heads: int
    layers: int
    vocabulary: int = 32000

    def tensors(self):
        """(name, shape) in the order of a file."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            for name in "qkvo":
                yield f"{prefix}.self_attn.{name}_proj.weight", (self.hidden, self.hidden)
            yield f"{prefix}.mlp.gate_proj.weight", (self.intermediate, self.hidden)
            yield f"{prefix}.mlp.up_proj.weight", (self.intermediate, self.hidden)
            yield f"{prefix}.mlp.down_proj.weight", (self.hidden, self.intermediate)
            yield f"{prefix}.input_layernorm.weight", (self.hidden,)
            yield f"{prefix}.post_attention_layernorm.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        yield "lm_head.weight", (self.vocabulary, self.hidden)

    def config(self):
        return {"architectures": ["LlamaForCausalLM"], "model_type": "llama",
                "hidden_size": self.hidden, "intermediate_size": self.intermediate,
                "num_attention_heads": self.heads, "num_key_value_heads": self.heads,
                "num_hidden_layers": self.layers, "vocab_size": self.vocabulary,
                "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
                "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16"}


def elements(shape):
    count = 1
    for size in shape:
        count *= size
    return count


def noise():
    """Values of either sign between 2^-7 and 2^-5."""
    sign = bytes(0x3C if byte < 128 else 0xBC for byte in range(256))
    block = bytearray(NOISE_BYTES)
    block[0::2] = os.urandom(NOISE_BYTES // 2)
    block[1::2] = os.urandom(NOISE_BYTES // 2).translate(sign)
    return bytes(block)


def write_tensor(stream, shape, block, offset):
    left = 2 * elements(shape)
    if len(shape) == 1:
        stream.write(ONE * shape[0])
        return
    view = memoryview(block)[offset:]
    while left > 0:
        part = view[:left]
        stream.write(part)
        left -= len(part)
        view = memoryview(block)


def write(directory: pathlib.Path, shape: Shape, shard_bytes: int = 5_000_000_000, seed: int = 1):
    """Writes config.json and the shards; returns the weights' bytes."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(shape.config()))
    shards, size = [[]], 0
    for name, dimensions in shape.tensors():
        tensor_bytes = 2 * elements(dimensions)
        if shards[-1] and size + tensor_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append((name, dimensions))
        size += tensor_bytes
    block = noise()
    generator = random.Random(seed)
    weight_map, total = {}, 0
    for number, tensors in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        header, end = {}, 0
        for name, dimensions in tensors:
            begin, end = end, end + 2 * elements(dimensions)
            header[name] = {"dtype": "BF16", "shape": dimensions, "data_offsets": [begin, end]}
            weight_map[name] = file
        total += end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(directory / file, "wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            for name, dimensions in tensors:
                write_tensor(stream, dimensions, block, 2 * generator.randrange(NOISE_BYTES // 4))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def write_ids(file: pathlib.Path, shape: Shape, lines: int, length: int, seed: int = 2):
    """Lines of random token ids."""
    generator = random.Random(seed)
    with open(file, "w", encoding="utf-8") as stream:
        for _ in range(lines):
            ids = [generator.randrange(shape.vocabulary) for _ in range(length)]
            stream.write(json.dumps({"input_ids": ids}) + "\n")
