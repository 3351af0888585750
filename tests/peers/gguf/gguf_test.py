"""GGUF files of teqd, loaded and computed by llama.cpp."""

import json
import math
import os
import pathlib
import re
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
# What llama.cpp's arithmetic may change logits by: the root of the mean square, as a part of the
# spread of all logits. It multiplies codes by activations of 8 bits, and float16 by float16; seen are
# 0.001 to 0.005 with codes in one layer, and 0.01 to 0.03 with codes in all.
ONE_LAYER, ALL_LAYERS = 0.01, 0.05


# Where llama.cpp's tokenizers are known to differ from the library that defines the ids: what such a
# line holds.
EXPLAINED = {
    # It keeps a space and one or two digits together, which Falcon's own merges never join; those of
    # this vocabulary, which other pre-tokenizers share, do.
    "falcon": " [0-9]|[^\\x00-\\x7f]",
    # It puts a space behind special tokens too, and one before a text that begins with a space.
    "mistral": "<s>|</s>|<unk>|^ ",
    # SentencePiece's own program takes the spelling of a special token for text.
    "sentencepiece": "<s>|</s>|<unk>",
}


def llama_cpp(requests):
    """What llama.mjs answers."""
    ran = subprocess.run(["node", str(HERE / "llama.mjs")], text=True, capture_output=True, check=False,
                         input=json.dumps(requests))
    if ran.returncode != 0:
        raise AssertionError(f"llama.cpp: {ran.stdout[-2000:]}{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def pack(requests):
    """What teq-pack-gguf answers."""
    ran = subprocess.run([str(BIN / "teq-pack-gguf")], text=True, capture_output=True, check=False,
                         input="".join(json.dumps(request) + "\n" for request in requests))
    if ran.returncode != 0:
        raise AssertionError(f"teq-pack-gguf: {ran.stdout[-2000:]}{ran.stderr}")
    return [json.loads(line) for line in ran.stdout.splitlines()]


def request(model, output, bits=8, group_size=32, symmetric=True, scope="all", ids=(0,)):
    """One of pack's."""
    return {"model": str(model), "output": str(output), "bits": bits, "group_size": group_size,
            "symmetric": symmetric, "scope": scope, "ids": list(ids)}


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


def root_mean_square(values):
    return math.sqrt(sum(value * value for value in values) / len(values))


def distance(ours, theirs):
    """How far two lists of logits are apart, as a part of the first one's spread."""
    mine = [value for row in ours for value in row]
    other = [value for row in theirs for value in row]
    mean = sum(mine) / len(mine)
    return (root_mean_square([a - b for a, b in zip(mine, other, strict=True)])
            / root_mean_square([value - mean for value in mine]))


class GgufTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.root = pathlib.Path(scratch.name)


class FamiliesTest(GgufTest):
    def compare(self, requests, tolerances):
        """llama.cpp's logits and the engine's with the weights that were read back."""
        ours = pack(requests)
        for asked, answer in zip(requests, ours, strict=True):
            self.assertNotIn("error", answer, asked)
        theirs = llama_cpp([{"model": f"{asked['output']}/model.gguf", "logits": asked["ids"]}
                            for asked in requests])
        for asked, mine, other, tolerance in zip(requests, ours, theirs, tolerances, strict=True):
            name = pathlib.Path(asked["output"]).name
            with self.subTest(name):
                # Only Q4_1 rounds anything: its offset, to float16.
                self.assertLessEqual(mine["difference"], 0 if asked["symmetric"] else 2**-11)
                error = distance(mine["logits"], other["logits"])
                print(f"{name}: logits differ by {error:.4f} of their spread")
                self.assertLess(error, tolerance)

    def test_every_family_computes_the_engines_logits(self):
        requests, tolerances = [], []
        for name in FAMILIES:
            case = json.loads((FIXTURES / "families" / f"{name}.json").read_text())
            model = write_family(self.root / name, case)
            # Mistral's window is as long as the context that its file allows.
            ids = case["input_ids"][:case["config"].get("sliding_window") or None]
            for kind, tolerance, changes in (
                    ("one layer of Q8_0", ONE_LAYER, {"scope": "first"}),
                    ("Q8_0", ALL_LAYERS, {"group_size": -1}),
                    ("Q4_0", ALL_LAYERS, {"bits": 4}),
                    ("Q4_1", ALL_LAYERS, {"bits": 4, "symmetric": False})):
                requests.append(request(model, self.root / f"{name}, {kind}", ids=ids, **changes))
                tolerances.append(tolerance)
        self.compare(requests, tolerances)

    def test_two_bits_are_ternary_blocks(self):
        self.compare([request(FIXTURES / "demo-llama", self.root / kind, bits=2, group_size=256,
                              scope=scope, ids=[0, *range(300, 331)])
                      for kind, scope in (("TQ1_0", "all"), ("TQ2_0", "lowest"))],
                     [ALL_LAYERS] * 2)

    def test_what_llama_cpp_has_not_is_refused(self):
        words = {"gemma": "of type gemma", "falcon-rw": "biases", "llama-rope-dynamic": "dynamic",
                 "bloom-postnorm": "residual"}
        requests = []
        for name in words:
            case = json.loads((FIXTURES / "families" / f"{name}.json").read_text())
            requests.append(request(write_family(self.root / name, case), self.root / f"{name} out",
                                    group_size=-1))
        for (name, said), answer in zip(words.items(), pack(requests), strict=True):
            with self.subTest(name):
                self.assertEqual(answer.get("reason"), "FORMAT_CANNOT_HOLD", answer)
                self.assertIn(said, answer["error"])
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

    def write(self, name, document=None, model=None):
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
        if model:
            (directory / "tokenizer.json").unlink()
            (directory / "tokenizer.model").write_bytes(model.read_bytes())
        return directory

    def compare(self, name, model, theirs):
        ran = subprocess.run([str(BIN / "teq-tokenize"), str(model)], text=True, capture_output=True,
                             check=True, input="".join(text.hex() + "\n" for text in self.texts))
        ours = [[int(token) for token in line.split()] for line in ran.stdout.split("\n")[:-1]]
        explained = re.compile(EXPLAINED.get(name, "(?!)"))
        different = [i for i, text in enumerate(self.texts) if ours[i] != theirs[i]]
        unexplained = [i for i in different if not explained.search(self.texts[i].decode())]
        print(f"{name}: {len(self.texts)} lines, {len(different)} differ, "
              f"{len(unexplained)} without explanation")
        shown = "\n".join(f"{self.texts[i].decode()!r}\n  teqd      {ours[i]}\n  llama.cpp {theirs[i]}"
                          for i in unexplained[:5])
        self.assertFalse(unexplained, f"{name}, {len(unexplained)} lines, the first:\n{shown}")

    def test_llama_cpp_gives_the_tokenizers_ids(self):
        kinds = {name: self.write(name, self.documents[name])
                 for name in ("gpt-2", "llama-3", "qwen-2", "falcon", "bloom", "starcoder", "llama-2",
                              "mistral")}
        kinds["sentencepiece"] = self.write("sentencepiece",
                                            model=self.root / "sentencepiece" / "tokenizer.model")
        requests = [request(model, self.root / f"{name} out") for name, model in kinds.items()]
        for asked, answer in zip(requests, pack(requests), strict=True):
            self.assertNotIn("error", answer, asked)
        answers = llama_cpp([{"model": f"{asked['output']}/model.gguf",
                              "texts": [text.hex() for text in self.texts]} for asked in requests])
        for (name, model), answer in zip(kinds.items(), answers, strict=True):
            with self.subTest(name):
                self.compare(name, model, answer["ids"])

    def test_tokenizers_that_it_has_not_are_refused(self):
        words = {"o200k": "cuts words by", "phi-3": "has rstrip",
                 "no byte pieces": "nor has pieces for them"}
        requests = [request(self.write(name, self.documents[name]), self.root / f"{name} out")
                    for name in words]
        for (name, said), answer in zip(words.items(), pack(requests), strict=True):
            with self.subTest(name):
                self.assertEqual(answer.get("reason"), "FORMAT_CANNOT_HOLD", answer)
                self.assertIn(said, answer["error"])
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
        answer = programs.run("teq-worker", "run", "--job", file, seconds=600, directory=self.root)
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
                (answer,) = llama_cpp([{"model": str(output / "gguf" / "model.gguf"), "windows": windows,
                                        "texts": [self.evaluation.read_bytes().hex()]}])
                values = [value for row in answer["log_probabilities"] for value in row]
                perplexity = math.exp(-sum(values) / len(values))
                print(f"{name}: perplexity {perplexity:.4f} by llama.cpp, "
                      f"{found['quantized']:.4f} reported, {found['full_precision']:.4f} of the float model")
                self.assertLess(abs(perplexity / found["quantized"] - 1), 0.01)
                flat = [token for ids in windows for token in ids]
                self.assertEqual(answer["ids"][0][:len(flat)], flat)


if __name__ == "__main__":
    unittest.main()
