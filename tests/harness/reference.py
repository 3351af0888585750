"""An independent reader of GPTQ checkpoints and an independent Llama, in plain Python.

Written from the format's and the architecture's public descriptions; shares no line with the engine.
"""

import json
import math
import pathlib
import struct

from harness import models


def _fields(words, bits, count):
    """`count` unsigned fields of a dense little-endian bit stream of 32-bit words."""
    stream = int.from_bytes(struct.pack(f"<{len(words)}i", *words), "little")
    mask = (1 << bits) - 1
    return [stream >> (bits * i) & mask for i in range(count)]


def _rule(config, module):
    """bits of a module after `dynamic`, or None where it stays float."""
    import re

    for key, settings in (config.get("dynamic") or {}).items():
        if re.match(key[2:] if key[:2] in ("+:", "-:") else key, module):
            return None if key.startswith("-:") else settings.get("bits", config["bits"])
    return config["bits"]


def dequantize(directory):
    """A published GPTQ directory as plain float32 tensors: weight = scale * (code - zero)."""
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "gptq" and config.get("checkpoint_format", "gptq") == "gptq"
    stored = {}
    for file in sorted(directory.glob("*.safetensors")):
        stored.update(models.read_safetensors(file))
    plain = {}
    for name, tensor in stored.items():
        module, part = name.rsplit(".", 1)
        if part == "qweight":
            plain[module + ".weight"] = _dequantize_layer(stored, module, _rule(config, module))
        elif part not in ("qzeros", "scales", "g_idx"):
            plain[name] = models.Tensor("F32", tensor.shape, tensor.values)
    return plain


def _dequantize_layer(stored, module, bits):
    qweight, qzeros = stored[module + ".qweight"], stored[module + ".qzeros"]
    scales, g_idx = stored[module + ".scales"], stored[module + ".g_idx"].values
    rows, outputs = qweight.shape
    inputs, groups = len(g_idx), scales.shape[0]
    assert rows * 32 == inputs * bits, (module, "codes are not dense")
    zero_words = outputs * bits // 32
    # Version 1 stores the zero point minus one.
    zeros = [[field + 1 for field in _fields(qzeros.values[g * zero_words:(g + 1) * zero_words],
                                             bits, outputs)] for g in range(groups)]
    weight = []
    for output in range(outputs):
        codes = _fields(qweight.values[output::outputs], bits, inputs)
        weight.extend(scales.values[g * outputs + output] * (code - zeros[g][output])
                      for code, g in zip(codes, g_idx))
    return models.Tensor("F32", [outputs, inputs], weight)


def _half(value):
    return struct.unpack("<e", struct.pack("<e", value))[0]


def round_to_nearest(tensors, bits, group_size):
    """The linear layers of the blocks rounded on asymmetric grids: lo = min(w, 0), hi = max(w, 0),
    scale = (hi - lo) / (2^bits - 1) stored as float16, zero = round(-lo / scale), at least 1."""
    top = (1 << bits) - 1
    rounded = {}
    for name, tensor in tensors.items():
        if ".layers." not in name or len(tensor.shape) != 2:
            rounded[name] = tensor
            continue
        values = []
        for begin in range(0, len(tensor.values), group_size):
            group = tensor.values[begin:begin + group_size]
            low, high = min(0.0, *group), max(0.0, *group)
            scale = _half((high - low) / top)
            zero = min(max(round(-low / scale), 1), top)
            values += [scale * (min(max(round(w / scale) + zero, 0), top) - zero) for w in group]
        rounded[name] = models.Tensor("F32", tensor.shape, values)
    return rounded


def _rows(tensor):
    columns = tensor.shape[1]
    return [tensor.values[i:i + columns] for i in range(0, len(tensor.values), columns)]


def _times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector)) for row in matrix]


def _norm(weight, vector, epsilon):
    factor = 1 / math.sqrt(sum(x * x for x in vector) / len(vector) + epsilon)
    return [w * x * factor for w, x in zip(weight, vector)]


def _rotate(head, position, theta):
    """Rotary embedding of one head, halves rotated as in Hugging Face's Llama."""
    half = len(head) // 2
    out = [0.0] * len(head)
    for i in range(half):
        angle = position * theta ** (-2 * i / len(head))
        cosine, sine = math.cos(angle), math.sin(angle)
        out[i] = head[i] * cosine - head[i + half] * sine
        out[i + half] = head[i + half] * cosine + head[i] * sine
    return out


class Llama:
    """The forward pass of a Llama checkpoint, one window at a time, in double precision."""

    def __init__(self, config, tensors):
        self._config = config
        self._matrix = {name: _rows(t) for name, t in tensors.items() if len(t.shape) == 2}
        self._vector = {name: t.values for name, t in tensors.items() if len(t.shape) == 1}

    def losses(self, ids):
        """-log p(ids[i] | ids[:i]) for i from 1."""
        config = self._config
        epsilon = config["rms_norm_eps"]
        states = [list(self._matrix["model.embed_tokens.weight"][i]) for i in ids]
        for layer in range(config["num_hidden_layers"]):
            block = f"model.layers.{layer}."
            normed = [_norm(self._vector[block + "input_layernorm.weight"], x, epsilon)
                      for x in states]
            for x, y in zip(states, self._attention(block + "self_attn.", normed)):
                x[:] = [a + b for a, b in zip(x, y)]
            for x in states:
                y = self._mlp(block + "mlp.", _norm(
                    self._vector[block + "post_attention_layernorm.weight"], x, epsilon))
                x[:] = [a + b for a, b in zip(x, y)]
        head = self._matrix.get("lm_head.weight", self._matrix["model.embed_tokens.weight"])
        losses = []
        for x, following in zip(states, ids[1:]):
            logits = _times(head, _norm(self._vector["model.norm.weight"], x, epsilon))
            top = max(logits)
            losses.append(math.log(sum(math.exp(v - top) for v in logits)) + top
                          - logits[following])
        return losses

    def _attention(self, prefix, inputs):
        config = self._config
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        size = config["hidden_size"] // heads

        def project(name, count, rotated):
            out = []
            for position, x in enumerate(inputs):
                flat = _times(self._matrix[f"{prefix}{name}_proj.weight"], x)
                split = [flat[h * size:(h + 1) * size] for h in range(count)]
                out.append([_rotate(head, position, config["rope_theta"]) for head in split]
                           if rotated else split)
            return out

        queries, keys = project("q", heads, True), project("k", kv_heads, True)
        values = project("v", kv_heads, False)
        outputs = []
        for position, query in enumerate(queries):
            mixed = []
            for h in range(heads):
                kv = h * kv_heads // heads
                scores = [sum(a * b for a, b in zip(query[h], keys[j][kv])) / math.sqrt(size)
                          for j in range(position + 1)]
                top = max(scores)
                weights = [math.exp(s - top) for s in scores]
                total = sum(weights)
                mixed += [sum(w * values[j][kv][d] for j, w in enumerate(weights)) / total
                          for d in range(size)]
            outputs.append(_times(self._matrix[prefix + "o_proj.weight"], mixed))
        return outputs

    def _mlp(self, prefix, x):
        gate = _times(self._matrix[prefix + "gate_proj.weight"], x)
        up = _times(self._matrix[prefix + "up_proj.weight"], x)
        return _times(self._matrix[prefix + "down_proj.weight"],
                      [g / (1 + math.exp(-g)) * u for g, u in zip(gate, up)])


def perplexity(model, ids, length):
    """Over non-overlapping windows of `length` tokens; the first of each is context only."""
    losses = []
    for begin in range(0, len(ids) - length + 1, length):
        losses += model.losses(ids[begin:begin + length])
    return math.exp(sum(losses) / len(losses))


def byte_ids(text):
    """Token ids of `text` with models.tokenizer(): <bos>, then a token a byte."""
    return [0] + [byte + 1 for byte in text.encode()]
