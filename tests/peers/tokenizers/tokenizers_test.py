"""The token ids of mixed lines, by teqd and by the programs that define them: Hugging Face's tokenizers
(the Rust library, which decides), its rewrite in JavaScript, and SentencePiece's spm_encode."""

import functools
import os
import pathlib
import re
import subprocess
import tempfile
import unicodedata
import unittest

import families
import lines

HERE = pathlib.Path(__file__).parent
COUNT = 100_000 if os.environ.get("TEQ_TEST_FULL") else 2_000

# Where the rewrite differs from the library, and teqd does as the library: what such a line holds.
# Read from the rewrite's source, version 0.2.0.
#   Its \s is JavaScript's: with U+FEFF, and without U+0085, which is white space to Unicode.
_SPACE = "[\u0085\ufeff]"
#   Its NFC is JavaScript's, which orders marks that the library, with Unicode 9, does not know.
_NEW_MARK = "[" + "".join(
    chr(code) for code in range(0x300, 0x20000)
    if unicodedata.combining(chr(code)) and unicodedata.ucd_3_2_0.category(chr(code)) == "Cn") + "]"
#   Its Digits are ASCII's: other scripts' are missing, and, in byte-level text, the bytes whose
#   characters are digits. Its Whitespace splits at ASCII's words.
_NOT_ASCII = "[^\\x00-\\x7f]"
#   It does not read single_word.
_SINGLE_WORD = "<pad>"
#   It takes NFKC for every charsmap, and its Unigram has no bytes for unknown characters.
_NOT_PRINTABLE_ASCII = "[^\\x20-\\x7e]"
EXPLAINED = {
    "gpt-2": [_SPACE], "opt": [_SPACE], "gpt-neox": [_SPACE, _NEW_MARK], "phi-2": [_SPACE],
    "phi-3": [_SPACE],
    "qwen-2": [_NEW_MARK], "falcon": [_NOT_ASCII], "starcoder": [_NOT_ASCII],
    "metaspace": [_SPACE, _SINGLE_WORD], "t5": [_NOT_PRINTABLE_ASCII], "albert": [_NOT_PRINTABLE_ASCII],
    "unigram with bytes": [_NOT_PRINTABLE_ASCII], "unigram, words": [_NOT_ASCII, _SPACE],
}


def run(command, texts):
    """The ids of each text, as a line."""
    given = "".join(text.hex() + "\n" for text in texts)
    ran = subprocess.run(command, input=given, text=True, capture_output=True, check=False)
    if ran.returncode != 0:
        raise AssertionError(f"{command} ended with {ran.returncode}: {ran.stderr}")
    return answers(command, ran.stdout, texts)


def answers(command, output, texts):
    found = output.split("\n")[:-1]
    if len(found) != len(texts):
        raise AssertionError(f"{command}: {len(found)} answers to {len(texts)} lines")
    return found


def teqd(directory, texts):
    return run([os.path.join(os.environ["TEQ_BIN"], "teq-tokenize"), str(directory)], texts)


def reference(kind, directory, texts):
    return run(["node", str(HERE / "reference.cjs"), kind, str(directory)], texts)


@functools.cache
def mixed_lines():
    return lines.lines(seed=1, count=COUNT)


class TokenizersTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.root = pathlib.Path(scratch.name)
        cls.bpe = families.train_sentencepiece(cls.root / "sentencepiece-bpe", [
            "--model_type=bpe", "--vocab_size=4000", "--byte_fallback=true",
            "--normalization_rule_name=identity", "--remove_extra_whitespaces=false"])
        cls.unigram = families.train_sentencepiece(cls.root / "sentencepiece-unigram", [
            "--model_type=unigram", "--vocab_size=4000"])
        cls.documents = {**families.byte_level_families(), **families.metaspace_families(cls.bpe),
                         **families.unigram_families(cls.unigram)}

    def assert_same(self, name, texts, ours, theirs, explained=()):
        """Equal ids on every line, but for lines that hold what explains a difference."""
        self.assertGreater(len({token for line in ours for token in line.split()}), 250, "too easy a text")
        different = [i for i in range(len(texts)) if ours[i] != theirs[i]]
        unexplained = [i for i in different
                       if not any(re.search(held, texts[i].decode(errors="replace")) for held in explained)]
        print(f"{name}: {len(texts)} lines, {len(different)} differ, "
              f"{len(unexplained)} without explanation")
        shown = "\n".join(f"{texts[i].decode(errors='replace')!r}\n  teqd  {ours[i]}\n  other {theirs[i]}"
                          for i in unexplained[:5])
        self.assertFalse(unexplained, f"{name}, {len(unexplained)} lines, the first:\n{shown}")

    def assert_library_and_rewrite_agree(self, name, directory, ours):
        texts = mixed_lines()
        self.assert_same(f"{name}, library", texts, ours, reference("native", directory, texts))
        self.assert_same(f"{name}, rewrite", texts, ours, reference("js", directory, texts),
                         EXPLAINED.get(name, ()))

    def test_every_family_gives_the_ids_of_the_library_and_of_its_rewrite(self):
        self.assertGreater(len(self.documents), 20)
        self.assertLessEqual(set(EXPLAINED), set(self.documents))
        for name, document in self.documents.items():
            with self.subTest(name):
                directory = families.write(self.root / name, document)
                self.assert_library_and_rewrite_agree(name, directory, teqd(directory, mixed_lines()))

    def test_every_character_has_the_class_and_the_forms_that_it_has_for_the_library(self):
        texts = lines.every_character()
        for name in ("gpt-2", "qwen-2", "falcon", "bloom", "starcoder", "o200k", "deepseek-3", "t5",
                     "albert", "unigram, words"):
            with self.subTest(name):
                directory = families.write(self.root / name, self.documents[name])
                self.assert_same(f"{name}, every character", texts, teqd(directory, texts),
                                 reference("native", directory, texts))

    def test_demo_model_gives_the_ids_of_the_library_and_of_its_rewrite(self):
        directory = pathlib.Path(os.environ["TEQ_FIXTURES"]) / "demo-llama"
        texts = mixed_lines()
        ours = teqd(directory, texts)
        self.assert_same("demo, library", texts, ours, reference("native", directory, texts))
        self.assert_same("demo, rewrite", texts, ours, reference("js", directory, texts), [_SPACE])

    def test_vocabulary_files_give_the_ids_of_the_tokenizer_json_made_of_them(self):
        document = families.byte_level_families()["gpt-2"]
        files = families.write_vocabulary_files(self.root / "vocabulary files", document)
        directory = families.write(self.root / "gpt-2", document)
        texts = mixed_lines()
        self.assert_same("vocab.json and merges.txt, library", texts, teqd(files, texts),
                         reference("native", directory, texts))

    def test_sentencepiece_models_give_the_ids_of_spm_encode(self):
        # spm_encode reads lines; what is no UTF-8 becomes U+FFFD before a model sees it, as in Python.
        texts = [text.decode(errors="replace").replace("\n", " ").encode() for text in mixed_lines()]
        given = b"".join(text + b"\n" for text in texts)
        for name in ("sentencepiece-bpe", "sentencepiece-unigram"):
            with self.subTest(name):
                directory = self.root / name
                (directory / "tokenizer_config.json").write_text('{"add_bos_token": false}')
                command = ["spm_encode", "--model=tokenizer.model", "--output_format=id"]
                ran = subprocess.run(command, cwd=directory, input=given, capture_output=True, check=True)
                theirs = answers(command, ran.stdout.decode(), texts)
                self.assert_same(name, texts, teqd(directory, texts), theirs)

    def test_invalid_utf8_is_read_as_python_reads_it(self):
        directory = families.write(self.root / "gpt-2", self.documents["gpt-2"])
        texts = [text for text in mixed_lines() if text.decode(errors="replace").encode() != text]
        self.assertGreater(len(texts), COUNT // 50)
        repaired = [text.decode(errors="replace").encode() for text in texts]
        self.assertEqual(teqd(directory, texts), teqd(directory, repaired))


if __name__ == "__main__":
    unittest.main()
