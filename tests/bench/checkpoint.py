"""What tests/bench/quality needs of Hugging Face checkpoints: their shapes, and rescaled copies."""

import array
import json
import pathlib
import random
import re
import shutil
import struct

_BLOCK = re.compile(r"\.(?:layers|h)\.\d+\..*\.(\w+)\.weight$")
# Of a Llama's block: what is multiplied by c, and whose columns are divided by it. A matrix is
# multiplied by rows.
_LLAMA_PAIRS = (
    ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ("mlp.up_proj", ("mlp.down_proj",)),
)
_PAIRS = {"llama": _LLAMA_PAIRS, "mistral": _LLAMA_PAIRS}
_CHUNK = 1 << 16  # values that are Python objects at once


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
    indivisible = set()
    for _, _, name, entry in _headers(directory):
        block = _BLOCK.search(name)
        if block is None or len(entry["shape"]) != 2:
            continue
        outputs, inputs = entry["shape"]
        if (group_size > 0 and inputs % group_size) or inputs * bits % 32 or outputs * bits % 32:
            indivisible.add(block[1])
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


def _times_rows(values, shape, factors):
    """Row r times factors[r]; of a vector, element r."""
    columns = shape[1] if len(shape) == 2 else 1
    for row, factor in enumerate(factors):
        for i in range(row * columns, (row + 1) * columns):
            values[i] *= factor


def _over_columns(values, shape, factors):
    """Column c over factors[c]."""
    for begin in range(0, len(values), shape[1]):
        for column, factor in enumerate(factors):
            values[begin + column] /= factor


def _factors(shapes, pairs, seed):
    """Producer's and consumers' factors by tensor name: log-uniform in [0.1, 10]."""
    generator = random.Random(seed)
    multiplied, divided = {}, {}
    for name in sorted(shapes):
        for producer, consumers in pairs:
            if not name.endswith(f".{producer}.weight"):
                continue
            block = name.removesuffix(f"{producer}.weight")
            factors = [10 ** generator.uniform(-1, 1) for _ in range(shapes[name][0])]
            multiplied[name] = factors
            if f"{block}{producer}.bias" in shapes:
                multiplied[f"{block}{producer}.bias"] = factors
            divided.update({f"{block}{consumer}.weight": factors for consumer in consumers})
    return multiplied, divided


def write_rescaled(source, target, seed):
    """A float32 copy of a checkpoint that computes the same with channels of other sizes."""
    source, target = pathlib.Path(source), pathlib.Path(target)
    config = json.loads((source / "config.json").read_text())
    kind = config.get("model_type")
    if kind not in _PAIRS:
        raise ValueError(f"{source}: a model_type \"{kind}\" cannot be rescaled; known: "
                         + ", ".join(_PAIRS))
    tensors = sorted(_headers(source), key=lambda item: item[2])
    multiplied, divided = _factors({name: entry["shape"] for _, _, name, entry in tensors},
                                   _PAIRS[kind], seed)
    header, end = {}, 0
    for _, _, name, entry in tensors:
        size = 4
        for extent in entry["shape"]:
            size *= extent
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
            if name in multiplied:
                _times_rows(values, entry["shape"], multiplied[name])
            if name in divided:
                _over_columns(values, entry["shape"], divided[name])
            values.tofile(out)
    return target
