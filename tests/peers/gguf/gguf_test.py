"""GGUF files of teqd, loaded and computed by llama.cpp."""

import json
import math
import os
import pathlib
import subprocess
import tempfile
import unicodedata
import unittest

import families
import lines
from harness import models, programs
from weights import TensorSpec, make_tensors

HERE = pathlib.Path(__file__).parent
BIN = pathlib.Path(os.environ["TEQ_BIN"])
FIXTURES = pathlib.Path(os.environ["TEQ_FIXTURES"])
TOKENIZED_LINES = 2000 if os.environ.get("TEQ_TEST_FULL") else 300

# Every variant of a family that GGUF holds.
FAMILIES = ["llama", "llama-bias", "llama-rope-llama3", "llama-rope-linear", "llama-rope-parameters",
            "llama-rope-yarn", "mistral", "qwen2", "gpt2", "bloom", "falcon-7b", "falcon-11b",
            "falcon-40b"]
# What llama.cpp's arithmetic may change a logit by, as a part of the spread of all logits. With one
# layer of codes the others are float16, and so are the activations that they multiply. Q8_0
# multiplies activations of 8 bits, whatever the weights' type of 2 or 4 bits.
ONE_LAYER, ALL_LAYERS = 0.01, 0.06


def llama_cpp(requests):
    """What llama.mjs answers."""
    ran = subprocess.run(["node", str(HERE / "llama.mjs")], text=True, capture_output=True, check=False,
                         input=json.dumps(requests))
    if ran.returncode != 0:
        raise AssertionError(f"llama.cpp: {ran.stdout[-2000:]}{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def pack(model, output, grid, scope, ids):
    """What teq-pack-gguf answers; OUTPUT/model.gguf."""
    command = [str(BIN / "teq-pack-gguf"), str(model), str(output), *grid.split(), scope]
    return subprocess.run(command, text=True, capture_output=True, check=False, input=json.dumps(ids))


def write_family(directory, case):
    """The checkpoint of a recorded case, with a byte-level tokenizer of as many tokens."""
    directory.mkdir()
    tensors = make_tensors({name: TensorSpec(tuple(entry["shape"]), entry["mean"], entry["amplitude"])
                            for name, entry in case["tensors"].items()})
    (directory / "model.safetensors").write_bytes(models.safetensors_bytes(
        {name: models.Tensor("F16", values.shape, values.flatten().tolist())
         for name, values in tensors.items()}))
    (directory / "config.json").write_text(json.dumps(case["config"]))
    tokenizer = models.tokenizer(case["config"]["vocab_size"])
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    return directory


def spread(rows):
    values = [value for row in rows for value in row]
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))


class GgufTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.root = pathlib.Path(scratch.name)


class FamiliesTest(GgufTest):
    def compare(self, name, model, ids, grid, scope, tolerance):
        """llama.cpp's logits and the engine's with the weights that were read back."""
        output = self.root / f"{name} {grid} {scope}"
        ran = pack(model, output, grid, scope, ids)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        ours = json.loads(ran.stdout)
        # Only Q4_1 rounds anything: its offset, to float16.
        self.assertLessEqual(ours["difference"], 2**-11 if "asymmetric" in grid else 0)
        theirs = llama_cpp(output / "model.gguf", logits=ids)["logits"]
        self.assertEqual([len(row) for row in theirs], [len(row) for row in ours["logits"]])
        error = max(abs(a - b) for mine, other in zip(ours["logits"], theirs, strict=True)
                    for a, b in zip(mine, other, strict=True)) / spread(ours["logits"])
        print(f"{name}, {grid}, {scope}: logits differ by at most {error:.5f} of their spread")
        self.assertLess(error, tolerance)

    def test_every_family_computes_the_engines_logits(self):
        for name in FAMILIES:
            case = json.loads((FIXTURES / "families" / f"{name}.json").read_text())
            model = write_family(self.root / name, case)
            # Mistral's window is as long as the context that its file allows.
            ids = case["input_ids"][:case["config"].get("sliding_window") or None]
            for grid, scope, tolerance in (("8 32 symmetric", "one", ONE_LAYER),
                                           ("8 -1 symmetric", "all", ALL_LAYERS),
                                           ("4 32 symmetric", "all", ALL_LAYERS),
                                           ("4 32 asymmetric", "all", ALL_LAYERS)):
                with self.subTest(name, grid=grid):
                    self.compare(name, model, ids, grid, scope, tolerance)

    def test_two_bits_are_ternary_blocks(self):
        ids = [0, *range(300, 331)]
        for scope in ("all", "lowest"):  # TQ1_0, TQ2_0
            with self.subTest(scope):
                self.compare("demo", FIXTURES / "demo-llama", ids, "2 256 symmetric", scope, ALL_LAYERS)

    def test_what_llama_cpp_has_not_is_refused(self):
        for name, words in (("gemma", "of type gemma"), ("falcon-rw", "biases"),
                            ("llama-rope-dynamic", "dynamic"), ("bloom-postnorm", "residual")):
            with self.subTest(name):
                case = json.loads((FIXTURES / "families" / f"{name}.json").read_text())
                model = write_family(self.root / name, case)
                ran = pack(model, self.root / f"{name} out", "8 32 symmetric", "all", [0])
                self.assertEqual(ran.returncode, 1)
                self.assertTrue(ran.stderr.startswith("FORMAT_CANNOT_HOLD: format GGUF: "), ran.stderr)
                self.assertIn(words, ran.stderr)
                self.assertEqual(list((self.root / f"{name} out").iterdir()), [])


class TokenizersTest(GgufTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        bpe = families.train_sentencepiece(cls.root / "sentencepiece", [
            "--model_type=bpe", "--vocab_size=4000", "--byte_fallback=true",
            "--normalization_rule_name=identity", "--remove_extra_whitespaces=false"])
        cls.documents = {**families.byte_level_families(), **families.metaspace_families(bpe)}
        cls.texts = [text for text in lines.lines(seed=3, count=TOKENIZED_LINES)
                     if cls.is_plain(text)]

    @staticmethod
    def is_plain(text):
        """Without what llama.cpp is known to read otherwise: bytes that are no UTF-8, text that is not
        in the normal form NFC, a NUL."""
        decoded = text.decode(errors="replace")
        return (decoded.encode() == text and "\0" not in decoded
                and unicodedata.normalize("NFC", decoded) == decoded)

    def write(self, name, document=None, files=None):
        """A tiny Llama with the tokenizer."""
        directory = self.root / f"{name} model"
        if document:
            size = 1 + max(*document["model"]["vocab"].values(),
                           *(token["id"] for token in document["added_tokens"]))
        else:
            size = 4000
        config = {**models.TINY_CONFIG, "hidden_size": 32, "intermediate_size": 32,
                  "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
                  "vocab_size": size + 3}
        models.write_checkpoint(directory, config, tokenizer_json=document)
        (directory / "tokenizer_config.json").write_text("{}")
        for file in files or ():
            (directory / "tokenizer.json").unlink(missing_ok=True)
            (directory / file.name).write_bytes(file.read_bytes())
        return directory

    def compare(self, name, model):
        ran = pack(model, self.root / f"{name} out", "8 32 symmetric", "all", [0])
        self.assertEqual(ran.returncode, 0, ran.stderr)
        texts = [text.hex() for text in self.texts]
        theirs = llama_cpp(self.root / f"{name} out" / "model.gguf", texts=texts)["ids"]
        ran = subprocess.run([str(BIN / "teq-tokenize"), str(model)], text=True, capture_output=True,
                             check=True, input="".join(text + "\n" for text in texts))
        ours = [[int(token) for token in line.split()] for line in ran.stdout.split("\n")[:-1]]
        different = [i for i in range(len(texts)) if ours[i] != theirs[i]]
        print(f"{name}: {len(texts)} lines, {len(different)} differ")
        shown = "\n".join(f"{self.texts[i].decode()!r}\n  teqd      {ours[i]}\n  llama.cpp {theirs[i]}"
                          for i in different[:5])
        self.assertFalse(different, f"{name}, {len(different)} lines, the first:\n{shown}")

    def test_llama_cpp_gives_the_tokenizers_ids(self):
        for name in ("gpt-2", "llama-3", "qwen-2", "falcon", "bloom", "starcoder", "llama-2", "mistral"):
            with self.subTest(name):
                self.compare(name, self.write(name, self.documents[name]))
        with self.subTest("sentencepiece"):
            file = self.root / "sentencepiece" / "tokenizer.model"
            self.compare("sentencepiece", self.write("sentencepiece", files=[file]))

    def test_tokenizers_that_it_has_not_are_refused(self):
        for name, words in (("o200k", "cuts words by"), ("phi-3", "has rstrip"),
                            ("no byte pieces", "nor has pieces for them")):
            with self.subTest(name):
                model = self.write(name, self.documents[name])
                ran = pack(model, self.root / f"{name} out", "8 32 symmetric", "all", [0])
                self.assertEqual(ran.returncode, 1)
                self.assertTrue(ran.stderr.startswith("FORMAT_CANNOT_HOLD: format GGUF: "), ran.stderr)
                self.assertIn(words, ran.stderr)
                self.assertEqual(list((self.root / f"{name} out").iterdir()), [])


class DemoModelTest(GgufTest):
    """The trained demo model, through a job."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        subprocess.run([str(programs.SCRIPTS / "demo_text.sh"), str(cls.root)], check=True)
        cls.evaluation = cls.root / "kjv_eval.txt"

    def run_job(self, name, symmetric):
        output = self.root / name
        file = self.root / f"{name}.yaml"
        file.write_text(json.dumps({
            "model": {"uri": programs.file_uri(FIXTURES / "demo-llama")},
            "recipe": {"weights": {"bits": 4, "group_size": 32, "symmetric": symmetric},
                       "transform": {}, "clipping": {}, "rounding": {"nearest": {}}},
            "calibration": {"uri": programs.file_uri(self.root / "kjv_calibration.txt"), "samples": 16},
            "evaluation": {"uris": [programs.file_uri(self.evaluation)]},
            "output": {"uri": programs.file_uri(output), "formats": ["GGUF"]},
        }))
        answer = programs.run("teq-worker", "run", "--job", file, seconds=600)
        self.assertEqual(answer.code, 0, answer)
        return output, json.loads((output / "report.json").read_text())

    def windows(self, length=256):
        """The evaluation's windows: the text's ids, cut without overlap."""
        ran = subprocess.run([str(BIN / "teq-tokenize"), str(FIXTURES / "demo-llama")], text=True,
                             capture_output=True, check=True,
                             input=self.evaluation.read_bytes().hex() + "\n")
        ids = [int(token) for token in ran.stdout.split()]
        return [ids[i:i + length] for i in range(0, len(ids) - length + 1, length)]

    def test_llama_cpp_measures_the_reported_perplexity(self):
        windows = self.windows()
        for name, symmetric in (("symmetric", True), ("asymmetric", False)):
            with self.subTest(name):
                output, report = self.run_job(name, symmetric)
                (found,) = report["perplexity"]
                self.assertEqual(found["tokens"], sum(len(ids) - 1 for ids in windows))
                answer = llama_cpp(output / "gguf" / "model.gguf", windows=windows,
                                   texts=[self.evaluation.read_bytes().hex()])
                values = [value for row in answer["log_probabilities"] for value in row]
                perplexity = math.exp(-sum(values) / len(values))
                print(f"{name}: perplexity {perplexity:.4f} by llama.cpp, "
                      f"{found['quantized']:.4f} reported, {found['full_precision']:.4f} of the float model")
                self.assertLess(abs(perplexity / found["quantized"] - 1), 0.01)
                flat = [token for ids in windows for token in ids]
                self.assertEqual(answer["ids"][0][:len(flat)], flat)


if __name__ == "__main__":
    unittest.main()
