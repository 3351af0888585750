"""safetensors files and directories of them, read and written with numpy alone."""

import json
import math
import pathlib
import struct
from typing import NamedTuple

import numpy

# BF16 has no type in numpy: its values are kept as the bits that are stored.
_TYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "I32": "<i4", "I64": "<i8"}


class FormatError(Exception):
    """What was read is not what the format says."""


def require(holds, message):
    if not holds:
        raise FormatError(message)


class Tensor(NamedTuple):
    """A dtype by its name in safetensors, and the stored values; BF16's are uint16 bits."""

    dtype: str
    values: numpy.ndarray

    @property
    def shape(self):
        return self.values.shape

    def floats(self):
        """As float32, which holds every value of the three float types."""
        require(self.dtype in ("F16", "BF16", "F32"), f"{self.dtype} is no float type")
        if self.dtype == "BF16":
            return (self.values.astype(numpy.uint32) << 16).view(numpy.float32)
        return self.values.astype(numpy.float32)

    def same(self, other):
        """Same type, shape and bytes."""
        return (self.dtype == other.dtype and self.shape == other.shape
                and self.values.tobytes() == other.values.tobytes())


def from_floats(dtype, values):
    """float32 values rounded to a float type, half to even."""
    values = numpy.asarray(values, numpy.float32)
    if dtype == "BF16":
        bits = values.view(numpy.uint32)
        return Tensor(dtype, ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(numpy.uint16))
    return Tensor(dtype, values.astype(_TYPES[dtype]))


def read_file(path):
    """Metadata, and all tensors of one file by name. The data must be covered without holes."""
    content = pathlib.Path(path).read_bytes()
    require(len(content) >= 8, f"{path} is shorter than its length field")
    (length,) = struct.unpack_from("<Q", content)
    require(8 + length <= len(content), f"the header of {path} is longer than the file")
    header = json.loads(content[8:8 + length])
    metadata = header.pop("__metadata__", {})
    tensors, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        require(begin == end, f"{path}: {name} begins at {begin}, the one before ends at {end}")
        require(entry["dtype"] in _TYPES, f"{path}: {name} has dtype {entry['dtype']}")
        dtype = numpy.dtype(_TYPES[entry["dtype"]])
        count = math.prod(entry["shape"])
        require(stop - begin == count * dtype.itemsize,
                f"{path}: {name} has {stop - begin} bytes for {count} values of {entry['dtype']}")
        values = numpy.frombuffer(content, dtype, count, 8 + length + begin)
        tensors[name] = Tensor(entry["dtype"], values.reshape(entry["shape"]))
        end = stop
    require(8 + length + end == len(content), f"{path} does not end where its last tensor does")
    return metadata, tensors


def read_directory(directory):
    """All tensors of model.safetensors, or of the shards of model.safetensors.index.json."""
    directory = pathlib.Path(directory)
    files = {file.name for file in directory.glob("*.safetensors")}
    index = directory / "model.safetensors.index.json"
    if not index.exists():
        require(files == {"model.safetensors"}, f"{directory} holds {sorted(files)} and no index")
        return read_file(directory / "model.safetensors")[1]
    index = json.loads(index.read_text())
    places = index["weight_map"]
    require(files == set(places.values()),
            f"{directory} holds {sorted(files)}, its index names {sorted(set(places.values()))}")
    tensors = {}
    for file in sorted(files):
        _, held = read_file(directory / file)
        named = {name for name, place in places.items() if place == file}
        require(set(held) == named,
                f"{file} and the index differ in {sorted(set(held) ^ named)}")
        tensors.update(held)
    total = sum(tensor.values.nbytes for tensor in tensors.values())
    require(index["metadata"]["total_size"] == total,
            f"the index says {index['metadata']['total_size']} bytes, the shards hold {total}")
    return tensors


def write_file(path, tensors):
    """One safetensors file."""
    header, parts, end = {"__metadata__": {"format": "pt"}}, [], 0
    for name, tensor in tensors.items():
        part = numpy.ascontiguousarray(tensor.values).astype(_TYPES[tensor.dtype]).tobytes()
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape),
                        "data_offsets": [end, end + len(part)]}
        parts.append(part)
        end += len(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
