"""The reader, on words that were worked out by hand from the formats' descriptions."""

import json
import pathlib
import shutil
import struct
import tempfile
import unittest

import numpy

import fields
import reader
import tensors
from reader import Scheme
from tensors import FormatError, Tensor

# Toy group of 8 at 4 bits, asymmetric: scale 0x307b, zero point 5.
TOY_WORD = 0x2B54F750
TOY_CODES = [0, 5, 7, 15, 4, 5, 11, 2]
TOY_SCALE = 0x307B
TOY_WEIGHT = [-0.700073, 0, 0.280029, 1.400146, -0.140015, 0, 0.840088, -0.420044]
# Zero points of 8 columns, among them 0, which version 1 of GPTQ cannot hold.
POINTS = [5, 0, 1, 8, 15, 7, 3, 12]
POINTS_WORD = 0xC37F8105
POINTS_LESS_ONE_BY_FIELD = 0xB26E70F4
POINTS_LESS_ONE_BY_WORD = 0xB26E6FF4
# Codes 0..7 four times at 3 bits, and 0..3 four times at 2.
EIGHT_VALUES = [0x88FAC688, 0xC688FAC6, 0xFAC688FA]
FOUR_VALUES = 0xE4E4E4E4
# Signed codes [-8, -7, -1, 0, 1, 2, 6, 7] as compressed-tensors stores them.
SIGNED_WORD = 0xFEA98710
SIGNED = [-8, -7, -1, 0, 1, 2, 6, 7]
# 2^(bits-1) - 1 in every field: the zero points of symmetric grids in version 1 of GPTQ.
MIDDLE_LESS_ONE = {2: [0x55555555], 3: [0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D], 4: [0x77777777],
                   8: [0x7F7F7F7F]}


def words(rows):
    """Unsigned words as stored int32."""
    return Tensor("I32", numpy.array(rows, numpy.uint32).view(numpy.int32))


def halves(bits, shape):
    """One float16 everywhere, by its bits."""
    return Tensor("F16", numpy.full(shape, bits, numpy.uint16).view(numpy.float16))


def unpacked(row, bits, count):
    return fields.unpack(words(row).values, bits, count, 0).tolist()


def gptq_settings(bits=4, group_size=-1, sym=False, **changes):
    return {"quant_method": "gptq", "bits": bits, "group_size": group_size, "sym": sym,
            "desc_act": False, "checkpoint_format": "gptq", "lm_head": False, **changes}


def awq_settings(**changes):
    return {"quant_method": "awq", "bits": 4, "group_size": -1, "zero_point": True,
            "version": "gemm", "modules_to_not_convert": None, **changes}


def group_settings(bits=4, group_size=None, symmetric=False, targets=("Linear",)):
    return {"targets": list(targets), "input_activations": None, "output_activations": None,
            "weights": {"num_bits": bits, "type": "int", "symmetric": symmetric,
                        "strategy": "channel" if group_size is None else "group",
                        "group_size": group_size, "actorder": None, "dynamic": False}}


def compressed_settings(*groups, ignore=("lm_head",)):
    return {"quant_method": "compressed-tensors", "format": "pack-quantized",
            "quantization_status": "compressed", "ignore": list(ignore),
            "config_groups": {f"group_{i}": group for i, group in enumerate(groups)}}


def gptq_toy():
    """Outputs: the toy group, the signed codes, six times the zero points' word."""
    return {"m.qweight": words([[TOY_WORD, SIGNED_WORD] + [POINTS_WORD] * 6]),
            # Zero points [5, 1, 1, 8, 15, 7, 3, 12] less one.
            "m.qzeros": words([[0xB26E7004]]), "m.scales": halves(TOY_SCALE, [1, 8]),
            "m.g_idx": Tensor("I32", numpy.zeros(8, numpy.int32))}


def compressed_toy():
    """Outputs: the toy group with zero point 5, the signed codes with 8."""
    return {"m.weight_packed": words([[TOY_WORD], [SIGNED_WORD]]),
            "m.weight_zero_point": words([[0x85]]), "m.weight_scale": halves(TOY_SCALE, [2, 1]),
            "m.weight_shape": Tensor("I64", numpy.array([2, 8]))}


class DirectoryTest(unittest.TestCase):
    def setUp(self):
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="teqd-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def read(self, settings, stored):
        (self.directory / "config.json").write_text(json.dumps(
            {"quantization_config": settings} if settings else {}))
        tensors.write_file(self.directory / "model.safetensors", stored)
        return reader.read(self.directory)

    def layer(self, settings, stored):
        return self.read(settings, stored).layers["m"]

    def assert_refused(self, words_, settings, stored):
        with self.assertRaisesRegex(FormatError, words_):
            self.read(settings, stored)


class FieldsTest(unittest.TestCase):
    def test_words_hold_fields_from_the_lowest_bit_on(self):
        self.assertEqual(unpacked([TOY_WORD], 4, 8), TOY_CODES)
        self.assertEqual(unpacked([POINTS_WORD], 4, 8), POINTS)
        self.assertEqual(unpacked(EIGHT_VALUES, 3, 32), list(range(8)) * 4)
        self.assertEqual(unpacked([FOUR_VALUES], 2, 16), list(range(4)) * 4)
        self.assertEqual(unpacked([0xFF800201], 8, 4), [1, 2, 128, 255])
        self.assertEqual([field - 8 for field in unpacked([SIGNED_WORD], 4, 8)], SIGNED)

    def test_zero_points_less_one_are_read_field_by_field(self):
        def plus_one(word):
            return [field + 1 for field in unpacked([word], 4, 8)]

        self.assertEqual(plus_one(POINTS_LESS_ONE_BY_FIELD), [5, 16, 1, 8, 15, 7, 3, 12])
        self.assertEqual(plus_one(POINTS_LESS_ONE_BY_WORD)[:5], [5, 16, 16, 7, 15])
        for bits, row in MIDDLE_LESS_ONE.items():
            count = 32 * len(row) // bits
            self.assertEqual(unpacked(row, bits, count), [(1 << (bits - 1)) - 1] * count)

    def test_awq_interleaves_the_columns_of_a_word(self):
        for word, columns in ((0x07651423, [3, 5, 2, 6, 4, 7, 1, 0]), (0xC7803F15, POINTS)):
            self.assertEqual(fields.unpack_awq(words([word]).values, 8).tolist(), columns)
        self.assertEqual(unpacked([0x01746253], 4, 8), [3, 5, 2, 6, 4, 7, 1, 0])

    def test_a_stream_may_end_within_a_word_but_only_in_zeros(self):
        self.assertEqual(unpacked([EIGHT_VALUES[0] & 0xFFFFFF], 3, 8), list(range(8)))
        with self.assertRaisesRegex(FormatError, "behind the last field"):
            unpacked([EIGHT_VALUES[0]], 3, 8)
        with self.assertRaisesRegex(FormatError, "lie in 2 words"):
            unpacked(EIGHT_VALUES[:2], 3, 32)


class GptqTest(DirectoryTest):
    def test_four_bits(self):
        layer = self.layer(gptq_settings(), gptq_toy())
        self.assertEqual(layer.codes[0].tolist(), TOY_CODES)
        self.assertEqual((layer.codes[1] - 8).tolist(), SIGNED)
        self.assertEqual(layer.zeros.T.tolist(), [[5, 1, 1, 8, 15, 7, 3, 12]])
        self.assertEqual(layer.scales.view(numpy.uint16).tolist(), [[TOY_SCALE]] * 8)
        self.assertEqual(layer.weight.dtype, numpy.float32)
        numpy.testing.assert_allclose(layer.weight[0], TOY_WEIGHT, atol=5e-7)
        self.assertEqual(layer.weight[0, 3], numpy.float32(0.1400146484375) * 10)

    def test_the_other_widths(self):
        for bits, row, codes in ((2, [FOUR_VALUES], [0, 1, 2, 3]), (3, EIGHT_VALUES, range(8)),
                                 (8, [0xFF800201], [1, 2, 128, 255])):
            count = 32 * len(row) // bits
            layer = self.layer(gptq_settings(bits, sym=True), {
                "m.qweight": words([[word] * count for word in row]),
                "m.qzeros": words([MIDDLE_LESS_ONE[bits]]),
                "m.scales": halves(TOY_SCALE, [1, count]),
                "m.g_idx": Tensor("I32", numpy.zeros(count, numpy.int32))})
            self.assertEqual(layer.codes.tolist(), [list(codes) * (count // len(codes))] * count)
            self.assertEqual(layer.zeros.tolist(), [[1 << (bits - 1)]] * count)

    def test_groups_divide_the_columns(self):
        stored = gptq_toy() | {
            "m.qzeros": words([[0x77777777], [0x00000000]]),
            "m.scales": Tensor("F16", numpy.array([[1] * 8, [0.5] * 8], numpy.float16)),
            "m.g_idx": Tensor("I32", numpy.array([0, 0, 0, 0, 1, 1, 1, 1], numpy.int32))}
        layer = self.layer(gptq_settings(group_size=4), stored)
        self.assertEqual(layer.zeros[0].tolist(), [8, 1])
        self.assertEqual(layer.weight[0].tolist(), [-8, -3, -1, 7, 1.5, 2, 5, 0.5])

    def test_act_order_takes_the_group_from_g_idx(self):
        stored = gptq_toy() | {
            "m.qzeros": words([[0x77777777], [0x00000000]]),
            "m.scales": Tensor("F16", numpy.array([[1] * 8, [0.5] * 8], numpy.float16)),
            "m.g_idx": Tensor("I32", numpy.array([0, 1, 0, 1, 0, 1, 0, 1], numpy.int32))}
        layer = self.layer(gptq_settings(group_size=4, desc_act=True), stored)
        self.assertEqual(layer.weight[0].tolist(), [-8, 2, -1, 7, -4, 2, 3, 0.5])
        self.assert_refused("out of order", gptq_settings(group_size=4), stored)

    def test_dynamic_rules_hold_by_the_first_that_matches(self):
        checkpoint = self.read(gptq_settings(group_size=32, dynamic={
            r"-:^block\.1\.down$": {}, r"+:.*\.down$": {"bits": 8, "group_size": -1},
            r"block\.2\.": {"sym": True}}), {})
        for module, scheme in {"block.0.up": Scheme(4, 32, False), "block.1.down": None,
                               "block.2.down": Scheme(8, -1, False), "lm_head": None,
                               "block.2.up": Scheme(4, 32, True)}.items():
            self.assertEqual(checkpoint.scheme(module), scheme, module)

    def test_what_version_1_does_not_say_is_refused(self):
        toy = gptq_toy()
        self.assert_refused("zero points from 1 to 16", gptq_settings(),
                            toy | {"m.qzeros": words([[POINTS_LESS_ONE_BY_FIELD]])})
        self.assert_refused("other zero points", gptq_settings(sym=True), toy)
        self.assert_refused("checkpoint_format", gptq_settings(checkpoint_format="gptq_v2"), toy)
        self.assert_refused("leaves it float", gptq_settings(dynamic={"-:^m$": {}}), toy)
        self.assert_refused("no g_idx", gptq_settings(),
                            {name: toy[name] for name in toy if name != "m.g_idx"})
        self.assert_refused("plain weight too", gptq_settings(),
                            toy | {"m.weight": halves(0, [8, 8])})
        self.assert_refused("qweight is", gptq_settings(bits=8), toy)
        self.assert_refused("scales is F32", gptq_settings(),
                            toy | {"m.scales": Tensor("F32", numpy.ones([1, 8]))})
        self.assert_refused("groups of 3", gptq_settings(group_size=3), toy)
        # 10 fields of 3 bits in a word, as some programs pack them: 4 words for 32 columns.
        self.assert_refused(r"qweight is \[4, 32\], not \[3, 32\]", gptq_settings(3, sym=True), {
            "m.qweight": words([[word] * 32
                                for word in (0x08FAC688, 0x1A23EB1A, 0x2C688FAC, 0x3E)]),
            "m.qzeros": words([MIDDLE_LESS_ONE[3]]), "m.scales": halves(TOY_SCALE, [1, 32]),
            "m.g_idx": Tensor("I32", numpy.zeros(32, numpy.int32))})


class AwqTest(DirectoryTest):
    def toy(self):
        return {"m.qweight": words([[0x07651423], [0xC7803F15]]), "m.qzeros": words([[0xC7803F15]]),
                "m.scales": halves(0x3C00, [1, 8])}

    def test_codes_and_zero_points_are_interleaved_and_stored_as_they_are(self):
        layer = self.layer(awq_settings(), self.toy())
        self.assertEqual(layer.codes.T.tolist(), [[3, 5, 2, 6, 4, 7, 1, 0], POINTS])
        self.assertEqual(layer.zeros.T.tolist(), [POINTS])
        self.assertEqual(layer.weight.T.tolist(),
                         [[-2, 5, 1, -2, -11, 0, -2, -12], [0] * 8])

    def test_modules_to_not_convert_are_parts_of_names(self):
        checkpoint = self.read(awq_settings(modules_to_not_convert=["block.1.up"]), {})
        self.assertIsNone(checkpoint.scheme("model.block.1.up"))
        self.assertEqual(checkpoint.scheme("model.block.2.up"), Scheme(4, -1, False))

    def test_what_gemm_does_not_say_is_refused(self):
        self.assert_refused("8 bits", awq_settings(bits=8), self.toy())
        self.assert_refused("gemv", awq_settings(version="gemv"), self.toy())
        self.assert_refused("zero points", awq_settings(zero_point=False), self.toy())
        self.assert_refused("leaves it float", awq_settings(modules_to_not_convert=["m"]),
                            self.toy())
        self.assert_refused("qweight is", awq_settings(),
                            self.toy() | {"m.scales": halves(0x3C00, [1, 16])})


class CompressedTensorsTest(DirectoryTest):
    def test_four_bits(self):
        layer = self.layer(compressed_settings(group_settings()), compressed_toy())
        self.assertEqual(layer.codes[0].tolist(), TOY_CODES)
        self.assertEqual((layer.codes[1] - layer.zeros[1]).tolist(), SIGNED)
        self.assertEqual(layer.zeros.tolist(), [[5], [8]])
        self.assertEqual(layer.scales.view(numpy.uint16).tolist(), [[TOY_SCALE]] * 2)
        numpy.testing.assert_allclose(layer.weight[0], TOY_WEIGHT, atol=5e-7)

    def test_zero_points_are_a_stream_along_the_outputs(self):
        layer = self.layer(compressed_settings(group_settings(3)), {
            "m.weight_packed": words([EIGHT_VALUES] * 32),
            "m.weight_zero_point": words([[word] for word in EIGHT_VALUES]),
            "m.weight_scale": halves(0x3C00, [32, 1]),
            "m.weight_shape": Tensor("I64", numpy.array([32, 32]))})
        self.assertEqual(layer.codes.tolist(), [list(range(8)) * 4] * 32)
        self.assertEqual(layer.zeros[:, 0].tolist(), list(range(8)) * 4)

    def test_the_other_widths_and_rows_that_end_within_a_word(self):
        for bits, row, codes in ((2, [FOUR_VALUES], [0, 1, 2, 3] * 4),
                                 (3, [EIGHT_VALUES[0] & 0xFFFFFF], list(range(8))),
                                 (8, [0xFF800201], [1, 2, 128, 255])):
            layer = self.layer(compressed_settings(group_settings(bits, symmetric=True)), {
                "m.weight_packed": words([row]), "m.weight_scale": halves(0x3C00, [1, 1]),
                "m.weight_shape": Tensor("I64", numpy.array([1, len(codes)]))})
            self.assertEqual(layer.codes.tolist(), [codes])
            self.assertEqual(layer.weight.tolist(), [[code - (1 << (bits - 1)) for code in codes]])

    def test_groups_divide_the_columns(self):
        layer = self.layer(compressed_settings(group_settings(group_size=4)), compressed_toy() | {
            "m.weight_zero_point": words([[0x88, 0x11]]),
            "m.weight_scale": Tensor("F16", numpy.array([[1, 0.5]] * 2, numpy.float16))})
        self.assertEqual(layer.weight[0].tolist(), [-8, -3, -1, 7, 1.5, 2, 5, 0.5])

    def test_a_name_comes_before_a_pattern_and_a_pattern_before_the_class(self):
        checkpoint = self.read(compressed_settings(
            group_settings(4, 32), group_settings(8, None, True, [r"re:.*\.down$"]),
            group_settings(3, 32, False, ["block.2.down"]),
            ignore=["lm_head", r"re:block\.1\."]), {})
        for module, scheme in {"block.0.up": Scheme(4, 32, False), "block.1.down": None,
                               "block.2.down": Scheme(3, 32, False), "lm_head": None,
                               "block.0.down": Scheme(8, -1, True)}.items():
            self.assertEqual(checkpoint.scheme(module), scheme, module)

    def test_what_pack_quantized_does_not_say_is_refused(self):
        toy, settings = compressed_toy(), compressed_settings(group_settings())
        self.assert_refused("symmetric, with zero points",
                            compressed_settings(group_settings(symmetric=True)), toy)
        self.assert_refused("no weight_zero_point", settings,
                            {name: toy[name] for name in toy if name != "m.weight_zero_point"})
        self.assert_refused("weight_g_idx", settings,
                            toy | {"m.weight_g_idx": Tensor("I32", numpy.zeros(8, numpy.int32))})
        self.assert_refused("leaves it float",
                            compressed_settings(group_settings(), ignore=["m"]), toy)
        self.assert_refused("several schemes", compressed_settings(
            group_settings(4, targets=["re:m"]), group_settings(8, targets=["re:.*"])), toy)
        self.assert_refused("weight_packed is", settings,
                            toy | {"m.weight_shape": Tensor("I64", numpy.array([2, 16]))})


class TensorsTest(DirectoryTest):
    def test_plain_directories_have_no_packed_layers(self):
        weight = halves(TOY_SCALE, [2, 8])
        checkpoint = self.read(None, {"m.weight": weight})
        self.assertEqual((checkpoint.layers, list(checkpoint.floats)), ({}, ["m.weight"]))
        self.assertTrue(checkpoint.floats["m.weight"].same(weight))
        self.assertFalse(checkpoint.floats["m.weight"].same(halves(TOY_SCALE, [8, 2])))
        self.assertFalse(checkpoint.floats["m.weight"].same(halves(TOY_SCALE + 1, [2, 8])))

    def test_bfloat16_is_the_upper_half_of_float32_rounded_half_to_even(self):
        values = [1 + 2 ** -8, 1 + 3 * 2 ** -8, 1 + 2 ** -8 + 2 ** -16, -0.0, -3.0]
        rounded = tensors.from_floats("BF16", values)
        self.assertEqual(rounded.values.tolist(), [0x3F80, 0x3F82, 0x3F81, 0x8000, 0xC040])
        self.assertEqual(rounded.floats().tolist(), [1, 1 + 2 ** -6, 1 + 2 ** -7, 0, -3])

    def write_shards(self, places, total):
        for number, names in enumerate((["a", "b"], ["c"])):
            tensors.write_file(self.directory / f"model-{number}.safetensors",
                               {name: halves(number, [2]) for name in names})
        (self.directory / "model.safetensors.index.json").write_text(json.dumps(
            {"metadata": {"total_size": total}, "weight_map": places}))

    def test_shards_are_what_their_index_says(self):
        places = {"a": "model-0.safetensors", "b": "model-0.safetensors",
                  "c": "model-1.safetensors"}
        self.write_shards(places, 12)
        self.assertEqual(set(tensors.read_directory(self.directory)), {"a", "b", "c"})
        for wrong, total, words_ in (
                (places | {"b": "model-1.safetensors"}, 12, "differ in"),
                (places | {"d": "model-1.safetensors"}, 12, "differ in"),
                ({"c": "model-1.safetensors"}, 12, "its index names"), (places, 13, "13 bytes")):
            self.write_shards(wrong, total)
            with self.assertRaisesRegex(FormatError, words_):
                tensors.read_directory(self.directory)
        (self.directory / "model.safetensors.index.json").unlink()
        with self.assertRaisesRegex(FormatError, "no index"):
            tensors.read_directory(self.directory)

    def test_data_is_covered_without_holes(self):
        def write(entries, size):
            header = json.dumps(entries).encode()
            path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))

        def entry(begin, end, shape):
            return {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}

        path = self.directory / "model.safetensors"
        write({"a": entry(0, 4, [2]), "b": entry(4, 6, [1])}, 6)
        self.assertEqual(set(tensors.read_directory(self.directory)), {"a", "b"})
        for entries, size, words_ in (
                ({"a": entry(0, 4, [2]), "b": entry(6, 8, [1])}, 8, "begins at 6"),
                ({"a": entry(0, 4, [2]), "b": entry(2, 6, [2])}, 6, "begins at 2"),
                ({"a": entry(0, 4, [3])}, 4, "4 bytes for 3 values"),
                ({"a": entry(0, 4, [2])}, 6, "does not end")):
            write(entries, size)
            with self.assertRaisesRegex(FormatError, words_):
                tensors.read_directory(self.directory)


if __name__ == "__main__":
    unittest.main()
