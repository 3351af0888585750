"""Tokenizers configured as the families of models have theirs, over small vocabularies."""

import base64
import functools
import json
import subprocess

import learn
import lines

_WHITE = "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_LLAMA3 = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
           "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" + _WHITE)
_QWEN2 = _LLAMA3.replace("{1,3}", "")
_CL100K = ("'(?i:[sdmt]|ll|ve|re)|[^\\r\\n\\p{L}\\p{N}]?+\\p{L}+|\\p{N}{1,3}"
           "| ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|\\s*[\\r\\n]|\\s+(?!\\S)|\\s+")
_UPPER = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
_LOWER = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"
_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (f"{_UPPER}{_ENDINGS}|{_LOWER}{_ENDINGS}|\\p{{N}}{{1,3}}"
          "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" + _WHITE)
_TEKKEN = f"{_UPPER}|{_LOWER}|\\p{{N}}| ?[^\\s\\p{{L}}\\p{{N}}]+[\\r\\n/]*" + _WHITE
_DEEPSEEK = ("[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
             "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
             "| ?[\\p{P}\\p{S}]+[\\r\\n]*" + _WHITE)
_BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"


def _split(regex, behavior="Isolated"):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}


def _byte_level(use_regex=True, add_prefix_space=False):
    return {"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": True,
            "use_regex": use_regex}


def _sequence(kind, parts):
    return {"type": "Sequence", kind: parts}


def _pre(*parts):
    return _sequence("pretokenizers", list(parts))


def _normalizers(*parts):
    return _sequence("normalizers", list(parts))


def _template(first=None, last=None, ids=None):
    def special(token):
        return [{"SpecialToken": {"id": token, "type_id": 0}}] if token else []
    single = special(first) + [{"Sequence": {"id": "A", "type_id": 0}}] + special(last)
    tokens = {token: {"id": token, "ids": [ids[token]], "tokens": [token]}
              for token in (first, last) if token}
    return {"type": "TemplateProcessing", "single": single,
            "pair": single + [{"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": tokens}


def _added(token_id, content, special=True, **flags):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": not special, "special": special, **flags}


def _document(model, added, normalizer=None, pre_tokenizer=None, post_processor=None):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer, "post_processor": post_processor,
            "decoder": None, "model": model}


def _bpe(vocabulary, merges, **options):
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": merges, **options}


@functools.cache
def _sample():
    return [line.decode(errors="replace") for line in lines.lines(seed=7, count=1500)]


@functools.cache
def _byte_pairs():
    """A byte-level vocabulary and its merges."""
    merges = learn.merges(learn.byte_level_words(_sample()), 500)
    tokens = [*learn.byte_alphabet().values(), *dict.fromkeys("".join(pair) for pair in merges)]
    return {token: i for i, token in enumerate(tokens)}, [list(pair) for pair in merges]


def _byte_level_family(specials, normalizer=None, pre_tokenizer=None, bos=None, extra=(), **options):
    vocabulary, merges = _byte_pairs()
    ids = {token: len(vocabulary) + i for i, token in enumerate(specials)}
    added = [_added(token_id, token) for token, token_id in ids.items()]
    added += [{**token, "id": len(vocabulary) + len(ids) + i} for i, token in enumerate(extra)]
    post = _byte_level()
    if bos:
        post = _sequence("processors", [post, _template(bos, None, ids)])
    return _document(_bpe(vocabulary, merges, **options), added, normalizer, pre_tokenizer, post)


def _runs(character, counts):
    return [_added(0, character * count, special=False) for count in counts]


def byte_level_families():
    nfc = {"type": "NFC"}
    end = ["<|endoftext|>"]
    return {
        "gpt-2": _byte_level_family(end, None, _byte_level()),
        "opt": _byte_level_family(["<s>", "<pad>", "</s>", "<unk>"], None, _byte_level(), bos="</s>"),
        "llama-3": _byte_level_family(["<|begin_of_text|>", "<|eot_id|>"], None,
                                      _pre(_split(_LLAMA3), _byte_level(False)), bos="<|begin_of_text|>",
                                      ignore_merges=True),
        "qwen-2": _byte_level_family([*end, "<|im_start|>", "<|im_end|>"], nfc,
                                     _pre(_split(_QWEN2), _byte_level(False)), continuing_subword_prefix="",
                                     end_of_word_suffix=""),
        "gpt-neox": _byte_level_family([*end, "<|padding|>"], nfc, _byte_level(),
                                       extra=_runs(" ", range(24, 1, -1))),
        "phi-2": _byte_level_family(end, None, _byte_level(),
                                    extra=_runs(" ", range(31, 1, -1)) + _runs("\t", range(9, 1, -1))),
        "stablelm-2": _byte_level_family(end, None, _pre(_split(_CL100K), _byte_level(False))),
        "falcon": _byte_level_family(
            [">>TITLE<<", ">>QUESTION<<", *end], None,
            _pre({"type": "Punctuation", "behavior": "Contiguous"}, _byte_level(),
                 {"type": "Digits", "individual_digits": False}, _split("[0-9][0-9][0-9]"))),
        "bloom": _byte_level_family(["<unk>", "<s>", "</s>", "<pad>"], None,
                                    _pre(_split(_BLOOM), _byte_level(False))),
        "starcoder": _byte_level_family(
            end, None, _pre({"type": "Digits", "individual_digits": True}, _byte_level())),
        "o200k": _byte_level_family(end, None, _pre(_split(_O200K), _byte_level(False))),
        "mistral-nemo": _byte_level_family(["<unk>", "<s>", "</s>"], None,
                                           _pre(_split(_TEKKEN), _byte_level(False)), bos="<s>",
                                           ignore_merges=True),
        "deepseek-3": _byte_level_family(
            ["<s>"], _normalizers(),
            _pre(_split("\\p{N}{1,3}"), _split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                 _split(_DEEPSEEK), _byte_level(False)), bos="<s>"),
    }


def train_sentencepiece(directory, options):
    """A tokenizer.model in `directory`, by Debian's spm_train."""
    directory.mkdir(parents=True)
    sample = [line for text in _sample() for line in text.split("\n") if line.strip() and "\0" not in line]
    (directory / "sample.txt").write_text("\n".join(sample) + "\n")
    subprocess.run(["spm_train", "--input=sample.txt", "--model_prefix=tokenizer", "--minloglevel=2",
                    "--hard_vocab_limit=false", "--num_threads=1", "--character_coverage=0.98", *options],
                   cwd=directory, check=True, capture_output=True)
    return (directory / "tokenizer.model").read_bytes()


def metaspace_families(model):
    """BPE with byte pieces, of a SentencePiece BPE model's bytes."""
    pieces, _ = learn.sentencepiece_model(model)
    vocabulary = {text: i for i, (text, _) in enumerate(pieces)}
    bpe = _bpe(vocabulary, learn.merges_of_pieces(pieces), unk_token="<unk>", fuse_unk=True,
               byte_fallback=True)
    base = [_added(i, token) for i, token in enumerate(("<unk>", "<s>", "</s>"))]
    bos = _template("<s>", None, vocabulary)
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    stripped = [_added(len(vocabulary) + i, token, rstrip=True)
                for i, token in enumerate(("<|endoftext|>", "<|im_end|>"))]
    pad = [_added(len(vocabulary), "<pad>", special=False, lstrip=True, single_word=True)]

    def metaspace(scheme, split):
        return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}
    return {
        "llama-2": _document(bpe, base, _normalizers(prepend, replace), None, bos),
        "phi-3": _document(bpe, base + stripped, _normalizers(prepend, replace), None, None),
        "mistral": _document(bpe, base, None, metaspace("first", False), bos),
        "gemma": _document(bpe, base, replace,
                           {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                            "invert": False}, bos),
        "metaspace": _document(bpe, base + pad, None, metaspace("always", True), bos),
        "no byte pieces": _document({**bpe, "byte_fallback": False, "fuse_unk": False}, base,
                                    _normalizers(prepend, replace), None, bos),
    }


def unigram_families(model):
    """Unigram, of a SentencePiece Unigram model's bytes."""
    pieces, charsmap = learn.sentencepiece_model(model)
    vocabulary = {text: i for i, (text, _) in enumerate(pieces)}
    unigram = {"type": "Unigram", "unk_id": vocabulary["<unk>"], "vocab": [list(piece) for piece in pieces],
               "byte_fallback": False}
    base = [_added(i, token) for i, token in enumerate(("<unk>", "<s>", "</s>"))]
    end = _template(None, "</s>", vocabulary)
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    precompiled = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    strip = {"type": "Strip", "strip_left": False, "strip_right": True}
    spaces = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "\u2581"}
    with_bytes = {**unigram, "byte_fallback": True,
                  "vocab": unigram["vocab"] + [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]}
    quotes = {"type": "Replace", "pattern": {"String": "``"}, "content": '"'}
    return {
        "t5": _document(unigram, base, _normalizers(precompiled, strip, spaces), metaspace, end),
        "albert": _document(unigram, base,
                            _normalizers(quotes, {"type": "NFKD"}, {"type": "StripAccents"},
                                         {"type": "Lowercase"}, precompiled, spaces),
                            _pre({"type": "WhitespaceSplit"}, metaspace), end),
        "unigram": _document(unigram, base, None, metaspace, end),
        "unigram with bytes": _document(with_bytes, base, None, metaspace, end),
        "unigram, words": _document(unigram, base, {"type": "NFKC"},
                                    _pre({"type": "Whitespace"}, {**metaspace, "split": False}), end),
    }


def write(directory, document):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "tokenizer.json").write_text(json.dumps(document, ensure_ascii=False))
    (directory / "tokenizer_config.json").write_text("{}")
    return directory


def write_vocabulary_files(directory, document):
    """The same as GPT-2's older repositories have it."""
    directory.mkdir(parents=True)
    model = document["model"]
    (directory / "vocab.json").write_text(json.dumps(model["vocab"]))
    (directory / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in model["merges"]))
    (directory / "added_tokens.json").write_text(
        json.dumps({token["content"]: token["id"] for token in document["added_tokens"]}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    return directory
