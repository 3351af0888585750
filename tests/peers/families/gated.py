"""The families that descend from Llama: rotary positions and a gated MLP."""

from __future__ import annotations

from collections.abc import Callable

import torch

from attention import attend, split_heads, split_in_blocks
from defaults import Config, head_size, kv_heads
from experts import is_sparse, mixtral_experts, qwen_experts
from layers import ACTIVATIONS, gated_mlp, gemma_rms_norm, layer_norm, linear, rms_norm
from positions import Rotary, inverse_frequencies, rotary
from weights import Weights

Tensor = torch.Tensor
Block = Callable[[int, Tensor, Weights], Tensor]


def head(x: Tensor, config: Config, w: Weights) -> Tensor:
    """Logits by the output matrix, or by the embedding matrix where the two are tied."""
    tied = config["tie_word_embeddings"]
    return linear(x, w, "model.embed_tokens" if tied else "lm_head")


def pre_norm_decoder(
    config: Config, w: Weights, ids: Tensor, attention: Block, feed_forward: Block
) -> Tensor:
    """Llama's skeleton: x + attention(norm(x)), then x + feed_forward(norm(x))."""
    eps = config["rms_norm_eps"]
    x = w["model.embed_tokens.weight"][ids]
    for index in range(config["num_hidden_layers"]):
        layer = w.below(f"model.layers.{index}.")
        x = x + attention(index, rms_norm(x, layer, "input_layernorm", eps), layer)
        x = x + feed_forward(index, rms_norm(x, layer, "post_attention_layernorm", eps), layer)
    return head(rms_norm(x, w, "model.norm", eps), config, w)


def grouped_attention(
    config: Config,
    turn: Rotary,
    *,
    qkv_bias: bool = False,
    output_bias: bool = False,
    head_norms: bool = False,
    windows: list[int | None] | None = None,
) -> Block:
    """Separate q, k, v and o projections, rotary positions, grouped key and value heads."""
    size, eps = head_size(config), config["rms_norm_eps"]

    def block(index: int, x: Tensor, layer: Weights) -> Tensor:
        w = layer.below("self_attn.")
        q = split_heads(linear(x, w, "q_proj", qkv_bias), config["num_attention_heads"])
        k = split_heads(linear(x, w, "k_proj", qkv_bias), kv_heads(config))
        v = split_heads(linear(x, w, "v_proj", qkv_bias), kv_heads(config))
        if head_norms:
            q, k = rms_norm(q, w, "q_norm", eps), rms_norm(k, w, "k_norm", eps)
        q, k = turn.rotate_halves(q), turn.rotate_halves(k)
        window = windows[index] if windows else None
        y = attend(q, k, v, scale=size**-0.5, window=window)
        return linear(y, w, "o_proj", output_bias)

    return block


def dense_mlp(config: Config, bias: bool = False) -> Block:
    activation = ACTIVATIONS[config["hidden_act"]]
    return lambda index, x, layer: gated_mlp(x, layer.below("mlp."), activation, bias)


def llama(config: Config, w: Weights, ids: Tensor) -> Tensor:
    turn = rotary(config, head_size(config), len(ids))
    bias = config["attention_bias"]
    attention = grouped_attention(config, turn, qkv_bias=bias, output_bias=bias)
    return pre_norm_decoder(config, w, ids, attention, dense_mlp(config, config["mlp_bias"]))


def mistral(config: Config, w: Weights, ids: Tensor) -> Tensor:
    turn = rotary(config, head_size(config), len(ids))
    windows = [config["sliding_window"]] * config["num_hidden_layers"]
    attention = grouped_attention(config, turn, windows=windows)
    return pre_norm_decoder(config, w, ids, attention, dense_mlp(config))


def mixtral(config: Config, w: Weights, ids: Tensor) -> Tensor:
    turn = rotary(config, head_size(config), len(ids))
    windows = [config["sliding_window"]] * config["num_hidden_layers"]
    attention = grouped_attention(config, turn, windows=windows)
    return pre_norm_decoder(config, w, ids, attention, mixtral_experts(config))


def local_layers(config: Config, by_rule: Callable[[int], bool]) -> list[bool]:
    """Which layers have a window: as `layer_types` lists them, else by the family's rule."""
    kinds = config.get("layer_types")
    if kinds:
        return [kind == "sliding_attention" for kind in kinds]
    return [by_rule(index) for index in range(config["num_hidden_layers"])]


def windows_of(config: Config, is_local: list[bool]) -> list[int | None]:
    return [config["sliding_window"] if local else None for local in is_local]


def qwen_windows(config: Config) -> list[int | None]:
    """Qwen's windows: none unless switched on, and then only from max_window_layers up."""
    if not config["use_sliding_window"]:
        return [None] * config["num_hidden_layers"]
    if config["model_type"] not in ("qwen2", "qwen3"):
        raise ValueError("transformers' versions differ on which layers have the window")
    is_local = local_layers(config, lambda index: index >= config["max_window_layers"])
    return windows_of(config, is_local)


def qwen2(config: Config, w: Weights, ids: Tensor) -> Tensor:
    turn = rotary(config, head_size(config), len(ids))
    attention = grouped_attention(config, turn, qkv_bias=True, windows=qwen_windows(config))
    return pre_norm_decoder(config, w, ids, attention, dense_mlp(config))


def qwen3_attention(config: Config, length: int) -> Block:
    turn = rotary(config, head_size(config), length)
    bias = config["attention_bias"]
    return grouped_attention(
        config,
        turn,
        qkv_bias=bias,
        output_bias=bias,
        head_norms=True,
        windows=qwen_windows(config),
    )


def qwen3(config: Config, w: Weights, ids: Tensor) -> Tensor:
    attention = qwen3_attention(config, len(ids))
    return pre_norm_decoder(config, w, ids, attention, dense_mlp(config))


def sparse_or_dense(config: Config, sparse: Block) -> Block:
    dense = dense_mlp(config)
    return lambda index, x, layer: (sparse if is_sparse(config, index) else dense)(
        index, x, layer
    )


def qwen2_moe(config: Config, w: Weights, ids: Tensor) -> Tensor:
    turn = rotary(config, head_size(config), len(ids))
    attention = grouped_attention(
        config, turn, qkv_bias=config["qkv_bias"], windows=qwen_windows(config)
    )
    feed_forward = sparse_or_dense(config, qwen_experts(config, shared=True))
    return pre_norm_decoder(config, w, ids, attention, feed_forward)


def qwen3_moe(config: Config, w: Weights, ids: Tensor) -> Tensor:
    attention = qwen3_attention(config, len(ids))
    feed_forward = sparse_or_dense(config, qwen_experts(config, shared=False))
    return pre_norm_decoder(config, w, ids, attention, feed_forward)


def phi3(config: Config, w: Weights, ids: Tensor) -> Tensor:
    size = head_size(config)
    turn = rotary(config, int(size * config["partial_rotary_factor"]), len(ids))
    activation = ACTIVATIONS[config["hidden_act"]]

    def attention(index: int, x: Tensor, layer: Weights) -> Tensor:
        qkv = linear(x, layer, "self_attn.qkv_proj")
        q, k, v = split_in_blocks(qkv, config["num_attention_heads"], kv_heads(config), size)
        q, k = turn.rotate_halves(q), turn.rotate_halves(k)
        y = attend(q, k, v, scale=size**-0.5, window=config["sliding_window"])
        return linear(y, layer, "self_attn.o_proj")

    def feed_forward(index: int, x: Tensor, layer: Weights) -> Tensor:
        gate, up = linear(x, layer, "mlp.gate_up_proj").chunk(2, dim=-1)
        return linear(activation(gate) * up, layer, "mlp.down_proj")

    return pre_norm_decoder(config, w, ids, attention, feed_forward)


def stablelm(config: Config, w: Weights, ids: Tensor) -> Tensor:
    size, eps, bias = head_size(config), config["layer_norm_eps"], config["use_qkv_bias"]
    turn = rotary(config, int(size * config["partial_rotary_factor"]), len(ids))
    activation = ACTIVATIONS[config["hidden_act"]]

    def norm_each_head(x: Tensor, layer: Weights, name: str) -> Tensor:
        norms = [f"self_attn.{name}.norms.{index}" for index in range(x.shape[1])]
        heads = [layer_norm(x[:, i], layer, n, eps, bias=False) for i, n in enumerate(norms)]
        return torch.stack(heads, dim=1)

    def attention(x: Tensor, layer: Weights) -> Tensor:
        q = linear(x, layer, "self_attn.q_proj", bias)
        k = linear(x, layer, "self_attn.k_proj", bias)
        v = linear(x, layer, "self_attn.v_proj", bias)
        q = split_heads(q, config["num_attention_heads"])
        k, v = split_heads(k, kv_heads(config)), split_heads(v, kv_heads(config))
        if config["qk_layernorm"]:
            q = norm_each_head(q, layer, "q_layernorm")
            k = norm_each_head(k, layer, "k_layernorm")
        y = attend(turn.rotate_halves(q), turn.rotate_halves(k), v, scale=size**-0.5)
        return linear(y, layer, "self_attn.o_proj")

    x = w["model.embed_tokens.weight"][ids]
    for index in range(config["num_hidden_layers"]):
        layer = w.below(f"model.layers.{index}.")
        normed = layer_norm(x, layer, "input_layernorm", eps)
        if config["use_parallel_residual"]:
            mlp = gated_mlp(normed, layer.below("mlp."), activation)
            x = x + attention(normed, layer) + mlp
        else:
            x = x + attention(normed, layer)
            normed = layer_norm(x, layer, "post_attention_layernorm", eps)
            x = x + gated_mlp(normed, layer.below("mlp."), activation)
    return head(layer_norm(x, w, "model.norm", eps), config, w)


def gemma_attention(
    config: Config,
    turns: list[Rotary],
    *,
    scale: float,
    head_norms: bool = False,
    windows: list[int | None] | None = None,
    softcap: float | None = None,
) -> Block:
    """Grouped attention with a rotary embedding per layer and Gemma's extras."""
    eps, bias = config["rms_norm_eps"], config["attention_bias"]

    def block(index: int, x: Tensor, layer: Weights) -> Tensor:
        w = layer.below("self_attn.")
        q = split_heads(linear(x, w, "q_proj", bias), config["num_attention_heads"])
        k = split_heads(linear(x, w, "k_proj", bias), kv_heads(config))
        v = split_heads(linear(x, w, "v_proj", bias), kv_heads(config))
        if head_norms:
            q, k = gemma_rms_norm(q, w, "q_norm", eps), gemma_rms_norm(k, w, "k_norm", eps)
        q, k = turns[index].rotate_halves(q), turns[index].rotate_halves(k)
        window = windows[index] if windows else None
        y = attend(q, k, v, scale=scale, window=window, softcap=softcap)
        return linear(y, w, "o_proj", bias)

    return block


def gemma_activation(config: Config) -> Callable[[Tensor], Tensor]:
    return ACTIVATIONS[config["hidden_activation"] or "gelu_pytorch_tanh"]


def scaled_embedding(config: Config, w: Weights, ids: Tensor) -> Tensor:
    return w["model.embed_tokens.weight"][ids] * config["hidden_size"] ** 0.5


def gemma(config: Config, w: Weights, ids: Tensor) -> Tensor:
    size, eps = head_size(config), config["rms_norm_eps"]
    turns = [rotary(config, size, len(ids))] * config["num_hidden_layers"]
    attention = gemma_attention(config, turns, scale=size**-0.5)
    activation = gemma_activation(config)
    x = scaled_embedding(config, w, ids)
    for index in range(config["num_hidden_layers"]):
        layer = w.below(f"model.layers.{index}.")
        x = x + attention(index, gemma_rms_norm(x, layer, "input_layernorm", eps), layer)
        normed = gemma_rms_norm(x, layer, "post_attention_layernorm", eps)
        x = x + gated_mlp(normed, layer.below("mlp."), activation)
    return head(gemma_rms_norm(x, w, "model.norm", eps), config, w)


def four_norm_decoder(config: Config, w: Weights, ids: Tensor, attention: Block) -> Tensor:
    """Gemma 2 and 3: a norm before and a norm after attention and after the MLP."""
    eps, activation = config["rms_norm_eps"], gemma_activation(config)
    x = scaled_embedding(config, w, ids)
    for index in range(config["num_hidden_layers"]):
        layer = w.below(f"model.layers.{index}.")
        y = attention(index, gemma_rms_norm(x, layer, "input_layernorm", eps), layer)
        x = x + gemma_rms_norm(y, layer, "post_attention_layernorm", eps)
        y = gemma_rms_norm(x, layer, "pre_feedforward_layernorm", eps)
        y = gated_mlp(y, layer.below("mlp."), activation)
        x = x + gemma_rms_norm(y, layer, "post_feedforward_layernorm", eps)
    logits = head(gemma_rms_norm(x, w, "model.norm", eps), config, w)
    cap = config["final_logit_softcapping"]
    return logits if cap is None else cap * torch.tanh(logits / cap)


def gemma2(config: Config, w: Weights, ids: Tensor) -> Tensor:
    turns = [rotary(config, head_size(config), len(ids))] * config["num_hidden_layers"]
    attention = gemma_attention(
        config,
        turns,
        scale=config["query_pre_attn_scalar"] ** -0.5,
        windows=windows_of(config, local_layers(config, lambda index: index % 2 == 0)),
        softcap=config["attn_logit_softcapping"],
    )
    return four_norm_decoder(config, w, ids, attention)


def gemma3_text(config: Config, w: Weights, ids: Tensor) -> Tensor:
    size, length = head_size(config), len(ids)
    pattern = config["sliding_window_pattern"]
    is_local = local_layers(config, lambda index: (index + 1) % pattern != 0)
    whole = rotary(config, size, length)
    local = Rotary.of(inverse_frequencies(config["rope_local_base_freq"], size), length)
    attention = gemma_attention(
        config,
        [local if of_layer else whole for of_layer in is_local],
        scale=config["query_pre_attn_scalar"] ** -0.5,
        head_norms=True,
        windows=windows_of(config, is_local),
        softcap=config["attn_logit_softcapping"],
    )
    return four_norm_decoder(config, w, ids, attention)
