"""The tensors of a Hugging Face checkpoint of each family: names, shapes and fixture values."""

from __future__ import annotations

from collections.abc import Callable

from composite import decoder_config, with_other_parts
from defaults import Config, complete, head_size, kv_heads
from experts import is_sparse
from weights import TensorSpec

MATRIX, BIAS, NORM_GAIN = 0.25, 0.25, 0.5
QUERY = 0.5  # so that attention is far from uniform


class Inventory:
    """Collects tensor specs; `at` sets the prefix of the names that follow."""

    def __init__(self, embedding: float = 1.0, router: float = 0.5) -> None:
        self.specs: dict[str, TensorSpec] = {}
        self.prefix = ""
        self.embedding_amplitude = embedding
        self.router_amplitude = router

    def at(self, prefix: str) -> None:
        self.prefix = prefix

    def add(self, name: str, shape: tuple[int, ...], mean: int, amplitude: float) -> None:
        self.specs[self.prefix + name] = TensorSpec(shape, mean, amplitude)

    def embedding(self, name: str, rows: int, columns: int) -> None:
        self.add(f"{name}.weight", (rows, columns), 0, self.embedding_amplitude)

    def router(self, name: str, experts: int, columns: int) -> None:
        self.add(f"{name}.weight", (experts, columns), 0, self.router_amplitude)

    def linear(self, name: str, outputs: int, inputs: int, bias: bool = False) -> None:
        is_query = name.endswith("q_proj")
        self.add(f"{name}.weight", (outputs, inputs), 0, QUERY if is_query else MATRIX)
        if bias:
            self.add(f"{name}.bias", (outputs,), 0, QUERY if is_query else BIAS)

    def conv1d(self, name: str, inputs: int, outputs: int) -> None:
        self.add(f"{name}.weight", (inputs, outputs), 0, MATRIX)
        self.add(f"{name}.bias", (outputs,), 0, BIAS)

    def norm(self, name: str, size: int, bias: bool = False, mean: int = 1) -> None:
        self.add(f"{name}.weight", (size,), mean, NORM_GAIN)
        if bias:
            self.add(f"{name}.bias", (size,), 0, BIAS)


def gated_mlp(inv: Inventory, name: str, hidden: int, inner: int, bias: bool = False) -> None:
    inv.linear(f"{name}.gate_proj", inner, hidden, bias)
    inv.linear(f"{name}.up_proj", inner, hidden, bias)
    inv.linear(f"{name}.down_proj", hidden, inner, bias)


def separate_attention(
    inv: Inventory, c: Config, qkv_bias: bool = False, output_bias: bool = False
) -> None:
    hidden, size = c["hidden_size"], head_size(c)
    inv.linear("self_attn.q_proj", c["num_attention_heads"] * size, hidden, qkv_bias)
    inv.linear("self_attn.k_proj", kv_heads(c) * size, hidden, qkv_bias)
    inv.linear("self_attn.v_proj", kv_heads(c) * size, hidden, qkv_bias)
    inv.linear("self_attn.o_proj", hidden, c["num_attention_heads"] * size, output_bias)


def around_layers(
    inv: Inventory, c: Config, layer: Callable[[int], None], mean: int = 1, bias: bool = False
) -> None:
    """Embedding, layers, final norm and untied head as Llama names them."""
    hidden, vocabulary = c["hidden_size"], c["vocab_size"]
    inv.embedding("model.embed_tokens", vocabulary, hidden)
    for index in range(c["num_hidden_layers"]):
        inv.at(f"model.layers.{index}.")
        layer(index)
    inv.at("")
    inv.norm("model.norm", hidden, bias, mean)
    if not c["tie_word_embeddings"]:
        inv.linear("lm_head", vocabulary, hidden)


def llama(inv: Inventory, c: Config) -> None:
    """Llama, Mistral, Qwen 2 and 3 and the mixtures: they differ in biases and experts."""
    kind, hidden = c["model_type"], c["hidden_size"]
    qkv_bias = kind == "qwen2" or c.get("qkv_bias", False) or c["attention_bias"]

    def layer(index: int) -> None:
        inv.norm("input_layernorm", hidden)
        separate_attention(inv, c, qkv_bias, c["attention_bias"])
        if kind in ("qwen3", "qwen3_moe"):
            inv.norm("self_attn.q_norm", head_size(c))
            inv.norm("self_attn.k_norm", head_size(c))
        inv.norm("post_attention_layernorm", hidden)
        if kind == "mixtral":
            mixtral_experts(inv, c)
        elif kind in ("qwen2_moe", "qwen3_moe") and is_sparse(c, index):
            qwen_experts(inv, c)
        else:
            gated_mlp(inv, "mlp", hidden, c["intermediate_size"], c.get("mlp_bias", False))

    around_layers(inv, c, layer)


def mixtral_experts(inv: Inventory, c: Config) -> None:
    hidden, inner = c["hidden_size"], c["intermediate_size"]
    inv.router("block_sparse_moe.gate", c["num_local_experts"], hidden)
    for expert in range(c["num_local_experts"]):
        name = f"block_sparse_moe.experts.{expert}"
        inv.linear(f"{name}.w1", inner, hidden)
        inv.linear(f"{name}.w2", hidden, inner)
        inv.linear(f"{name}.w3", inner, hidden)


def qwen_experts(inv: Inventory, c: Config) -> None:
    hidden = c["hidden_size"]
    inv.router("mlp.gate", c["num_experts"], hidden)
    for expert in range(c["num_experts"]):
        gated_mlp(inv, f"mlp.experts.{expert}", hidden, c["moe_intermediate_size"])
    if c["model_type"] == "qwen2_moe":
        gated_mlp(inv, "mlp.shared_expert", hidden, c["shared_expert_intermediate_size"])
        inv.linear("mlp.shared_expert_gate", 1, hidden)


def gemma(inv: Inventory, c: Config) -> None:
    kind, hidden = c["model_type"], c["hidden_size"]

    def layer(index: int) -> None:
        inv.norm("input_layernorm", hidden, mean=0)
        separate_attention(inv, c, c["attention_bias"], c["attention_bias"])
        if kind == "gemma3_text":
            inv.norm("self_attn.q_norm", head_size(c), mean=0)
            inv.norm("self_attn.k_norm", head_size(c), mean=0)
        inv.norm("post_attention_layernorm", hidden, mean=0)
        if kind != "gemma":
            inv.norm("pre_feedforward_layernorm", hidden, mean=0)
            inv.norm("post_feedforward_layernorm", hidden, mean=0)
        gated_mlp(inv, "mlp", hidden, c["intermediate_size"])

    around_layers(inv, c, layer, mean=0)


def phi3(inv: Inventory, c: Config) -> None:
    hidden, inner, size = c["hidden_size"], c["intermediate_size"], head_size(c)
    heads = c["num_attention_heads"]

    def layer(index: int) -> None:
        inv.norm("input_layernorm", hidden)
        inv.linear("self_attn.qkv_proj", (heads + 2 * kv_heads(c)) * size, hidden)
        inv.linear("self_attn.o_proj", hidden, heads * size)
        inv.norm("post_attention_layernorm", hidden)
        inv.linear("mlp.gate_up_proj", 2 * inner, hidden)
        inv.linear("mlp.down_proj", hidden, inner)

    around_layers(inv, c, layer)


def stablelm(inv: Inventory, c: Config) -> None:
    hidden = c["hidden_size"]

    def layer(index: int) -> None:
        inv.norm("input_layernorm", hidden, bias=True)
        separate_attention(inv, c, c["use_qkv_bias"])
        if c["qk_layernorm"]:
            for head in range(c["num_attention_heads"]):
                inv.norm(f"self_attn.q_layernorm.norms.{head}", head_size(c))
            for head in range(kv_heads(c)):
                inv.norm(f"self_attn.k_layernorm.norms.{head}", head_size(c))
        if not c["use_parallel_residual"]:
            inv.norm("post_attention_layernorm", hidden, bias=True)
        gated_mlp(inv, "mlp", hidden, c["intermediate_size"])

    around_layers(inv, c, layer, bias=True)


def phi(inv: Inventory, c: Config) -> None:
    hidden, inner, size = c["hidden_size"], c["intermediate_size"], head_size(c)
    heads = c["num_attention_heads"]
    inv.embedding("model.embed_tokens", c["vocab_size"], hidden)
    for index in range(c["num_hidden_layers"]):
        inv.at(f"model.layers.{index}.")
        inv.norm("input_layernorm", hidden, bias=True)
        inv.linear("self_attn.q_proj", heads * size, hidden, bias=True)
        inv.linear("self_attn.k_proj", kv_heads(c) * size, hidden, bias=True)
        inv.linear("self_attn.v_proj", kv_heads(c) * size, hidden, bias=True)
        inv.linear("self_attn.dense", hidden, heads * size, bias=True)
        inv.linear("mlp.fc1", inner, hidden, bias=True)
        inv.linear("mlp.fc2", hidden, inner, bias=True)
    inv.at("")
    inv.norm("model.final_layernorm", hidden, bias=True)
    inv.linear("lm_head", c["vocab_size"], hidden, bias=True)


def opt(inv: Inventory, c: Config) -> None:
    hidden, embedded, bias = c["hidden_size"], c["word_embed_proj_dim"], c["enable_bias"]
    inv.at("model.decoder.")
    inv.embedding("embed_tokens", c["vocab_size"], embedded)
    inv.embedding("embed_positions", c["max_position_embeddings"] + 2, hidden)
    if embedded != hidden:
        inv.linear("project_out", embedded, hidden)
        inv.linear("project_in", hidden, embedded)
    if c["do_layer_norm_before"] and not c["_remove_final_layer_norm"]:
        inv.norm("final_layer_norm", hidden, bias=True)
    for index in range(c["num_hidden_layers"]):
        inv.at(f"model.decoder.layers.{index}.")
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            inv.linear(f"self_attn.{name}", hidden, hidden, bias)
        inv.norm("self_attn_layer_norm", hidden, bias=True)
        inv.linear("fc1", c["ffn_dim"], hidden, bias)
        inv.linear("fc2", hidden, c["ffn_dim"], bias)
        inv.norm("final_layer_norm", hidden, bias=True)


def megatron_layer(inv: Inventory, hidden: int, inner: int, qkv: int, bias: bool) -> None:
    """Attention and MLP with the names that BLOOM and Falcon share."""
    inv.linear("self_attention.query_key_value", qkv, hidden, bias)
    inv.linear("self_attention.dense", hidden, hidden, bias)
    inv.linear("mlp.dense_h_to_4h", inner, hidden, bias)
    inv.linear("mlp.dense_4h_to_h", hidden, inner, bias)


def bloom(inv: Inventory, c: Config) -> None:
    hidden = c["hidden_size"]
    inv.at("transformer.")
    inv.embedding("word_embeddings", c["vocab_size"], hidden)
    inv.norm("word_embeddings_layernorm", hidden, bias=True)
    for index in range(c["n_layer"]):
        inv.at(f"transformer.h.{index}.")
        inv.norm("input_layernorm", hidden, bias=True)
        megatron_layer(inv, hidden, 4 * hidden, 3 * hidden, bias=True)
        inv.norm("post_attention_layernorm", hidden, bias=True)
    inv.at("transformer.")
    inv.norm("ln_f", hidden, bias=True)


def falcon(inv: Inventory, c: Config) -> None:
    hidden, size, heads = c["hidden_size"], head_size(c), c["num_attention_heads"]
    inner = c.get("ffn_hidden_size") or 4 * hidden
    two_norms = c["new_decoder_architecture"] and c.get("num_ln_in_parallel_attn") != 1
    if c["new_decoder_architecture"]:
        qkv = (heads + 2 * c["num_kv_heads"]) * size
    else:
        qkv = (heads + 2) * size if c["multi_query"] else 3 * hidden
    inv.at("transformer.")
    inv.embedding("word_embeddings", c["vocab_size"], hidden)
    for index in range(c["num_hidden_layers"]):
        inv.at(f"transformer.h.{index}.")
        megatron_layer(inv, hidden, inner, qkv, c["bias"])
        for name in ("ln_attn", "ln_mlp") if two_norms else ("input_layernorm",):
            inv.norm(name, hidden, bias=True)
        if not c["new_decoder_architecture"] and not c["parallel_attn"]:
            inv.norm("post_attention_layernorm", hidden, bias=True)
    inv.at("transformer.")
    inv.norm("ln_f", hidden, bias=True)
    inv.at("")
    if not c["tie_word_embeddings"]:
        inv.linear("lm_head", c["vocab_size"], hidden)


def gpt_neox(inv: Inventory, c: Config) -> None:
    hidden, inner, bias = c["hidden_size"], c["intermediate_size"], c["attention_bias"]
    inv.at("gpt_neox.")
    inv.embedding("embed_in", c["vocab_size"], hidden)
    for index in range(c["num_hidden_layers"]):
        inv.at(f"gpt_neox.layers.{index}.")
        inv.norm("input_layernorm", hidden, bias=True)
        inv.norm("post_attention_layernorm", hidden, bias=True)
        inv.linear("attention.query_key_value", 3 * hidden, hidden, bias)
        inv.linear("attention.dense", hidden, hidden, bias)
        inv.linear("mlp.dense_h_to_4h", inner, hidden, bias=True)
        inv.linear("mlp.dense_4h_to_h", hidden, inner, bias=True)
    inv.at("")
    inv.norm("gpt_neox.final_layer_norm", hidden, bias=True)
    if not c["tie_word_embeddings"]:
        inv.linear("embed_out", c["vocab_size"], hidden)


def gpt2(inv: Inventory, c: Config) -> None:
    hidden = c["n_embd"]
    inner = c.get("n_inner") or 4 * hidden
    inv.at("transformer.")
    inv.embedding("wte", c["vocab_size"], hidden)
    inv.embedding("wpe", c["n_positions"], hidden)
    for index in range(c["n_layer"]):
        inv.at(f"transformer.h.{index}.")
        inv.norm("ln_1", hidden, bias=True)
        inv.conv1d("attn.c_attn", hidden, 3 * hidden)
        inv.conv1d("attn.c_proj", hidden, hidden)
        inv.norm("ln_2", hidden, bias=True)
        inv.conv1d("mlp.c_fc", hidden, inner)
        inv.conv1d("mlp.c_proj", inner, hidden)
    inv.at("transformer.")
    inv.norm("ln_f", hidden, bias=True)


def gptj(inv: Inventory, c: Config) -> None:
    hidden = c["n_embd"]
    inner = c.get("n_inner") or 4 * hidden
    inv.at("transformer.")
    inv.embedding("wte", c["vocab_size"], hidden)
    for index in range(c["n_layer"]):
        inv.at(f"transformer.h.{index}.")
        inv.norm("ln_1", hidden, bias=True)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            inv.linear(f"attn.{name}", hidden, hidden)
        inv.linear("mlp.fc_in", inner, hidden, bias=True)
        inv.linear("mlp.fc_out", hidden, inner, bias=True)
    inv.at("")
    inv.norm("transformer.ln_f", hidden, bias=True)
    inv.linear("lm_head", c["vocab_size"], hidden, bias=True)


def mpt(inv: Inventory, c: Config) -> None:
    hidden, inner = c["d_model"], c["expansion_ratio"] * c["d_model"]
    inv.at("transformer.")
    inv.embedding("wte", c["vocab_size"], hidden)
    for index in range(c["n_layers"]):
        inv.at(f"transformer.blocks.{index}.")
        inv.norm("norm_1", hidden)
        inv.linear("attn.Wqkv", 3 * hidden, hidden)
        inv.linear("attn.out_proj", hidden, hidden)
        inv.norm("norm_2", hidden)
        inv.linear("ffn.up_proj", inner, hidden)
        inv.linear("ffn.down_proj", hidden, inner)
    inv.at("transformer.")
    inv.norm("norm_f", hidden)


INVENTORIES: dict[str, Callable[[Inventory, Config], None]] = {
    "llama": llama,
    "mistral": llama,
    "mixtral": llama,
    "qwen2": llama,
    "qwen3": llama,
    "qwen2_moe": llama,
    "qwen3_moe": llama,
    "gemma": gemma,
    "gemma2": gemma,
    "gemma3_text": gemma,
    "phi3": phi3,
    "stablelm": stablelm,
    "phi": phi,
    "opt": opt,
    "bloom": bloom,
    "falcon": falcon,
    "gpt_neox": gpt_neox,
    "gpt2": gpt2,
    "gptj": gptj,
    "mpt": mpt,
}


def tensor_specs(
    config: Config, embedding: float = 1.0, router: float = 0.5
) -> dict[str, TensorSpec]:
    """Exactly the tensors that a checkpoint of this config holds."""
    inv = Inventory(embedding, router)
    decoder = decoder_config(config)
    INVENTORIES[decoder["model_type"]](inv, complete(decoder))
    return inv.specs if decoder is config else with_other_parts(inv.specs)
