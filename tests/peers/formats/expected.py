"""Round to nearest on the min-max grid, by its formulas; shares no line with the engine.

A group of weights w has the range lo = min(w, 0) to hi = max(w, 0); one of zeros has -1 to 1.
Asymmetric: scale = (hi - lo) / (2^bits - 1), zero = round(-lo / scale), from 1 to 2^bits - 1.
Symmetric: scale = max(-lo, hi) / (2^(bits-1) - 1), zero = 2^(bits-1).
code = round(w / scale) + zero, from 0 to 2^bits - 1. All in float32, with the scale as float16
stores it from the start, and half to even; a scale that float16 would store as 0 is its smallest
number.
"""

import numpy

from reader import Layer


def round_to_nearest(weight, scheme):
    """The Layer that a float matrix [out, in] becomes."""
    weight = numpy.asarray(weight, numpy.float32)
    outputs, inputs = weight.shape
    size = inputs if scheme.group_size == -1 else scheme.group_size
    grouped = weight.reshape(outputs, inputs // size, size)
    low = numpy.minimum(grouped.min(-1), numpy.float32(0))
    high = numpy.maximum(grouped.max(-1), numpy.float32(0))
    empty = (low == 0) & (high == 0)
    low[empty], high[empty] = -1, 1

    top = (1 << scheme.bits) - 1
    if scheme.symmetric:
        exact = numpy.maximum(-low, high) / numpy.float32((1 << (scheme.bits - 1)) - 1)
    else:
        exact = (high - low) / numpy.float32(top)
    scales = numpy.maximum(exact.astype(numpy.float16), numpy.float16(2.0 ** -24))
    stored = scales.astype(numpy.float32)
    if scheme.symmetric:
        zeros = numpy.full(scales.shape, 1 << (scheme.bits - 1), numpy.float32)
    else:
        zeros = numpy.clip(numpy.rint(-low / stored), 1, top)
    codes = numpy.clip(numpy.rint(grouped / stored[..., None]) + zeros[..., None], 0, top)
    values = stored[..., None] * (codes - zeros[..., None])
    assert values.dtype == codes.dtype == numpy.float32
    return Layer(codes.reshape(weight.shape).astype(numpy.int32), zeros.astype(numpy.int32), scales,
                 values.reshape(weight.shape))
