"""Small checkpoints and texts, made from a seed with nothing but the standard library."""

import json
import math
import pathlib
import random
import struct

_ITEM = {"F16": ("e", 2), "F32": ("f", 4), "I32": ("i", 4)}


class Tensor:
    """A dtype of the safetensors format, a shape, and the values in row-major order."""

    def __init__(self, dtype, shape, values):
        self.dtype = dtype
        self.shape = list(shape)
        self.values = list(values)
        assert len(self.values) == math.prod(self.shape), (self.shape, len(self.values))


def safetensors_bytes(tensors):
    """One safetensors file: its 8 bytes of length, its JSON header, its data."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        code, _ = _ITEM[tensor.dtype]
        part = struct.pack(f"<{len(tensor.values)}{code}", *tensor.values)
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [len(data), len(data) + len(part)],
        }
        data += part
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def read_safetensors(path):
    """All tensors of one file, by name."""
    content = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length])
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        code, size = _ITEM[info["dtype"]]
        begin, end = info["data_offsets"]
        values = struct.unpack_from(f"<{(end - begin) // size}{code}", content, 8 + length + begin)
        tensors[name] = Tensor(info["dtype"], info["shape"], values)
    return tensors


def _byte_characters():
    """GPT-2's map from bytes to printable characters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters, extra = {}, 0
    for byte in range(256):
        if byte in plain:
            characters[byte] = chr(byte)
        else:
            characters[byte] = chr(256 + extra)
            extra += 1
    return characters


def tokenizer(vocabulary_size=257):
    """A byte-level BPE without merges: <bos> is 0, byte b is b + 1."""
    vocabulary = {"<bos>": 0}
    for byte, character in _byte_characters().items():
        if byte + 1 < vocabulary_size:
            vocabulary[character] = byte + 1
    for number in range(257, vocabulary_size):
        vocabulary[f"<unused{number}>"] = number
    special = {"id": 0, "content": "<bos>", "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
             "use_regex": True}
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [special],
        "normalizer": None, "pre_tokenizer": level,
        "post_processor": {
            "type": "TemplateProcessing", "single": [bos, text],
            "pair": [bos, text, bos, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [0], "tokens": ["<bos>"]}},
        },
        "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None,
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                  "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary,
                  "merges": []},
    }


TINY_CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
    "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 257, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float16",
    "attention_bias": False, "mlp_bias": False,
}


def linear_shapes(config):
    """The linear layers of a Llama's blocks: [out, in] by module name."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {}
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}"
        shapes.update({
            f"{block}.self_attn.q_proj": [hidden, hidden],
            f"{block}.self_attn.k_proj": [narrow, hidden],
            f"{block}.self_attn.v_proj": [narrow, hidden],
            f"{block}.self_attn.o_proj": [hidden, hidden],
            f"{block}.mlp.gate_proj": [inner, hidden],
            f"{block}.mlp.up_proj": [inner, hidden],
            f"{block}.mlp.down_proj": [hidden, inner],
        })
    return shapes


def random_llama(config, seed=1):
    """Float16 tensors of a random Llama whose channels differ in size, as a trained one's do."""
    generator = random.Random(seed)

    def half(value):
        return struct.unpack("<e", struct.pack("<e", value))[0]

    def matrix(rows, columns, scale):
        sizes = [math.exp(generator.gauss(0, 0.7)) for _ in range(columns)]
        return Tensor("F16", [rows, columns],
                      [half(generator.gauss(0, scale) * sizes[c]) for _ in range(rows)
                       for c in range(columns)])

    def norm(size):
        return Tensor("F16", [size], [half(1 + generator.gauss(0, 0.1)) for _ in range(size)])

    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    tensors = {"model.embed_tokens.weight": matrix(vocabulary, hidden, 0.5)}
    for name, (rows, columns) in linear_shapes(config).items():
        tensors[name + ".weight"] = matrix(rows, columns, 0.8 / math.sqrt(columns))
    for layer in range(config["num_hidden_layers"]):
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = norm(hidden)
        tensors[f"model.layers.{layer}.post_attention_layernorm.weight"] = norm(hidden)
    tensors["model.norm.weight"] = norm(hidden)
    tensors["lm_head.weight"] = matrix(vocabulary, hidden, 0.05)
    return tensors


def write_checkpoint(directory, config=None, tensors=None, tokenizer_json=None):
    """A Hugging Face checkpoint directory; the tiny one where nothing else is given."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True)
    config = config or TINY_CONFIG
    tensors = tensors or random_llama(config)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer_json or tokenizer()))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<bos>", "add_bos_token": True}))
    (directory / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    return directory


def random_text(size, seed=1):
    """`size` bytes of lower-case words."""
    generator = random.Random(seed)
    words = []
    while sum(map(len, words)) + len(words) < size:
        words.append("".join(generator.choice("abcdefghijklmnopqrstuvwxyz")
                             for _ in range(generator.randint(1, 9))))
    return " ".join(words)[:size]
