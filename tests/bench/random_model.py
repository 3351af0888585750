#!/usr/bin/env python3
"""Writes a seeded random GPT-NeoX checkpoint, and lines of token ids that were drawn from it.

The ids are what the model itself predicts, so that its perplexity is the exponential of its
entropy, and anything that changes the model raises it. Needs Debian's python3-torch.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import sys
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.append(str(Path(__file__).resolve().parents[1] / "peers" / "families"))

import torch

from attention import split_per_head
from inventory import tensor_specs
from layers import gelu_exact, layer_norm, linear
from positions import Rotary, inverse_frequencies
from reference import logits
from weights import Weights

LENGTH = 256  # ids of a line
CONFIG = {
    "architectures": ["GPTNeoXForCausalLM"],
    "attention_bias": True,
    "hidden_act": "gelu",
    "hidden_size": 128,
    "intermediate_size": 512,
    "layer_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "model_type": "gpt_neox",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_parallel_residual": True,
    "vocab_size": 256,
}
HEADS, EPS = CONFIG["num_attention_heads"], CONFIG["layer_norm_eps"]
SIZE = CONFIG["hidden_size"] // HEADS

# What a matrix makes of inputs of variance 1: the standard deviation of its outputs. Queries and
# keys such that attention has a few favourites, the head such that predictions are sharp.
GAINS = {"query_key_value": 1.4, "dense": 0.7, "dense_h_to_4h": 1.0, "dense_4h_to_h": 0.4,
         "embed_out": 2.8}
BIAS = 0.1
NORM = 0.4  # standard deviation of the logarithm of a norm's weights

Cache = list[tuple[torch.Tensor, torch.Tensor]]  # of each layer: keys, values [B, heads, T, size]


def random_tensors(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Weights that float16 holds exactly, as float64."""
    tensors = {}
    for name, spec in tensor_specs(CONFIG).items():
        values = torch.randn(spec.shape, generator=generator, dtype=torch.float64)
        module, kind = name.split(".")[-2:]
        if module in GAINS and kind == "weight":
            values *= GAINS[module] / math.sqrt(spec.shape[1])
        elif kind == "bias":
            values *= BIAS
        elif module != "embed_in":
            values = (NORM * values).exp()
        tensors[name] = values.half().double()
    return tensors


def empty_cache(batch: int) -> Cache:
    shape = (batch, HEADS, LENGTH, SIZE)
    return [(torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))
            for _ in range(CONFIG["num_hidden_layers"])]


def rotary_at(position: int) -> Rotary:
    dims = int(SIZE * CONFIG["rotary_pct"])
    whole = Rotary.of(inverse_frequencies(CONFIG["rotary_emb_base"], dims), position + 1)
    return Rotary(whole.cos[-1:], whole.sin[-1:])


def attention(
    x: torch.Tensor, layer: Weights, cache: tuple[torch.Tensor, torch.Tensor], position: int
) -> torch.Tensor:
    """Of one position of each sequence, x [B, hidden], whose keys and values join the cache."""
    keys, values = cache
    turn = rotary_at(position)
    q, k, v = split_per_head(linear(x, layer, "attention.query_key_value", bias=True), HEADS)
    keys[:, :, position], values[:, :, position] = turn.rotate_halves(k), v
    seen = slice(position + 1)
    scores = torch.einsum("bhd,bhjd->bhj", turn.rotate_halves(q), keys[:, :, seen]) * SIZE**-0.5
    y = torch.einsum("bhj,bhjd->bhd", scores.softmax(-1), values[:, :, seen])
    return linear(y.flatten(1), layer, "attention.dense", bias=True)


def next_logits(w: Weights, cache: Cache, ids: torch.Tensor, position: int) -> torch.Tensor:
    """Logits [B, vocabulary] after `ids` [B] at a position."""
    x = w["gpt_neox.embed_in.weight"][ids]
    for index, of_layer in enumerate(cache):
        layer = w.below(f"gpt_neox.layers.{index}.")
        y = attention(layer_norm(x, layer, "input_layernorm", EPS), layer, of_layer, position)
        normed = layer_norm(x, layer, "post_attention_layernorm", EPS)
        inner = gelu_exact(linear(normed, layer, "mlp.dense_h_to_4h", bias=True))
        x = x + y + linear(inner, layer, "mlp.dense_4h_to_h", bias=True)
    return linear(layer_norm(x, w, "gpt_neox.final_layer_norm", EPS), w, "embed_out")


def sample(w: Weights, count: int, generator: torch.Generator) -> tuple[torch.Tensor, float]:
    """Ids [count, LENGTH], the first of each line of any kind, and the mean entropy of the rest."""
    vocabulary = CONFIG["vocab_size"]
    ids = torch.zeros(count, LENGTH, dtype=torch.long)
    ids[:, 0] = torch.randint(vocabulary, (count,), generator=generator)
    cache, entropy = empty_cache(count), 0.0
    for position in range(LENGTH - 1):
        chances = next_logits(w, cache, ids[:, position], position).softmax(-1)
        entropy += torch.special.entr(chances).sum(-1).mean().item() / (LENGTH - 1)
        ids[:, position + 1] = torch.multinomial(chances, 1, generator=generator)[:, 0]
    return ids, entropy


def without_context(w: Weights, ids: torch.Tensor) -> float:
    """Mean loss of the ids where every prediction sees only the id before."""
    vocabulary = CONFIG["vocab_size"]
    table = next_logits(w, empty_cache(vocabulary), torch.arange(vocabulary), 0)
    return -table.log_softmax(-1)[ids[:, :-1], ids[:, 1:]].mean().item()


def check(tensors: dict[str, torch.Tensor], line: torch.Tensor) -> None:
    """Raises if sampling computed something else than the reference of the family."""
    w, cache = Weights(tensors), empty_cache(1)
    ours = torch.cat([next_logits(w, cache, line[i:i + 1], i) for i in range(LENGTH)])
    difference = (ours - logits(CONFIG, tensors, line.tolist())).abs().max().item()
    if difference > 1e-9:
        raise ValueError(f"logits differ from the reference's by {difference:g}")


def write_safetensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """All tensors as float16."""
    header, body = {}, b""
    for name, values in tensors.items():
        data = values.numpy().astype("<f2").tobytes()
        header[name] = {"dtype": "F16", "shape": list(values.shape),
                        "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def byte_tokenizer() -> dict:
    """A tokenizer.json whose ids are bytes; a job asks for one, though it reads lines of ids."""
    readable = [*range(33, 127), *range(161, 173), *range(174, 256)]  # stand for themselves
    others = [byte for byte in range(256) if byte not in readable]  # as GPT-2 writes them
    symbols = {byte: chr(byte) for byte in readable}
    symbols |= {byte: chr(256 + number) for number, byte in enumerate(others)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": False}
    vocabulary = {symbol: byte for byte, symbol in sorted(symbols.items())}
    return {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []}}


def write_lines(file: Path, ids: torch.Tensor) -> None:
    file.write_text("".join(json.dumps({"input_ids": line}) + "\n" for line in ids.tolist()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="is made; gets the checkpoint, "
                                                     "calibration.jsonl and evaluation.jsonl")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--calibration", type=int, default=64, metavar="LINES")
    parser.add_argument("--evaluation", type=int, default=128, metavar="LINES")
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(arguments.seed)
    tensors = random_tensors(generator)
    weights = Weights(tensors)
    ids, entropy = sample(weights, arguments.calibration + arguments.evaluation, generator)
    check(tensors, ids[0])

    arguments.directory.mkdir(parents=True, exist_ok=True)
    (arguments.directory / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    (arguments.directory / "tokenizer.json").write_text(json.dumps(byte_tokenizer()) + "\n")
    write_safetensors(arguments.directory / "model.safetensors", tensors)
    write_lines(arguments.directory / "calibration.jsonl", ids[:arguments.calibration])
    write_lines(arguments.directory / "evaluation.jsonl", ids[arguments.calibration:])
    print(f"entropy {entropy:.3f} nats, perplexity {math.exp(entropy):.2f}; "
          f"{math.exp(without_context(weights, ids)):.2f} from the id before alone; "
          f"{len(ids.unique())} ids occur")


if __name__ == "__main__":
    main()
