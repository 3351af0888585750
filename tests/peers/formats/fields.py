"""Unsigned fields of 2, 3, 4 or 8 bits in 32-bit words."""

import numpy

from tensors import require

# The column of every nibble of an AWQ word, from the lowest nibble on.
AWQ_COLUMNS = [0, 2, 4, 6, 1, 3, 5, 7]


def unpack(words, bits, count, axis):
    """`count` fields along `axis` of int32 words: a dense stream from the lowest bit on, in which a
    field may lie in two words. What follows the last field must be zero."""
    words = numpy.moveaxis(numpy.asarray(words), axis, -1)
    require(words.dtype == numpy.int32, f"words are {words.dtype}")
    require(words.shape[-1] == -(-count * bits // 32),
            f"{count} fields of {bits} bits lie in {words.shape[-1]} words")
    bytes_ = numpy.ascontiguousarray(words, "<i4").view(numpy.uint8)
    stream = numpy.unpackbits(bytes_, axis=-1, bitorder="little")
    require(not stream[..., count * bits:].any(), "bits behind the last field are set")
    by_field = numpy.zeros([*words.shape[:-1], count, 8], numpy.uint8)
    by_field[..., :bits] = stream[..., :count * bits].reshape(*words.shape[:-1], count, bits)
    fields = numpy.packbits(by_field, axis=-1, bitorder="little")[..., 0].astype(numpy.int32)
    return numpy.moveaxis(fields, -1, axis)


def unpack_awq(words, count):
    """`count` nibbles along the last axis of AWQ's words, in the columns' order."""
    stored = unpack(words, 4, count, -1)
    require(count % 8 == 0, f"{count} columns do not fill words of 8")
    by_word = stored.reshape(*stored.shape[:-1], count // 8, 8)
    columns = numpy.empty_like(by_word)
    columns[..., AWQ_COLUMNS] = by_word
    return columns.reshape(stored.shape)
