"""A reader of quantized checkpoint directories: GPTQ v1, AWQ gemm, compressed-tensors
pack-quantized, and plain floats. Written from the formats' descriptions; shares no line with the
engine.

It takes nothing on trust: a tensor of the wrong type or shape, a missing or additional part, a
packed layer that the configuration calls float, or an unknown setting is a FormatError.
"""

import json
import pathlib
import re
from typing import Callable, Dict, NamedTuple, Optional

import numpy

import fields
import tensors
from tensors import require


class Scheme(NamedTuple):
    """How one layer is quantized; group_size -1 is the whole row."""

    bits: int
    group_size: int
    symmetric: bool


class Layer(NamedTuple):
    """A packed layer of [out, in]: weight = scale * (code - zero), which float32 holds exactly."""

    codes: numpy.ndarray  # [out, in], int32
    zeros: numpy.ndarray  # [out, groups], int32
    scales: numpy.ndarray  # [out, groups], float16
    weight: numpy.ndarray  # [out, in], float32


class Checkpoint(NamedTuple):
    """What a directory holds."""

    config: dict
    layers: Dict[str, Layer]
    floats: Dict[str, tensors.Tensor]  # every tensor that is not a part of a packed layer
    scheme: Callable[[str], Optional[Scheme]]  # of a linear layer; None where it is left float


def read(directory):
    """The checkpoint in a directory."""
    directory = pathlib.Path(directory)
    config = json.loads((directory / "config.json").read_text())
    stored = tensors.read_directory(directory)
    settings = config.get("quantization_config")
    if settings is None:
        return Checkpoint(config, {}, stored, lambda module: None)
    known = {"gptq": Gptq, "awq": Awq, "compressed-tensors": CompressedTensors}
    method = settings.get("quant_method")
    require(method in known, f"quant_method is {method!r}")
    packing = known[method](settings)
    packed, floats = {}, {}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        if part in packing.parts:
            packed.setdefault(module, {})[part] = tensor
        else:
            floats[name] = tensor
    layers = {}
    for module, parts in packed.items():
        scheme = packing.scheme(module)
        require(scheme is not None, f"{module} is packed, but the configuration leaves it float")
        require(module + ".weight" not in floats, f"{module} is packed and has a plain weight too")
        try:
            layers[module] = packing.layer(parts, scheme)
        except tensors.FormatError as error:
            raise tensors.FormatError(f"{module}: {error}") from error
    return Checkpoint(config, layers, floats, packing.scheme)


def _take(parts, name, dtype):
    require(name in parts, f"no {name}")
    require(parts[name].dtype == dtype, f"{name} is {parts[name].dtype}, not {dtype}")
    return parts[name].values


def _expect_shape(name, values, shape):
    require(values.shape == tuple(shape), f"{name} is {list(values.shape)}, not {list(shape)}")


def _groups(inputs, group_size):
    if group_size == -1:
        return 1
    require(group_size > 0 and inputs % group_size == 0,
            f"{inputs} columns do not divide into groups of {group_size}")
    return inputs // group_size


def _layer(codes, zeros, scales, scheme, group_of_column=None):
    """Of codes [out, in], zeros and scales [out, groups]."""
    inputs = codes.shape[1]
    if group_of_column is None:
        group_of_column = numpy.arange(inputs) // (inputs // scales.shape[1])
    require(zeros.min() >= 0 and zeros.max() < 1 << scheme.bits,
            f"zero points from {zeros.min()} to {zeros.max()} at {scheme.bits} bits")
    if scheme.symmetric:  # loaders do not look at the stored zero points then
        require((zeros == 1 << (scheme.bits - 1)).all(), "symmetric, with other zero points")
    require(numpy.isfinite(scales).all(), "a scale is not finite")
    steps = (codes - zeros[:, group_of_column]).astype(numpy.float32)
    weight = scales.astype(numpy.float32)[:, group_of_column] * steps
    return Layer(codes, zeros, scales, weight)


class Gptq:
    """Checkpoint format v1: zero points are stored less one, field by field."""

    parts = {"qweight", "qzeros", "scales", "g_idx"}

    def __init__(self, settings):
        self._base = Scheme(settings["bits"], settings["group_size"], settings["sym"])
        self._dynamic = settings.get("dynamic") or {}
        self._lm_head = settings["lm_head"]
        self._act_order = settings["desc_act"]
        version = settings.get("checkpoint_format", "gptq")
        require(version == "gptq", f"checkpoint_format is {version!r}")

    def scheme(self, module):
        """By the first rule of `dynamic` whose pattern matches from the name's start."""
        if module == "lm_head" and not self._lm_head:
            return None
        for rule, changes in self._dynamic.items():
            if not re.match(re.sub(r"^[+-]:", "", rule), module):
                continue
            if rule.startswith("-:"):
                return None
            require(set(changes) <= {"bits", "group_size", "sym"},
                    f"{rule} changes {sorted(changes)}")
            return Scheme(changes.get("bits", self._base.bits),
                          changes.get("group_size", self._base.group_size),
                          changes.get("sym", self._base.symmetric))
        return self._base

    def layer(self, parts, scheme):
        scales = _take(parts, "scales", "F16")
        group_of_column = _take(parts, "g_idx", "I32")
        qweight, qzeros = _take(parts, "qweight", "I32"), _take(parts, "qzeros", "I32")
        require(group_of_column.ndim == 1, "g_idx is no vector")
        inputs, outputs = len(group_of_column), scales.shape[-1]
        groups = _groups(inputs, scheme.group_size)
        require(inputs * scheme.bits % 32 == 0 and outputs * scheme.bits % 32 == 0,
                f"{outputs} x {inputs} codes of {scheme.bits} bits do not fill words")
        _expect_shape("scales", scales, [groups, outputs])
        _expect_shape("qweight", qweight, [inputs * scheme.bits // 32, outputs])
        _expect_shape("qzeros", qzeros, [groups, outputs * scheme.bits // 32])
        plain_order = numpy.arange(inputs) // (inputs // groups)
        require(self._act_order or (group_of_column == plain_order).all(),
                "g_idx is out of order without desc_act")
        require(0 <= group_of_column.min() and group_of_column.max() < groups,
                "g_idx names groups that are not there")
        codes = fields.unpack(qweight, scheme.bits, inputs, 0).T
        zeros = fields.unpack(qzeros, scheme.bits, outputs, 1).T + 1
        return _layer(codes, zeros, scales.T, scheme, group_of_column)


class Awq:
    """Version gemm: 4 bits, codes and zero points along the columns, interleaved in every word."""

    parts = {"qweight", "qzeros", "scales"}

    def __init__(self, settings):
        require(settings["bits"] == 4, f"AWQ with {settings['bits']} bits")
        require(settings["version"] == "gemm", f"version is {settings['version']!r}")
        require(settings["zero_point"] is True, "without zero points")
        self._scheme = Scheme(4, settings["group_size"], False)
        self._float = settings.get("modules_to_not_convert") or []

    def scheme(self, module):
        """None where an entry of modules_to_not_convert is a part of the name."""
        return None if any(entry in module for entry in self._float) else self._scheme

    def layer(self, parts, scheme):
        scales = _take(parts, "scales", "F16")
        qweight, qzeros = _take(parts, "qweight", "I32"), _take(parts, "qzeros", "I32")
        inputs, outputs = qweight.shape[0], scales.shape[-1]
        groups = _groups(inputs, scheme.group_size)
        require(outputs % 8 == 0, f"{outputs} outputs do not fill words of 8")
        _expect_shape("scales", scales, [groups, outputs])
        _expect_shape("qweight", qweight, [inputs, outputs // 8])
        _expect_shape("qzeros", qzeros, [groups, outputs // 8])
        return _layer(fields.unpack_awq(qweight, outputs).T, fields.unpack_awq(qzeros, outputs).T,
                      scales.T, scheme)


class CompressedTensors:
    """pack-quantized: signed codes are stored plus 2^(bits-1), so fields are codes, and zero points
    are those of the other formats."""

    parts = {"weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"}

    def __init__(self, settings):
        require(settings["format"] == "pack-quantized", f"format is {settings['format']!r}")
        require(settings["quantization_status"] == "compressed", "not compressed")
        self._ignore = settings["ignore"]
        self._groups = [(group["targets"], self._group_scheme(name, group))
                        for name, group in settings["config_groups"].items()]

    @staticmethod
    def _group_scheme(name, group):
        require(group.get("input_activations") is None and group.get("output_activations") is None,
                f"{name} quantizes activations")
        weights = group["weights"]
        require(weights["type"] == "int" and not weights["dynamic"] and weights["actorder"] is None,
                f"{name}: {weights}")
        require(weights["strategy"] in ("group", "channel"), f"{name}: {weights['strategy']}")
        by_row = weights["strategy"] == "channel"
        require(by_row == (weights["group_size"] is None),
                f"{name}: {weights['strategy']} with group_size {weights['group_size']}")
        return Scheme(weights["num_bits"], -1 if by_row else weights["group_size"],
                      weights["symmetric"])

    @staticmethod
    def _rank(module, target):
        """How closely a target names a linear layer: 0 by name, 1 by pattern, 2 by class."""
        if target.startswith("re:"):
            return 1 if re.match(target[3:], module) else None
        return {module: 0, "Linear": 2}.get(target)

    def scheme(self, module):
        if any(self._rank(module, entry) is not None for entry in self._ignore):
            return None
        found = {}
        for targets, scheme in self._groups:
            for rank in {self._rank(module, target) for target in targets} - {None}:
                found.setdefault(rank, set()).add(scheme)
        if not found:
            return None
        closest = found[min(found)]
        require(len(closest) == 1, f"{module} has several schemes: {sorted(closest)}")
        return next(iter(closest))

    def layer(self, parts, scheme):
        require("weight_g_idx" not in parts, "weight_g_idx without actorder")
        scales = _take(parts, "weight_scale", "F16")
        shape = _take(parts, "weight_shape", "I64")
        _expect_shape("weight_shape", shape, [2])
        outputs, inputs = (int(size) for size in shape)
        groups = _groups(inputs, scheme.group_size)
        _expect_shape("weight_scale", scales, [outputs, groups])
        packed = _take(parts, "weight_packed", "I32")
        _expect_shape("weight_packed", packed, [outputs, -(-inputs * scheme.bits // 32)])
        if scheme.symmetric:
            require("weight_zero_point" not in parts, "symmetric, with zero points")
            zeros = numpy.full([outputs, groups], 1 << (scheme.bits - 1), numpy.int32)
        else:
            points = _take(parts, "weight_zero_point", "I32")
            _expect_shape("weight_zero_point", points, [-(-outputs * scheme.bits // 32), groups])
            zeros = fields.unpack(points, scheme.bits, outputs, 0)
        return _layer(fields.unpack(packed, scheme.bits, inputs, 1), zeros, scales, scheme)
