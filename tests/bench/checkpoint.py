"""What tests/bench/quality needs of Hugging Face checkpoints: their shapes, and rescaled copies."""

import array
import dataclasses
import itertools
import json
import math
import operator
import pathlib
import random
import re
import shutil
import struct

# A tensor of a block: everything up to the block's number, the module, weight or bias.
_BLOCK = re.compile(r"((?:.*?\.)?(?:layers|h|blocks)\.\d+\.)(.+)\.(weight|bias)")
_ROUTERS = ("gate", "shared_expert_gate")  # the last parts of layers that always stay float
_TRANSPOSED = ("gpt2",)  # families whose matrices are [inputs, outputs]
_MASKS = ("BOOL", "U8")  # types of buffers that old checkpoints hold and no model reads
_CHUNK = 1 << 16  # values that are Python objects at once


@dataclasses.dataclass(frozen=True)
class Pair:
    """A module whose outputs are multiplied by c, weight and bias, and its readers, whose inputs
    are divided by it.

    Of a producer with more outputs than that, such as a fused gate and up, the last ones. The pair
    exists only where the config's key has the value that `only` names, or is absent.
    """

    producer: str
    consumers: tuple
    only: tuple = ()


_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = (
    Pair("input_layernorm", _QKV),
    Pair("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    Pair("mlp.up_proj", ("mlp.down_proj",)),
)
_NOT_RESIDUAL = ("apply_residual_connection_post_layernorm", False)
_PAIRS = {
    "bloom": (
        Pair("input_layernorm", ("self_attention.query_key_value",), only=_NOT_RESIDUAL),
        Pair("post_attention_layernorm", ("mlp.dense_h_to_4h",), only=_NOT_RESIDUAL),
    ),
    "gpt2": (Pair("ln_1", ("attn.c_attn",)), Pair("ln_2", ("mlp.c_fc",))),
    "gpt_neox": (
        Pair("input_layernorm", ("attention.query_key_value",)),
        Pair("post_attention_layernorm", ("mlp.dense_h_to_4h",)),
    ),
    "gptj": (Pair("ln_1", ("attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc_in")),),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "mpt": (Pair("norm_1", ("attn.Wqkv",)), Pair("norm_2", ("ffn.up_proj",))),
    "opt": (
        Pair("self_attn_layer_norm", _QKV, only=("do_layer_norm_before", True)),
        Pair("final_layer_norm", ("fc1",), only=("do_layer_norm_before", True)),
        Pair("fc1", ("fc2",), only=("activation_function", "relu")),
    ),
    "phi": (Pair("input_layernorm", (*_QKV, "mlp.fc1")),),
    "phi3": (
        Pair("input_layernorm", ("self_attn.qkv_proj",)),
        Pair("post_attention_layernorm", ("mlp.gate_up_proj",)),
        Pair("mlp.gate_up_proj", ("mlp.down_proj",)),
    ),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def _config(directory):
    return json.loads((pathlib.Path(directory) / "config.json").read_text())


def _headers(directory):
    """(file, offset of its data, name, header entry) of every tensor."""
    for file in sorted(pathlib.Path(directory).glob("*.safetensors")):
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                yield file, 8 + length, name, entry


def float_override(directory, bits, group_size):
    """An override that leaves the linear layers float that a grid does not fit, or None.

    A group must divide a layer's inputs, and the zero points of all outputs must fill 32-bit words.
    """
    transposed = _config(directory).get("model_type") in _TRANSPOSED
    indivisible = set()
    for _, _, name, entry in _headers(directory):
        tensor = _BLOCK.fullmatch(name)
        if tensor is None or tensor[3] != "weight" or len(entry["shape"]) != 2:
            continue
        parts = tensor[2].split(".")
        if parts[-1] in _ROUTERS:
            continue
        outputs, inputs = reversed(entry["shape"]) if transposed else entry["shape"]
        if (group_size > 0 and inputs % group_size) or inputs * bits % 32 or outputs * bits % 32:
            indivisible.add(r"\.".join("[0-9]+" if part.isdigit() else part for part in parts))
    if not indivisible:
        return None
    return {"match": rf"re:.*\.({'|'.join(sorted(indivisible))})", "skip": True}


def _floats(data, dtype):
    """Little-endian bytes of a safetensors dtype as float32."""
    values = array.array("f")
    if dtype == "F32":
        values.frombytes(data)
    elif dtype == "F16":
        for begin in range(0, len(data), 2 * _CHUNK):
            part = data[begin:begin + 2 * _CHUNK]
            values.extend(struct.unpack(f"<{len(part) // 2}e", part))
    elif dtype == "BF16":
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        values.frombytes(bytes(wide))
    else:
        raise ValueError(f"a tensor of type {dtype} cannot be rescaled; known: F32, F16, BF16")
    return values


def _scaled(values, shape, axis, factors):
    """Values of a tensor of one or two axes, those at place i of an axis times factors[i]."""
    if axis == len(shape) - 1:
        spread = itertools.cycle(factors)
    else:
        spread = (factor for factor in factors for _ in range(shape[1]))
    return array.array("f", map(operator.mul, values, spread))


def _factors(shapes, config, seed):
    """[(axis, factors along it)] by tensor name; log-uniform in [0.1, 10]."""
    generator = random.Random(seed)
    kind = config["model_type"]
    outputs, inputs = (1, 0) if kind in _TRANSPOSED else (0, 1)  # axes of a matrix
    producers = {pair.producer: pair.consumers for pair in _PAIRS[kind]
                 if not pair.only or config.get(pair.only[0], pair.only[1]) == pair.only[1]}
    found = {}
    for name in sorted(shapes):
        tensor = _BLOCK.fullmatch(name)
        if tensor is None or tensor[2] not in producers or tensor[3] != "weight":
            continue
        block, module, _ = tensor.groups()
        readers = [f"{block}{reader}.weight" for reader in producers[module]]
        count = shapes[readers[0]][inputs]
        factors = [10 ** generator.uniform(-1, 1) for _ in range(count)]
        axis = outputs if len(shapes[name]) == 2 else 0
        whole = [1.0] * (shapes[name][axis] - count) + factors
        found.setdefault(name, []).append((axis, whole))
        found.setdefault(f"{block}{module}.bias", []).append((0, whole))
        for reader in readers:
            found.setdefault(reader, []).append((inputs, [1 / factor for factor in factors]))
    return found


def write_rescaled(source, target, seed):
    """A float32 copy of a checkpoint that computes the same with channels of other sizes."""
    source, target = pathlib.Path(source), pathlib.Path(target)
    config = _config(source)
    kind = config.get("model_type")
    if kind not in _PAIRS:
        raise ValueError(f"{source}: a model_type \"{kind}\" cannot be rescaled; known: "
                         + ", ".join(_PAIRS))
    tensors = sorted((item for item in _headers(source) if item[3]["dtype"] not in _MASKS),
                     key=lambda item: item[2])
    factors = _factors({name: entry["shape"] for _, _, name, entry in tensors}, config, seed)
    if not factors:
        raise ValueError(f"{source}: this variant of {kind} has no channels that can be rescaled")
    header, end = {}, 0
    for _, _, name, entry in tensors:
        size = 4 * math.prod(entry["shape"])
        header[name] = {"dtype": "F32", "shape": entry["shape"], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and ".safetensors" not in file.name and file.name != "config.json":
            shutil.copyfile(file, target / file.name)
    config["torch_dtype"] = "float32"
    config.pop("dtype", None)
    (target / "config.json").write_text(json.dumps(config, indent=1))
    with (target / "model.safetensors").open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for file, offset, name, entry in tensors:
            begin, stop = entry["data_offsets"]
            with file.open("rb") as stream:
                stream.seek(offset + begin)
                values = _floats(stream.read(stop - begin), entry["dtype"])
            for axis, along in factors.get(name, ()):
                values = _scaled(values, entry["shape"], axis, along)
            values.tofile(out)
    return target
