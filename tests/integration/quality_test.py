"""The trained demo model, quantized by the recipes that people use."""

import json
import pathlib
import subprocess
import unittest

from harness import models, programs, reference


class QualityTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.house = programs.House()
        cls.addClassCleanup(cls.house.close)
        cls.model = programs.FIXTURES / "demo-llama"
        cls.text = cls.house.root / "text"
        subprocess.run([str(programs.SCRIPTS / "demo_text.sh"), str(cls.text)], check=True)

    def run_job(self, name, recipe, model=None):
        """Output directory and report of one run."""
        output = self.house.root / name
        file = self.house.root / f"{name}.yaml"
        file.write_text(json.dumps({
            "model": {"uri": programs.file_uri(model or self.model)},
            "recipe": recipe,
            "calibration": {"uri": programs.file_uri(self.text / "kjv_calibration.txt"),
                            "samples": 256 if programs.FULL else 96},
            "evaluation": {"uris": [programs.file_uri(self.text / "kjv_eval.txt")]},
            "output": {"uri": programs.file_uri(output)},
        }))
        answer = programs.run("teq-worker", "run", "--job", file, seconds=1200,
                              directory=self.house.root)
        self.assertEqual(answer.code, 0, answer)
        return output, json.loads((output / "report.json").read_text())

    @staticmethod
    def recipe(bits):
        """The default recipe; in the reduced suite with fewer steps."""
        recipe = {"weights": {"bits": bits, "group_size": 32}}
        if not programs.FULL:
            recipe |= {"preset": "BALANCED",
                       "transform": {"teq": {"steps": 20, "end_to_end_steps": 30}}}
        return recipe

    def assert_closed(self, found, share):
        """At least this share of the way from plain rounding back to the float model."""
        gap = found["round_to_nearest"] - found["full_precision"]
        self.assertLessEqual(found["quantized"], found["round_to_nearest"] - share * gap)

    def test_three_bits_and_the_report_is_true(self):
        output, report = self.run_job("w3", self.recipe(3))
        (found,) = report["perplexity"]
        print(json.dumps(found, indent=1))
        # Measured by an independent PyTorch program in float32: 183 windows of 256 tokens.
        self.assertEqual(found["tokens"], 183 * 255)
        self.assertAlmostEqual(found["full_precision"], 29.62158, delta=3e-3)
        self.assert_closed(found, 0.25)
        # Training brought the model nearer to the float one on text that it did not train on.
        self.assertLess(report["training"]["final_loss"],
                        0.8 * report["training"]["round_to_nearest_loss"])
        # Scales of 256 + 256 + 768 + 4 x 32 channels in each of 4 blocks, of 3,672,320 parameters.
        self.assertEqual(report["training"]["trainable_parameters"]["scales"], 4 * 1408)
        # A step size of every 32 weights in 4 blocks' matrices.
        sizes = [256 * 256, 2 * 128 * 256, 256 * 256, 3 * 768 * 256]
        self.assertEqual(report["training"]["trainable_parameters"]["step_sizes"],
                         4 * sum(sizes) // 32)
        self.assertAlmostEqual(report["training"]["trainable_fraction"], 4 * 1408 / 3672320,
                               places=9)

        # The published bytes as a plain float32 checkpoint have the perplexity that was reported.
        config = json.loads((self.model / "config.json").read_text())
        config["torch_dtype"] = "float32"
        plain = self.house.root / "plain"
        models.write_checkpoint(plain, config, reference.dequantize(output / "gptq"),
                                json.loads((self.model / "tokenizer.json").read_text()))
        (plain / "tokenizer_config.json").write_bytes(
            (self.model / "tokenizer_config.json").read_bytes())
        _, again = self.run_job("again", {"weights": {"bits": 8, "group_size": 32},
                                          "rounding": {"nearest": {}}}, plain)
        self.assertAlmostEqual(again["perplexity"][0]["full_precision"], found["quantized"],
                               delta=1e-3 * found["quantized"])

    def test_other_widths_are_closer_to_the_float_model_than_plain_rounding(self):
        for bits in (4, 2) if programs.FULL else (2,):
            with self.subTest(bits=bits):
                _, report = self.run_job(f"w{bits}", self.recipe(bits))
                (found,) = report["perplexity"]
                print(json.dumps(found, indent=1))
                self.assert_closed(found, 0.25)

    def test_closed_forms_compose(self):
        _, report = self.run_job("fast", {"preset": "FAST",
                                          "weights": {"bits": 3, "group_size": 32}})
        (found,) = report["perplexity"]
        print(json.dumps(found, indent=1))
        self.assert_closed(found, 0.2)


if __name__ == "__main__":
    unittest.main()
