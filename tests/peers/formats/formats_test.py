"""What one job publishes in several formats is what the formulas of plain rounding say.

Every code, zero point and scale is known beforehand from the source's weights; what was published
is read by a program that shares nothing with the engine.
"""

import json
import re
import unittest

import numpy

import expected
import reader
import tensors
from harness import models, programs
from reader import Scheme

PACKED = ("GPTQ", "COMPRESSED_TENSORS")
FOUR_BITS = ("GPTQ", "AWQ", "COMPRESSED_TENSORS")


def weights(scheme):
    """A grid as a job file writes it."""
    return {"bits": scheme.bits, "group_size": scheme.group_size, "symmetric": scheme.symmetric}


class Source:
    """A checkpoint to quantize, and a text for it."""

    def __init__(self, directory, calibration):
        self.directory = directory
        self.calibration = calibration
        self.config = json.loads((directory / "config.json").read_text())
        self.tensors = tensors.read_directory(directory)
        self.linear = set(models.linear_shapes(self.config))

    @property
    def published_dtype(self):
        """Float32 is published as float16."""
        return {"float16": "F16", "bfloat16": "BF16", "float32": "F16"}[self.config["torch_dtype"]]

    def published(self, values):
        """float32 values as a published float tensor."""
        return tensors.from_floats(self.published_dtype, values)


class PublishedFormatsTest(programs.HouseTest):
    def setUp(self):
        super().setUp()
        self.calibration = self.house.root / "calibration.txt"
        self.calibration.write_text(models.random_text(800, seed=2))

    def publish(self, source, base, formats, overrides=()):
        """Runs one job; its output directory."""
        output = self.house.root / "output"
        file = self.house.root / "job.yaml"
        file.write_text(json.dumps({
            "model": {"uri": programs.file_uri(source.directory)},
            "recipe": {"weights": weights(base), "rounding": {"nearest": {}},
                       "overrides": list(overrides)},
            "calibration": {"uri": programs.file_uri(source.calibration), "samples": 1,
                            "sequence_length": 32},
            "evaluation": {"sequence_length": 32},
            "output": {"uri": programs.file_uri(output), "formats": list(formats)},
        }))
        answer = programs.run("teq-worker", "run", "--job", file, directory=self.house.root)
        self.assertEqual(answer.code, 0, answer)
        return output

    def check(self, source, base, packed, overrides=(), changes=()):
        """Publishes and compares everything. `changes`: pairs of a pattern and the Scheme, or None,
        that layers which it matches have instead of `base`; the last that matches holds."""
        schemes = dict.fromkeys(source.linear, base)
        for pattern, scheme in changes:
            schemes.update({name: scheme for name in schemes if re.fullmatch(pattern, name)})
        wanted = {name: expected.round_to_nearest(source.tensors[name + ".weight"].floats(), scheme)
                  for name, scheme in schemes.items() if scheme}
        formats = [*packed, "DEQUANTIZED"]
        output = self.publish(source, base, formats, overrides)
        manifest = self.assert_published(output)
        self.assertEqual([entry["format"] for entry in manifest["artifacts"]], formats)
        for artifact in manifest["artifacts"]:
            with self.subTest(artifact["format"]):
                directory = output / artifact["format"].lower()
                self.assertEqual(artifact["path"], str(directory))
                checkpoint = reader.read(directory)
                self.assert_copied(source, directory, checkpoint)
                if artifact["format"] == "DEQUANTIZED":
                    self.assert_plain(source, checkpoint, wanted)
                    continue
                self.assertTrue(artifact["exact"])
                self.assert_packed(source, checkpoint, wanted)
                assert_settings = {"GPTQ": self.assert_gptq_settings,
                                   "AWQ": self.assert_awq_settings,
                                   "COMPRESSED_TENSORS": self.assert_compressed_tensors_settings}
                assert_settings[artifact["format"]](checkpoint, base, schemes, directory)

    def assert_copied(self, source, directory, checkpoint):
        """The model's own settings and its tokenizer are the source's."""
        config = {key: value for key, value in checkpoint.config.items()
                  if key != "quantization_config"}
        dtype = {"F16": "float16", "BF16": "bfloat16"}[source.published_dtype]
        self.assertEqual(config, source.config | {"torch_dtype": dtype})
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
            if (source.directory / name).exists():
                self.assertEqual((directory / name).read_bytes(),
                                 (source.directory / name).read_bytes())

    def assert_floats(self, source, checkpoint, names):
        """Exactly these tensors are plain, and they are the source's."""
        self.assertEqual(set(checkpoint.floats), names)
        for name in names:
            self.assertTrue(checkpoint.floats[name].same(
                source.published(source.tensors[name].floats())), name)

    def assert_packed(self, source, checkpoint, wanted):
        self.assertEqual(set(checkpoint.layers), set(wanted))
        for name, want in wanted.items():
            self.assert_same_layer(name, checkpoint.layers[name], want)
        self.assert_floats(source, checkpoint,
                           set(source.tensors) - {name + ".weight" for name in wanted})

    def assert_same_layer(self, name, found, want):
        for part in want._fields:
            one, other = getattr(found, part), getattr(want, part)
            self.assertEqual((one.dtype, one.shape), (other.dtype, other.shape), f"{name}: {part}")
            if one.tobytes() != other.tobytes():
                places = [tuple(map(int, place)) for place in numpy.argwhere(one != other)]
                found = [(place, one[place], other[place]) for place in places[:3]]
                self.fail(f"{name}: {part} differ at {len(places)} of {one.size} places: (place, "
                          f"published, expected): {found or 'signs of zeros'}")

    def assert_plain(self, source, checkpoint, wanted):
        self.assertNotIn("quantization_config", checkpoint.config)
        self.assertEqual(set(checkpoint.floats), set(source.tensors))
        for name, tensor in source.tensors.items():
            module = name.removesuffix(".weight")
            values = wanted[module].weight if module in wanted else tensor.floats()
            self.assertTrue(checkpoint.floats[name].same(source.published(values)), name)

    def assert_schemes(self, checkpoint, schemes):
        """The configuration says of every linear layer how it is quantized."""
        for name, scheme in schemes.items():
            self.assertEqual(checkpoint.scheme(name), scheme, name)

    def assert_holds(self, settings, values):
        """These keys, with these values."""
        self.assertEqual({key: settings.get(key, "absent") for key in values}, values)

    def assert_gptq_settings(self, checkpoint, base, schemes, directory):
        self.assert_schemes(checkpoint, schemes | {"lm_head": None})
        settings = checkpoint.config["quantization_config"]
        self.assert_holds(settings, {
            "quant_method": "gptq", "bits": base.bits, "group_size": base.group_size,
            "sym": base.symmetric, "desc_act": False, "checkpoint_format": "gptq", "lm_head": False,
            "static_groups": False, "pack_dtype": "int32"})
        self.assertRegex(settings["meta"]["quantizer"][0], r"^teqd:\d+\.\d+\.\d+$")
        self.assertEqual("dynamic" in settings, set(schemes.values()) != {base})
        self.assertEqual(json.loads((directory / "quantize_config.json").read_text()), settings)

    def assert_awq_settings(self, checkpoint, base, schemes, directory):
        # AWQ stores a symmetric grid as one with zero points, which are 8.
        self.assert_schemes(checkpoint, {name: scheme and scheme._replace(symmetric=False)
                                         for name, scheme in schemes.items()})
        settings = checkpoint.config["quantization_config"]
        self.assert_holds(settings, {
            "quant_method": "awq", "bits": 4, "group_size": base.group_size, "zero_point": True,
            "version": "gemm"})
        left_float = {name for name, scheme in schemes.items() if scheme is None}
        self.assertEqual(set(settings["modules_to_not_convert"]), left_float | {"lm_head"})

    def assert_compressed_tensors_settings(self, checkpoint, base, schemes, directory):
        self.assert_schemes(checkpoint, schemes | {"lm_head": None})
        settings = checkpoint.config["quantization_config"]
        self.assert_holds(settings, {
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "quantization_status": "compressed", "global_compression_ratio": None,
            "kv_cache_scheme": None})
        for group in settings["config_groups"].values():
            self.assert_holds(group, {"input_activations": None, "output_activations": None})
            self.assert_holds(group["weights"], {
                "type": "int", "actorder": None, "dynamic": False, "observer": "minmax",
                "observer_kwargs": {}, "block_structure": None})


class DemoModelTest(PublishedFormatsTest):
    """The trained demo model."""

    def setUp(self):
        super().setUp()
        self.source = Source(programs.FIXTURES / "demo-llama", self.calibration)

    def test_four_bits(self):
        self.check(self.source, Scheme(4, 32, False), FOUR_BITS)

    def test_three_bits(self):
        self.check(self.source, Scheme(3, 128, False), PACKED)

    def test_two_bits_by_row(self):
        self.check(self.source, Scheme(2, -1, False), PACKED)

    def test_eight_bits(self):
        self.check(self.source, Scheme(8, 128, False), PACKED)

    def test_four_bits_symmetric(self):
        self.check(self.source, Scheme(4, 128, True), FOUR_BITS)

    def test_three_bits_symmetric_by_row(self):
        self.check(self.source, Scheme(3, -1, True), PACKED)

    def test_two_bits_symmetric(self):
        self.check(self.source, Scheme(2, 128, True), PACKED)

    def test_eight_bits_symmetric_by_row(self):
        self.check(self.source, Scheme(8, -1, True), PACKED)

    def test_four_bits_with_a_layer_left_float(self):
        name = "model.layers.1.self_attn.o_proj"
        self.check(self.source, Scheme(4, -1, False), FOUR_BITS,
                   overrides=[{"match": name, "skip": True}], changes=[(re.escape(name), None)])

    def test_mixed_bits_where_later_exceptions_hold(self):
        # Three of them name one layer, which is quantized as the last says, not left float.
        exceptions = [("re:.*down_proj", Scheme(8, 64, True)),
                      ("model.layers.1.self_attn.o_proj", None),
                      (r"re:model\.layers\.2\..*", Scheme(3, -1, False)),
                      (r"re:.*\.3\.mlp\.down_proj", None),
                      ("model.layers.3.mlp.down_proj", Scheme(2, 32, False))]
        overrides = [{"match": match, "weights": weights(scheme)} if scheme
                     else {"match": match, "skip": True} for match, scheme in exceptions]
        changes = [(match[3:] if match.startswith("re:") else re.escape(match), scheme)
                   for match, scheme in exceptions]
        self.check(self.source, Scheme(4, 32, False), PACKED, overrides, changes)


class HardWeightsTest(PublishedFormatsTest):
    """A small model with groups that rounding goes wrong on, in every type that sources have."""

    SIZE = 64  # columns of the changed layers

    def write(self, torch_dtype):
        """The tiny Llama with hard rows in two of its layers."""
        dtype = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[torch_dtype]
        generator = numpy.random.default_rng(7)
        config = models.TINY_CONFIG | {"torch_dtype": torch_dtype}
        values = {}
        for name, tensor in models.random_llama(config).items():
            shape = tensor.shape
            values[name] = numpy.array(tensor.values, numpy.float32).reshape(shape)
            if dtype == "F32":  # digits that float16 does not have
                values[name] *= 1 + generator.normal(0, 1e-4, shape).astype(numpy.float32)
        for name in ("model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
            self.make_hard(values[name], generator)
        directory = models.write_checkpoint(self.house.root / "model", config)
        (directory / "generation_config.json").write_text('{"bos_token_id": 0, "top_k": 7}\n')
        tensors.write_file(directory / "model.safetensors", {
            name: tensors.from_floats(dtype, value) for name, value in values.items()})
        return Source(directory, self.calibration)

    def make_hard(self, matrix, generator):
        size = self.SIZE
        matrix[0] = 0                                             # no range
        matrix[1, :size // 2] = 0                                 # no range beside one
        matrix[2] = generator.uniform(0.1, 1, size)               # no negative weight: zero point 1
        matrix[3] = -generator.uniform(0.1, 1, size)              # no positive weight
        steps = generator.integers(-7, 8, size)
        matrix[4] = steps * 0.125 + 0.0625                        # ties, at scale 0.125
        matrix[4, ::32], matrix[4, 1::32] = -0.875, 1.0
        matrix[5] = steps * 0.125 + 0.0625                        # a tie of the zero point: 7.5
        matrix[5, ::32], matrix[5, 1::32] = -0.9375, 0.9375
        matrix[6] = steps * 0.125 + 0.0625                        # another: 6.5
        matrix[6, ::32], matrix[6, 1::32] = -0.8125, 1.0625
        matrix[7, ::32] = 3000                                    # all others round to nothing
        matrix[8] = generator.normal(0, 1e-5, size)               # scales of few bits in float16
        matrix[9, ::32], matrix[9, 1::32] = 0.5, -0.0             # a negative zero
        matrix[10] = 1                                            # one value
        matrix[11] = generator.choice([-1e-7, 1e-7], size)        # below float16's smallest scale

    def test_float16(self):
        self.check(self.write("float16"), Scheme(4, 32, False), FOUR_BITS)

    def test_bfloat16_symmetric(self):
        self.check(self.write("bfloat16"), Scheme(4, 32, True), FOUR_BITS)

    def test_float32_at_three_bits(self):
        self.check(self.write("float32"), Scheme(3, 32, False), PACKED)

    def test_gptq_settings_have_every_key_that_its_own_programs_write(self):
        output = self.publish(self.write("float16"), Scheme(4, 32, False), ["GPTQ"])
        settings = json.loads((output / "gptq" / "quantize_config.json").read_text())
        self.assertLessEqual({
            "quant_method", "bits", "group_size", "sym", "desc_act", "checkpoint_format",
            "damp_percent", "true_sequential", "lm_head", "static_groups", "model_name_or_path",
            "model_file_base_name", "pack_dtype", "meta"}, set(settings))


if __name__ == "__main__":
    unittest.main()
