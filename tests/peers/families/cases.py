"""The cases: one small config per variant, with the keys that Hugging Face writes."""

from __future__ import annotations

from dataclasses import dataclass

from defaults import Config

VERSION = "4.51.3"


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    config: Config
    embedding: float = 1.0
    router: float = 0.5


def modern(model_type: str, architecture: str, **changes: object) -> Config:
    """Keys that the descendants of Llama have in common; None as a change removes nothing."""
    config = {
        "architectures": [architecture],
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 32,
        "initializer_range": 0.02,
        "intermediate_size": 64,
        "max_position_embeddings": 256,
        "model_type": model_type,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": VERSION,
        "use_cache": True,
        "vocab_size": 96,
    }
    return {**config, **changes}


def without(config: Config, *keys: str) -> Config:
    return {key: value for key, value in config.items() if key not in keys}


def llama(**changes: object) -> Config:
    config = modern("llama", "LlamaForCausalLM", attention_bias=False, mlp_bias=False)
    return {**config, "pretraining_tp": 1, **changes}


LLAMA_CASES = [
    Case(
        "llama",
        "Grouped key and value heads, tied head given by the embedding, no rope scaling.",
        llama(tie_word_embeddings=True),
    ),
    Case(
        "llama-rope-linear",
        "rope_scaling linear in its older spelling ('type'): positions divided by 4.",
        llama(rope_scaling={"factor": 4.0, "type": "linear"}),
    ),
    Case(
        "llama-rope-dynamic",
        "rope_scaling dynamic with 48 ids over 32 trained positions: the base grows with the "
        "length of the whole sequence, and serves all positions of the pass.",
        llama(max_position_embeddings=32, rope_scaling={"factor": 2.0, "rope_type": "dynamic"}),
    ),
    Case(
        "llama-rope-llama3",
        "rope_scaling llama3, head_dim 16: frequencies that are kept, blended and divided.",
        llama(
            head_dim=16,
            rope_scaling={
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 128,
                "rope_type": "llama3",
            },
            max_position_embeddings=1024,
        ),
    ),
    Case(
        "llama-rope-yarn",
        "rope_scaling yarn with its defaults (beta 32 and 1, truncated ramp, attention factor "
        "0.1 ln 4 + 1), head_dim 16.",
        llama(
            head_dim=16,
            max_position_embeddings=8192,
            rope_scaling={
                "factor": 4.0,
                "original_max_position_embeddings": 2048,
                "rope_type": "yarn",
            },
        ),
    ),
    Case(
        "llama-rope-yarn-mscale",
        "rope_scaling yarn with beta 16 and 2, truncate false and the attention factor by the "
        "quotient of mscale and mscale_all_dim.",
        llama(
            head_dim=16,
            max_position_embeddings=8192,
            rope_scaling={
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "factor": 4.0,
                "mscale": 1.0,
                "mscale_all_dim": 0.5,
                "original_max_position_embeddings": 2048,
                "rope_type": "yarn",
                "truncate": False,
            },
        ),
    ),
    Case(
        "llama-rope-parameters",
        "The spelling of transformers 5: rope_parameters for rope_theta and rope_scaling, dtype "
        "for torch_dtype.",
        without(
            llama(
                dtype="float16",
                rope_parameters={"factor": 2.0, "rope_theta": 1000.0, "rope_type": "linear"},
                transformers_version="5.0.0",
            ),
            "rope_scaling",
            "rope_theta",
            "torch_dtype",
            "pretraining_tp",
        ),
    ),
    Case(
        "llama-bias",
        "attention_bias and mlp_bias, untied head, head_dim 16 where hidden / heads is 8, "
        "num_key_value_heads left out (as many as query heads).",
        without(llama(attention_bias=True, mlp_bias=True, head_dim=16), "num_key_value_heads"),
    ),
    Case(
        "mistral",
        "A sliding window of 16 in every layer, over 48 ids.",
        modern("mistral", "MistralForCausalLM", head_dim=8, sliding_window=16),
    ),
    Case(
        "qwen2",
        "Biases at q, k and v alone, tied head; sliding_window is set but not in use.",
        modern(
            "qwen2",
            "Qwen2ForCausalLM",
            rms_norm_eps=1e-06,
            rope_theta=1000000.0,
            tie_word_embeddings=True,
            sliding_window=16,
            use_sliding_window=False,
            max_window_layers=1,
        ),
    ),
    Case(
        "qwen2-window",
        "use_sliding_window: layers from max_window_layers (1 of 3) up see 16 keys.",
        modern(
            "qwen2",
            "Qwen2ForCausalLM",
            num_hidden_layers=3,
            rms_norm_eps=1e-06,
            rope_theta=1000000.0,
            sliding_window=16,
            use_sliding_window=True,
            max_window_layers=1,
        ),
    ),
    Case(
        "qwen3",
        "RMSNorm over each query and key head before rotation, head_dim 16, no biases, tied.",
        modern(
            "qwen3",
            "Qwen3ForCausalLM",
            attention_bias=False,
            head_dim=16,
            max_window_layers=2,
            rms_norm_eps=1e-06,
            rope_theta=1000000.0,
            sliding_window=None,
            tie_word_embeddings=True,
            use_sliding_window=False,
        ),
    ),
]


def gemma(model_type: str, architecture: str, **changes: object) -> Config:
    config = modern(
        model_type,
        architecture,
        attention_bias=False,
        bos_token_id=2,
        eos_token_id=1,
        head_dim=16,
        hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh",
        pad_token_id=0,
        rms_norm_eps=1e-06,
    )
    return {**without(config, "tie_word_embeddings"), **changes}


GEMMA_CASES = [
    Case(
        "gemma",
        "Scaled embedding, gains stored as distance from one, tanh gelu, one key and value "
        "head, head_dim 16, tied by default.",
        without(gemma("gemma", "GemmaForCausalLM", num_key_value_heads=1), "hidden_activation"),
        embedding=0.5,
    ),
    Case(
        "gemma2",
        "Soft caps on scores and logits, query_pre_attn_scalar that is not head_dim, windows "
        "of 16 in layers 0 and 2, four norms a layer.",
        without(
            gemma(
                "gemma2",
                "Gemma2ForCausalLM",
                attn_logit_softcapping=2.0,
                cache_implementation="hybrid",
                final_logit_softcapping=5.0,
                num_hidden_layers=3,
                query_pre_attn_scalar=8,
                sliding_window=16,
            ),
            "rope_scaling",
        ),
        embedding=0.5,
    ),
    Case(
        "gemma3_text",
        "Norms over query and key heads; windows of 16 with the local rope base in layers 0, 1 "
        "and 3; layer 2 sees all, with rope_theta and linear scaling (sliding_window_pattern 3).",
        gemma(
            "gemma3_text",
            "Gemma3ForCausalLM",
            attn_logit_softcapping=None,
            cache_implementation="hybrid",
            final_logit_softcapping=None,
            num_hidden_layers=4,
            query_pre_attn_scalar=8,
            rope_local_base_freq=100.0,
            rope_scaling={"factor": 8.0, "rope_type": "linear"},
            rope_theta=1000.0,
            sliding_window=16,
            sliding_window_pattern=3,
        ),
        embedding=0.5,
    ),
    Case(
        "gemma3_text-layer-types",
        "As gemma3_text, with the kinds of the layers listed in layer_types: sliding, full, "
        "sliding.",
        gemma(
            "gemma3_text",
            "Gemma3ForCausalLM",
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            num_hidden_layers=3,
            query_pre_attn_scalar=16,
            rope_local_base_freq=100.0,
            rope_theta=1000.0,
            sliding_window=16,
            transformers_version="4.55.0",
            use_bidirectional_attention=False,
        ),
        embedding=0.5,
    ),
]

GEMMA_CASES.append(
    Case(
        "gemma3_text-rope-parameters",
        "The spelling of transformers 5: rope_parameters for each kind of layer, layer_types.",
        without(
            gemma(
                "gemma3_text",
                "Gemma3ForCausalLM",
                attn_logit_softcapping=None,
                dtype="float16",
                final_logit_softcapping=None,
                layer_types=["sliding_attention", "full_attention"],
                query_pre_attn_scalar=16,
                rope_parameters={
                    "full_attention": {
                        "factor": 8.0,
                        "rope_theta": 1000.0,
                        "rope_type": "linear",
                    },
                    "sliding_attention": {"rope_theta": 100.0, "rope_type": "default"},
                },
                sliding_window=16,
                tie_word_embeddings=True,
                transformers_version="5.0.0",
                use_bidirectional_attention=False,
            ),
            "rope_scaling",
            "rope_theta",
            "torch_dtype",
        ),
        embedding=0.5,
    )
)


def phi3(**changes: object) -> Config:
    config = modern(
        "phi3",
        "Phi3ForCausalLM",
        attention_bias=False,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        original_max_position_embeddings=256,
        pad_token_id=0,
        sliding_window=None,
    )
    return {**config, **changes}


LONGROPE = {
    "long_factor": [1.0, 2.5, 6.0, 12.0],
    "short_factor": [1.0, 1.25, 1.5, 2.0],
    "type": "longrope",
}

PHI_CASES = [
    Case(
        "phi",
        "Rotation of half of each head, attention and MLP side by side after one LayerNorm, "
        "biases everywhere (the head too), tanh gelu, num_key_value_heads null.",
        without(
            modern(
                "phi",
                "PhiForCausalLM",
                embd_pdrop=0.0,
                hidden_act="gelu_new",
                layer_norm_eps=1e-05,
                num_key_value_heads=None,
                partial_rotary_factor=0.5,
                qk_layernorm=False,
                resid_pdrop=0.0,
            ),
            "rms_norm_eps",
        ),
    ),
    Case(
        "phi3",
        "Fused qkv_proj (q, k, v in blocks) and gate_up_proj (gate before up), window of 16.",
        phi3(sliding_window=16),
    ),
    Case(
        "phi3-partial-rotary",
        "partial_rotary_factor 0.5 and a tied head, as Phi-4-mini has.",
        phi3(partial_rotary_factor=0.5, tie_word_embeddings=True),
    ),
    Case(
        "phi3-longrope",
        "longrope with 48 ids over 32 trained positions: long factors in all positions, "
        "attention factor sqrt(1 + ln 4 / ln 32).",
        phi3(
            max_position_embeddings=128,
            original_max_position_embeddings=32,
            rope_scaling=LONGROPE,
        ),
    ),
    Case(
        "phi3-longrope-short",
        "longrope with 48 ids within 64 trained positions: short factors, attention factor "
        "sqrt(1 + ln 4 / ln 64) all the same.",
        phi3(
            max_position_embeddings=256,
            original_max_position_embeddings=64,
            rope_scaling=LONGROPE,
        ),
    ),
]


def stablelm(**changes: object) -> Config:
    config = modern(
        "stablelm",
        "StableLmForCausalLM",
        hidden_dropout=0.0,
        layer_norm_eps=1e-05,
        partial_rotary_factor=0.5,
        qk_layernorm=False,
        use_parallel_residual=False,
        use_qkv_bias=False,
    )
    return {**without(config, "rms_norm_eps"), **changes}


STABLELM_CASES = [
    Case(
        "stablelm",
        "LayerNorm with a gated MLP, rotation of half of each head, biases at q, k and v.",
        stablelm(use_qkv_bias=True),
    ),
    Case(
        "stablelm-parallel",
        "use_parallel_residual (one norm a layer) and qk_layernorm (a LayerNorm without bias "
        "for each head).",
        stablelm(use_parallel_residual=True, qk_layernorm=True),
    ),
]

EXPERT_CASES = [
    Case(
        "mixtral",
        "Four experts in every layer, the best two by softmax, weights brought to sum 1.",
        modern(
            "mixtral",
            "MixtralForCausalLM",
            intermediate_size=32,
            num_experts_per_tok=2,
            num_local_experts=4,
            output_router_logits=False,
            rope_theta=1000000.0,
            router_aux_loss_coef=0.02,
            router_jitter_noise=0.0,
            sliding_window=None,
        ),
    ),
    Case(
        "qwen2_moe",
        "Layer 1 of 3 dense by mlp_only_layers; the others with a shared expert behind a "
        "sigmoid gate and weights of the best two as the softmax gives them.",
        modern(
            "qwen2_moe",
            "Qwen2MoeForCausalLM",
            decoder_sparse_step=1,
            max_window_layers=3,
            mlp_only_layers=[1],
            moe_intermediate_size=32,
            norm_topk_prob=False,
            num_experts=4,
            num_experts_per_tok=2,
            num_hidden_layers=3,
            output_router_logits=False,
            rms_norm_eps=1e-06,
            rope_theta=1000000.0,
            router_aux_loss_coef=0.001,
            shared_expert_intermediate_size=48,
            sliding_window=32768,
            use_sliding_window=False,
        ),
    ),
    Case(
        "qwen3_moe",
        "Norms over query and key heads, head_dim 16, layer 0 dense by decoder_sparse_step 2, "
        "layer 1 with the weights of the best two brought to sum 1.",
        modern(
            "qwen3_moe",
            "Qwen3MoeForCausalLM",
            attention_bias=False,
            decoder_sparse_step=2,
            head_dim=16,
            max_window_layers=2,
            mlp_only_layers=[],
            moe_intermediate_size=32,
            norm_topk_prob=True,
            num_experts=4,
            num_experts_per_tok=2,
            output_router_logits=False,
            rms_norm_eps=1e-06,
            rope_theta=1000000.0,
            router_aux_loss_coef=0.001,
            sliding_window=None,
            use_sliding_window=False,
        ),
    ),
]


def opt(**changes: object) -> Config:
    config = {
        "_remove_final_layer_norm": False,
        "activation_dropout": 0.0,
        "activation_function": "relu",
        "architectures": ["OPTForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 2,
        "do_layer_norm_before": True,
        "dropout": 0.1,
        "eos_token_id": 2,
        "ffn_dim": 64,
        "hidden_size": 32,
        "init_std": 0.02,
        "layerdrop": 0.0,
        "max_position_embeddings": 64,
        "model_type": "opt",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": 1,
        "prefix": "</s>",
        "torch_dtype": "float16",
        "transformers_version": "4.21.0.dev0",
        "use_cache": True,
        "vocab_size": 96,
        "word_embed_proj_dim": 32,
    }
    return {**config, **changes}


def bloom(**changes: object) -> Config:
    config = {
        "apply_residual_connection_post_layernorm": False,
        "architectures": ["BloomForCausalLM"],
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_dropout": 0.0,
        "hidden_size": 32,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "masked_softmax_fusion": True,
        "model_type": "bloom",
        "n_head": 4,
        "n_layer": 2,
        "offset_alibi": 100,
        "pad_token_id": 3,
        "pretraining_tp": 1,
        "seq_length": 2048,
        "skip_bias_add": True,
        "skip_bias_add_qkv": False,
        "slow_but_exact": False,
        "torch_dtype": "float16",
        "transformers_version": "4.20.0",
        "unk_token_id": 0,
        "use_cache": True,
        "vocab_size": 96,
    }
    return {**config, **changes}


def falcon(**changes: object) -> Config:
    config = {
        "activation": "gelu",
        "alibi": False,
        "architectures": ["FalconForCausalLM"],
        "attention_dropout": 0.0,
        "bias": False,
        "bos_token_id": 11,
        "eos_token_id": 11,
        "hidden_dropout": 0.0,
        "hidden_size": 32,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "falcon",
        "multi_query": True,
        "new_decoder_architecture": False,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "parallel_attn": True,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "torch_dtype": "float16",
        "transformers_version": "4.38.0",
        "use_cache": True,
        "vocab_size": 96,
    }
    return {**config, **changes}


def gpt_neox(**changes: object) -> Config:
    config = {
        "architectures": ["GPTNeoXForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "classifier_dropout": 0.1,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_dropout": 0.0,
        "hidden_size": 64,
        "initializer_range": 0.02,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 2048,
        "model_type": "gpt_neox",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.24.0",
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": 96,
    }
    return {**config, **changes}


def gpt2(**changes: object) -> Config:
    config = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": 0.1,
        "bos_token_id": 95,
        "embd_pdrop": 0.1,
        "eos_token_id": 95,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": 64,
        "n_embd": 32,
        "n_head": 4,
        "n_inner": None,
        "n_layer": 2,
        "n_positions": 64,
        "reorder_and_upcast_attn": False,
        "resid_pdrop": 0.1,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "torch_dtype": "float16",
        "transformers_version": "4.30.0",
        "use_cache": True,
        "vocab_size": 96,
    }
    return {**config, **changes}


GPTJ_CONFIG = {
    "activation_function": "gelu_new",
    "architectures": ["GPTJForCausalLM"],
    "attn_pdrop": 0.0,
    "bos_token_id": 95,
    "embd_pdrop": 0.0,
    "eos_token_id": 95,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gptj",
    "n_embd": 32,
    "n_head": 4,
    "n_inner": None,
    "n_layer": 2,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "rotary_dim": 4,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.30.0",
    "use_cache": True,
    "vocab_size": 96,
}


def mpt(attention: Config | None = None, **changes: object) -> Config:
    config = {
        "architectures": ["MptForCausalLM"],
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": 8,
            "attn_impl": "torch",
            "attn_pdrop": 0.0,
            "attn_type": "multihead_attention",
            "attn_uses_sequence_id": False,
            "clip_qkv": None,
            "model_type": "",
            "prefix_lm": False,
            "qk_ln": False,
            "softmax_scale": None,
            **(attention or {}),
        },
        "d_model": 32,
        "emb_pdrop": 0.0,
        "embedding_fraction": 1.0,
        "expansion_ratio": 4,
        "initializer_range": 0.02,
        "layer_norm_epsilon": 1e-05,
        "learned_pos_emb": True,
        "logit_scale": None,
        "max_seq_len": 2048,
        "model_type": "mpt",
        "n_heads": 4,
        "n_layers": 2,
        "no_bias": True,
        "norm_type": "low_precision_layernorm",
        "resid_pdrop": 0.0,
        "torch_dtype": "float16",
        "transformers_version": "4.32.0",
        "use_cache": False,
        "verbose": 0,
        "vocab_size": 96,
    }
    return {**config, **changes}


CLASSIC_CASES = [
    Case(
        "opt",
        "Learned positions from row 2 on, LayerNorm before each block, ReLU, biases, tied.",
        opt(),
        embedding=0.5,
    ),
    Case(
        "opt-350m",
        "LayerNorm after each block and none at the end, embedding of 16 projected to 32 and "
        "back.",
        opt(do_layer_norm_before=False, word_embed_proj_dim=16),
        embedding=0.5,
    ),
    Case(
        "bloom",
        "ALiBi for 4 heads, qkv fused head by head, norm after the embedding, tanh gelu, tied.",
        bloom(),
        embedding=0.5,
    ),
    Case(
        "bloom-postnorm",
        "Residuals taken after the norms, and ALiBi for 6 heads (no power of two).",
        bloom(apply_residual_connection_post_layernorm=True, hidden_size=48, n_head=6),
        embedding=0.5,
    ),
    Case(
        "falcon-7b",
        "One key and value head (whatever num_kv_heads says), attention and MLP side by side "
        "after one norm, rotary, exact gelu, tied by default.",
        falcon(num_kv_heads=4, apply_residual_connection_post_layernorm=False),
        embedding=0.5,
    ),
    Case(
        "falcon-40b",
        "new_decoder_architecture: ln_attn and ln_mlp, qkv fused group by group (4 query and 2 "
        "key and value heads).",
        falcon(new_decoder_architecture=True, num_kv_heads=2),
        embedding=0.5,
    ),
    Case(
        "falcon-11b",
        "new_decoder_architecture with one norm (num_ln_in_parallel_attn 1), ffn_hidden_size "
        "and an untied head.",
        falcon(
            new_decoder_architecture=True,
            num_kv_heads=2,
            num_ln_in_parallel_attn=1,
            ff_factor=3,
            ffn_hidden_size=96,
            rope_theta=500042.0,
            tie_word_embeddings=False,
        ),
    ),
    Case(
        "falcon-rw",
        "ALiBi added before the scores are scaled, qkv fused head by head, attention before "
        "MLP, biases.",
        falcon(alibi=True, bias=True, multi_query=False, parallel_attn=False, num_kv_heads=4),
        embedding=0.5,
    ),
    Case(
        "gpt_neox",
        "Rotation of a quarter of each head (16), attention and MLP side by side with two "
        "norms, qkv fused head by head, exact gelu, untied embed_out.",
        gpt_neox(),
    ),
    Case(
        "gpt_neox-sequential",
        "use_parallel_residual false, half of each head rotated.",
        gpt_neox(use_parallel_residual=False, rotary_pct=0.5),
    ),
    Case(
        "gpt2",
        "Weights stored [in, out], learned positions, tanh gelu, tied.",
        gpt2(),
        embedding=0.5,
    ),
    Case(
        "gpt2-inverse-depth",
        "Scores divided by the layer's number too, as Stanford's models have it.",
        gpt2(n_layer=3, scale_attn_by_inverse_layer_idx=True),
        embedding=0.5,
    ),
    Case(
        "gptj",
        "Rotation of neighbouring dimensions in half of each head, attention and MLP side by "
        "side after one norm, head with bias.",
        GPTJ_CONFIG,
    ),
    Case(
        "mpt",
        "ALiBi for 4 heads, fused Wqkv in blocks, no biases at all, exact gelu, tied.",
        mpt(),
        embedding=0.5,
    ),
    Case(
        "mpt-heads6",
        "ALiBi for 6 heads (no power of two), in MPT's order of slopes.",
        mpt(d_model=48, n_heads=6),
        embedding=0.5,
    ),
    Case(
        "mpt-clip",
        "clip_qkv that really clips, and alibi_bias_max 16, as MPT-7B-StoryWriter has (by its "
        "own code; the port in transformers takes 8 in any case).",
        mpt({"alibi_bias_max": 16, "clip_qkv": 1.0}),
        embedding=0.5,
    ),
]

COMPOSITE_CASES = [
    Case(
        "gemma3",
        "A decoder under text_config, which leaves out what is the class's own (8 heads of 16 "
        "here), tied, beside a vision tower.",
        {
            "architectures": ["Gemma3ForConditionalGeneration"],
            "boi_token_index": 90,
            "eoi_token_index": 91,
            "eos_token_id": [1, 2],
            "image_token_index": 92,
            "initializer_range": 0.02,
            "mm_tokens_per_image": 4,
            "model_type": "gemma3",
            "text_config": {
                "head_dim": 16,
                "hidden_size": 32,
                "intermediate_size": 64,
                "model_type": "gemma3_text",
                "num_hidden_layers": 2,
                "query_pre_attn_scalar": 16,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
                "sliding_window": 16,
                "sliding_window_pattern": 2,
                "vocab_size": 96,
            },
            "torch_dtype": "float16",
            "transformers_version": "4.50.0.dev0",
            "vision_config": {"hidden_size": 16, "model_type": "siglip_vision_model"},
        },
        embedding=0.5,
    ),
    Case(
        "mistral3",
        "Mistral under text_config, not tied: the head lies beside the decoder.",
        {
            "architectures": ["Mistral3ForConditionalGeneration"],
            "image_token_index": 10,
            "model_type": "mistral3",
            "multimodal_projector_bias": False,
            "projector_hidden_act": "gelu",
            "spatial_merge_size": 2,
            "text_config": without(
                modern(
                    "mistral",
                    "MistralForCausalLM",
                    head_dim=16,
                    rope_theta=1000.0,
                    sliding_window=None,
                ),
                "architectures",
                "tie_word_embeddings",
                "torch_dtype",
                "transformers_version",
            ),
            "torch_dtype": "float16",
            "transformers_version": "4.50.0.dev0",
            "vision_config": {"hidden_size": 16, "model_type": "pixtral"},
            "vision_feature_layer": -1,
        },
    ),
]

CASES = (
    LLAMA_CASES
    + GEMMA_CASES
    + PHI_CASES
    + STABLELM_CASES
    + EXPERT_CASES
    + CLASSIC_CASES
    + COMPOSITE_CASES
)
