"""The families with an ungated MLP and LayerNorm: OPT, BLOOM, Falcon, GPT-NeoX, GPT-2,
GPT-J, MPT and Phi."""

from __future__ import annotations

import torch

from attention import attend, split_heads, split_in_blocks, split_per_group, split_per_head
from defaults import Config, head_size, kv_heads
from layers import ACTIVATIONS, Activation, conv1d, gelu_exact, gelu_tanh, layer_norm, linear
from positions import Rotary, alibi_slopes, inverse_frequencies, mpt_slopes, rotary
from weights import Weights

Tensor = torch.Tensor

OPT_POSITION_OFFSET = 2
OPT_NORM_EPS = 1e-5
GPTJ_ROPE_THETA = 10000.0


def mlp(x: Tensor, w: Weights, names: tuple[str, str], act: Activation, bias: bool) -> Tensor:
    return linear(act(linear(x, w, names[0], bias)), w, names[1], bias)


def opt(config: Config, w: Weights, ids: Tensor) -> Tensor:
    decoder = w.below("model.decoder.")
    projected = (config.get("word_embed_proj_dim") or config["hidden_size"]) != config[
        "hidden_size"
    ]
    x = decoder["embed_tokens.weight"][ids]
    if projected:
        x = linear(x, decoder, "project_in")
    positions = torch.arange(len(ids)) + OPT_POSITION_OFFSET
    x = x + decoder["embed_positions.weight"][positions]
    for index in range(config["num_hidden_layers"]):
        x = opt_layer(x, config, decoder.below(f"layers.{index}."))
    if config["do_layer_norm_before"] and not config["_remove_final_layer_norm"]:
        x = layer_norm(x, decoder, "final_layer_norm", OPT_NORM_EPS)
    if projected:
        x = linear(x, decoder, "project_out")
    tied = config["tie_word_embeddings"]
    return linear(x, w, "model.decoder.embed_tokens" if tied else "lm_head")


def opt_layer(x: Tensor, config: Config, layer: Weights) -> Tensor:
    before, bias = config["do_layer_norm_before"], config["enable_bias"]
    activation = ACTIVATIONS[config["activation_function"]]

    def norm(rows: Tensor, name: str) -> Tensor:
        return layer_norm(rows, layer, name, OPT_NORM_EPS)

    y = norm(x, "self_attn_layer_norm") if before else x
    x = x + opt_attention(y, config, layer.below("self_attn."))
    x = x if before else norm(x, "self_attn_layer_norm")
    y = norm(x, "final_layer_norm") if before else x
    x = x + mlp(y, layer, ("fc1", "fc2"), activation, bias)
    return x if before else norm(x, "final_layer_norm")


def opt_attention(x: Tensor, config: Config, w: Weights) -> Tensor:
    heads, bias = config["num_attention_heads"], config["enable_bias"]
    q, k, v = (split_heads(linear(x, w, f"{n}_proj", bias), heads) for n in "qkv")
    y = attend(q, k, v, scale=head_size(config) ** -0.5)
    return linear(y, w, "out_proj", bias)


def bloom(config: Config, w: Weights, ids: Tensor) -> Tensor:
    model, eps, heads = w.below("transformer."), config["layer_norm_epsilon"], config["n_head"]
    slopes, size = alibi_slopes(heads), config["hidden_size"] // heads
    normed_residual = config["apply_residual_connection_post_layernorm"]
    x = model["word_embeddings.weight"][ids]
    x = layer_norm(x, model, "word_embeddings_layernorm", eps)
    for index in range(config["n_layer"]):
        layer = model.below(f"h.{index}.")
        normed = layer_norm(x, layer, "input_layernorm", eps)
        q, k, v = split_per_head(linear(normed, layer, QKV, bias=True), heads)
        y = attend(q, k, v, scale=size**-0.5, alibi=slopes)
        y = linear(y, layer, "self_attention.dense", bias=True)
        x = y + (normed if normed_residual else x)
        normed = layer_norm(x, layer, "post_attention_layernorm", eps)
        y = mlp(normed, layer, MEGATRON_MLP, gelu_tanh, bias=True)
        x = y + (normed if normed_residual else x)
    return linear(layer_norm(x, model, "ln_f", eps), w, "transformer.word_embeddings")


QKV = "self_attention.query_key_value"
MEGATRON_MLP = ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


def falcon(config: Config, w: Weights, ids: Tensor) -> Tensor:
    model, eps = w.below("transformer."), config["layer_norm_epsilon"]
    turn = None if config["alibi"] else rotary(config, head_size(config), len(ids))
    x = model["word_embeddings.weight"][ids]
    for index in range(config["num_hidden_layers"]):
        x = falcon_layer(x, config, model.below(f"h.{index}."), turn)
    x = layer_norm(x, model, "ln_f", eps)
    tied = config["tie_word_embeddings"]
    return linear(x, w, "transformer.word_embeddings" if tied else "lm_head")


def falcon_layer(x: Tensor, config: Config, layer: Weights, turn: Rotary | None) -> Tensor:
    eps, activation = config["layer_norm_epsilon"], ACTIVATIONS[config["activation"]]

    def norm(rows: Tensor, name: str) -> Tensor:
        return layer_norm(rows, layer, name, eps)

    def feed_forward(rows: Tensor) -> Tensor:
        return mlp(rows, layer, MEGATRON_MLP, activation, config["bias"])

    if config["new_decoder_architecture"] and config.get("num_ln_in_parallel_attn") != 1:
        y = falcon_attention(norm(x, "ln_attn"), config, layer, turn)
        return x + y + feed_forward(norm(x, "ln_mlp"))
    normed = norm(x, "input_layernorm")
    y = falcon_attention(normed, config, layer, turn)
    if config["new_decoder_architecture"] or config["parallel_attn"]:
        return x + y + feed_forward(normed)
    x = x + y
    return x + feed_forward(norm(x, "post_attention_layernorm"))


def falcon_attention(
    x: Tensor, config: Config, layer: Weights, turn: Rotary | None
) -> Tensor:
    heads, size = config["num_attention_heads"], head_size(config)
    qkv = linear(x, layer, QKV, config["bias"])
    if config["new_decoder_architecture"]:
        q, k, v = split_per_group(qkv, heads, config.get("num_kv_heads") or heads)
    elif config["multi_query"]:
        q, k, v = split_in_blocks(qkv, heads, 1, size)
    else:
        q, k, v = split_per_head(qkv, heads)
    slopes = None
    if turn is None:
        slopes = alibi_slopes(heads) * size**-0.5  # Falcon scales the sum of score and bias
    else:
        q, k = turn.rotate_halves(q), turn.rotate_halves(k)
    y = attend(q, k, v, scale=size**-0.5, alibi=slopes)
    return linear(y, layer, "self_attention.dense", config["bias"])


def gpt_neox(config: Config, w: Weights, ids: Tensor) -> Tensor:
    model, eps, size = w.below("gpt_neox."), config["layer_norm_eps"], head_size(config)
    activation, bias = ACTIVATIONS[config["hidden_act"]], config["attention_bias"]
    rope_config = {**config, "rope_theta": config["rotary_emb_base"]}
    turn = rotary(rope_config, int(size * config["rotary_pct"]), len(ids))

    def attention(rows: Tensor, layer: Weights) -> Tensor:
        qkv = linear(rows, layer, "attention.query_key_value", bias)
        q, k, v = split_per_head(qkv, config["num_attention_heads"])
        y = attend(turn.rotate_halves(q), turn.rotate_halves(k), v, scale=size**-0.5)
        return linear(y, layer, "attention.dense", bias)

    x = model["embed_in.weight"][ids]
    for index in range(config["num_hidden_layers"]):
        layer = model.below(f"layers.{index}.")
        after = x + attention(layer_norm(x, layer, "input_layernorm", eps), layer)
        source = x if config["use_parallel_residual"] else after
        normed = layer_norm(source, layer, "post_attention_layernorm", eps)
        x = after + mlp(normed, layer, MEGATRON_MLP, activation, bias=True)
    x = layer_norm(x, model, "final_layer_norm", eps)
    return linear(x, w, "gpt_neox.embed_in" if config["tie_word_embeddings"] else "embed_out")


def gpt2(config: Config, w: Weights, ids: Tensor) -> Tensor:
    model, eps, heads = w.below("transformer."), config["layer_norm_epsilon"], config["n_head"]
    size, activation = config["n_embd"] // heads, ACTIVATIONS[config["activation_function"]]
    x = model["wte.weight"][ids] + model["wpe.weight"][: len(ids)]
    for index in range(config["n_layer"]):
        layer = model.below(f"h.{index}.")
        scale = size**-0.5 if config["scale_attn_weights"] else 1.0
        if config["scale_attn_by_inverse_layer_idx"]:
            scale /= index + 1
        qkv = conv1d(layer_norm(x, layer, "ln_1", eps), layer, "attn.c_attn")
        q, k, v = split_in_blocks(qkv, heads, heads, size)
        x = x + conv1d(attend(q, k, v, scale=scale), layer, "attn.c_proj")
        y = activation(conv1d(layer_norm(x, layer, "ln_2", eps), layer, "mlp.c_fc"))
        x = x + conv1d(y, layer, "mlp.c_proj")
    x = layer_norm(x, model, "ln_f", eps)
    return linear(x, w, "transformer.wte" if config["tie_word_embeddings"] else "lm_head")


def gptj(config: Config, w: Weights, ids: Tensor) -> Tensor:
    model, eps, heads = w.below("transformer."), config["layer_norm_epsilon"], config["n_head"]
    size, activation = config["n_embd"] // heads, ACTIVATIONS[config["activation_function"]]
    turn = Rotary.of(inverse_frequencies(GPTJ_ROPE_THETA, config["rotary_dim"]), len(ids))
    x = model["wte.weight"][ids]
    for index in range(config["n_layer"]):
        layer = model.below(f"h.{index}.")
        normed = layer_norm(x, layer, "ln_1", eps)
        q, k, v = (split_heads(linear(normed, layer, f"attn.{n}_proj"), heads) for n in "qkv")
        q, k = turn.rotate_neighbours(q), turn.rotate_neighbours(k)
        y = linear(attend(q, k, v, scale=size**-0.5), layer, "attn.out_proj")
        x = x + y + mlp(normed, layer, ("mlp.fc_in", "mlp.fc_out"), activation, bias=True)
    return linear(layer_norm(x, model, "ln_f", eps), w, "lm_head", bias=True)


def mpt(config: Config, w: Weights, ids: Tensor) -> Tensor:
    model, eps, heads = w.below("transformer."), config["layer_norm_epsilon"], config["n_heads"]
    options, size = config.get("attn_config") or {}, config["d_model"] // heads
    slopes = mpt_slopes(heads, options.get("alibi_bias_max", 8))
    scale = options.get("softmax_scale") or size**-0.5
    clip = options.get("clip_qkv")
    x = model["wte.weight"][ids]
    for index in range(config["n_layers"]):
        layer = model.below(f"blocks.{index}.")
        qkv = linear(layer_norm(x, layer, "norm_1", eps, bias=False), layer, "attn.Wqkv")
        qkv = qkv.clamp(-clip, clip) if clip else qkv
        q, k, v = split_in_blocks(qkv, heads, heads, size)
        x = x + linear(attend(q, k, v, scale=scale, alibi=slopes), layer, "attn.out_proj")
        y = layer_norm(x, layer, "norm_2", eps, bias=False)
        x = x + mlp(y, layer, ("ffn.up_proj", "ffn.down_proj"), gelu_exact, bias=False)
    x = layer_norm(x, model, "norm_f", eps, bias=False)
    return linear(x, w, "transformer.wte" if config["tie_word_embeddings"] else "lm_head")


def phi(config: Config, w: Weights, ids: Tensor) -> Tensor:
    model, eps, size = w.below("model."), config["layer_norm_eps"], head_size(config)
    heads, activation = config["num_attention_heads"], ACTIVATIONS[config["hidden_act"]]
    turn = rotary(config, int(size * config["partial_rotary_factor"]), len(ids))

    def attention(rows: Tensor, layer: Weights) -> Tensor:
        own = layer.below("self_attn.")
        q = split_heads(linear(rows, own, "q_proj", bias=True), heads)
        k = split_heads(linear(rows, own, "k_proj", bias=True), kv_heads(config))
        v = split_heads(linear(rows, own, "v_proj", bias=True), kv_heads(config))
        if config["qk_layernorm"]:
            q = layer_norm(q, own, "q_layernorm", eps)
            k = layer_norm(k, own, "k_layernorm", eps)
        y = attend(turn.rotate_halves(q), turn.rotate_halves(k), v, scale=size**-0.5)
        return linear(y, own, "dense", bias=True)

    x = model["embed_tokens.weight"][ids]
    for index in range(config["num_hidden_layers"]):
        layer = model.below(f"layers.{index}.")
        normed = layer_norm(x, layer, "input_layernorm", eps)
        y = mlp(normed, layer.below("mlp."), ("fc1", "fc2"), activation, bias=True)
        x = x + attention(normed, layer) + y
    return linear(layer_norm(x, model, "final_layernorm", eps), w, "lm_head", bias=True)
