#include "client/model_info/model_config.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "client/model_info/layout.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using Json = nlohmann::ordered_json;
using testing::HasSubstr;

Json TinyConfig() {
  return {{"model_type", "llama"},       {"hidden_size", 64},        {"intermediate_size", 172},
          {"num_hidden_layers", 5},      {"num_attention_heads", 8}, {"num_key_value_heads", 4},
          {"vocab_size", 512},           {"rms_norm_eps", 1e-5},     {"hidden_act", "silu"},
          {"tie_word_embeddings", true}, {"rope_theta", 10000.0}};
}

void ExpectError(const Json& json, const std::string& reason, const std::string& message) {
  const auto config = ParseModelConfig(json, "config.json");
  ASSERT_FALSE(config.ok()) << message;
  EXPECT_EQ(ErrorReason(config.status()), reason);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr(message));
}

TEST(ModelConfigTest, ReadsALlamaWithGroupedQueriesAndATiedHead) {
  const auto config = ParseModelConfig(TinyConfig(), "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->head_size, 8);
  EXPECT_EQ(config->kv_heads, 4);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_FALSE(config->rotary.scaling);
}

TEST(ModelConfigTest, HeadSizeMayDifferFromHiddenOverHeads) {
  Json json = TinyConfig();
  json["head_dim"] = 16;
  EXPECT_EQ(ParseModelConfig(json, "config.json")->head_size, 16);
}

TEST(ModelConfigTest, NamesAnUnknownArchitectureAndTheKnownOnes) {
  Json json = TinyConfig();
  json["model_type"] = "t5";
  ExpectError(json, "UNKNOWN_ARCHITECTURE",
              "model_type \"t5\" is not known; known: bloom, falcon, gemma, ");
}

TEST(ModelConfigTest, NamesAMissingKeyAndABadValue) {
  Json json = TinyConfig();
  json.erase("vocab_size");
  ExpectError(json, "INVALID_MODEL_CONFIG", "vocab_size is missing");
  json = TinyConfig();
  json["hidden_size"] = -64;
  ExpectError(json, "INVALID_MODEL_CONFIG", "hidden_size is -64");
  json = TinyConfig();
  json["num_hidden_layers"] = "five";
  ExpectError(json, "INVALID_MODEL_CONFIG", "num_hidden_layers is \"five\"");
  json = TinyConfig();
  json["num_key_value_heads"] = 3;
  ExpectError(json, "INVALID_MODEL_CONFIG", "no multiple of num_key_value_heads 3");
  ExpectError(Json::array(), "INVALID_MODEL_CONFIG", "must be a JSON object");
}

TEST(ModelConfigTest, RefusesWhatItCannotRunExactly) {
  Json json = TinyConfig();
  json["rope_scaling"] = {{"rope_type", "mrope"}, {"factor", 4.0}};
  ExpectError(json, "UNSUPPORTED_MODEL", "rope_scaling: type \"mrope\" is not supported");
  json = TinyConfig();
  json["hidden_act"] = "swiglu_limited";
  ExpectError(json, "UNSUPPORTED_MODEL", "hidden_act \"swiglu_limited\"");
  json = TinyConfig();
  json["quantization_config"] = {{"quant_method", "gptq"}};
  ExpectError(json, "UNSUPPORTED_MODEL", "already quantized");
}

TEST(ModelConfigTest, ReadsLlama3Scaling) {
  Json json = TinyConfig();
  json["rope_scaling"] = {{"rope_type", "llama3"},
                          {"factor", 8.0},
                          {"low_freq_factor", 1.0},
                          {"high_freq_factor", 4.0},
                          {"original_max_position_embeddings", 8192}};
  const auto config = ParseModelConfig(json, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rotary.scaling->kind, RopeScaling::Kind::kLlama3);
  EXPECT_EQ(config->rotary.scaling->original_max_positions, 8192);
}

// What a table does not know may change what is computed.
TEST(ModelConfigTest, RefusesAKeyThatItDoesNotKnow) {
  Json json = TinyConfig();
  json["attn_logit_softcapping"] = 50.0;
  ExpectError(json, "UNSUPPORTED_MODEL", "key \"attn_logit_softcapping\" (50.0) is not known");
  json = TinyConfig();
  json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"mrope_section", {1, 2}}};
  ExpectError(json, "UNSUPPORTED_MODEL", "rope_scaling: key \"mrope_section\"");
}

TEST(ModelConfigTest, AcceptsKeysThatChangeNothing) {
  Json json = TinyConfig();
  json["attention_dropout"] = 0.1;
  json["_name_or_path"] = "here";
  json["attn_logit_softcapping"] = nullptr;
  json["torch_dtype"] = "bfloat16";
  EXPECT_TRUE(ParseModelConfig(json, "config.json").ok());
}

// What users write must neither wrap, nor overflow, nor become millions of objects.
TEST(ModelConfigTest, RefusesSizesOutOfReason) {
  Json json = TinyConfig();
  json["num_hidden_layers"] = 1 << 30;
  ExpectError(json, "INVALID_MODEL_CONFIG", "num_hidden_layers is 1073741824");
  json = TinyConfig();
  json["hidden_size"] = 18446744073709551615U;
  ExpectError(json, "INVALID_MODEL_CONFIG", "hidden_size is 18446744073709551615");
  json = TinyConfig();
  json["partial_rotary_factor"] = 1e300;
  ExpectError(json, "INVALID_MODEL_CONFIG", "partial_rotary_factor");
  json = TinyConfig();
  json["rope_theta"] = 1.0;
  ExpectError(json, "INVALID_MODEL_CONFIG", "rope_theta is 1; it must be above 1");
  Json mixture = TinyConfig();
  mixture["model_type"] = "qwen3_moe";
  mixture["num_experts"] = 4;
  mixture["num_experts_per_tok"] = 2;
  mixture["moe_intermediate_size"] = 32;
  mixture["mlp_only_layers"] = {18446744073709551615U};
  ExpectError(mixture, "INVALID_MODEL_CONFIG", "mlp_only_layers must be a list of integers");
  mixture["mlp_only_layers"] = {7};  // beyond the last layer: no layer
  EXPECT_TRUE(ParseModelConfig(mixture, "config.json").ok());
  mixture["num_experts_per_tok"] = 5;
  ExpectError(mixture, "INVALID_MODEL_CONFIG", "num_experts_per_tok 5 is more than the 4 experts");
}

TEST(ModelConfigTest, RefusesFilesThatAreTooLargeOrTooDeep) {
  const std::string directory = testing::TempDir() + "teq-config-" + std::to_string(getpid());
  std::filesystem::create_directories(directory);
  const auto read = [&](const std::string& text) {
    std::ofstream(directory + "/config.json") << text;
    return std::string(ReadModelConfig(directory).status().message());
  };
  const std::string deep(100000, '[');
  EXPECT_THAT(read(R"({"model_type": "llama", "x": )" + deep), HasSubstr("nests deeper than 32"));
  EXPECT_THAT(read("{\"x\": \"" + std::string(2 << 20, 'a') + "\"}"), HasSubstr("more than"));
  EXPECT_THAT(read("{"), HasSubstr("it is not JSON"));
  std::filesystem::remove_all(directory);
}

TEST(ModelConfigTest, AMessageNeverCutsACharacter) {
  Json json = TinyConfig();
  std::string text;
  for (int i = 0; i < 60; ++i) text += "\u00e9";
  json["comment"] = text;
  ExpectError(json, "UNSUPPORTED_MODEL", R"(key "comment" ("\u00e9\u00e9)");
}

TEST(ModelConfigTest, GemmaWantsItsPrefixInEveryWindow) {
  Json json = TinyConfig();
  EXPECT_FALSE(ParseModelConfig(json, "config.json")->prefix_in_every_window);
  json.erase("hidden_act");
  for (const char* type : {"gemma", "gemma2", "gemma3_text"}) {
    json["model_type"] = type;
    const auto config = ParseModelConfig(json, "config.json");
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_TRUE(config->prefix_in_every_window) << type;
  }
}

// The keys of published files: none may be unknown.
TEST(ModelConfigTest, ReadsPublishedConfigs) {
  const char* const published[] = {
      // openai-community/gpt2-medium
      R"({"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"],
          "attn_pdrop": 0.1, "bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256,
          "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gpt2",
          "n_ctx": 1024, "n_embd": 1024, "n_head": 16, "n_layer": 24, "n_positions": 1024,
          "n_special": 0, "predict_special_tokens": true, "resid_pdrop": 0.1,
          "summary_activation": null, "summary_first_dropout": 0.1,
          "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
          "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}},
          "vocab_size": 50257})",
      // microsoft/Phi-4-mini-instruct, its 48 factors left out
      R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 199999,
          "embd_pdrop": 0.0, "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu",
          "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192,
          "interpolate_factor": 1, "lm_head_bias": false, "max_position_embeddings": 131072,
          "mlp_bias": false, "model_type": "phi3", "num_attention_heads": 24,
          "num_hidden_layers": 32, "num_key_value_heads": 8,
          "original_max_position_embeddings": 4096, "pad_token_id": 199999,
          "partial_rotary_factor": 0.75, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
          "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": true,
          "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 200064})",
      // bigscience/bloom-560m
      R"({"apply_residual_connection_post_layernorm": false, "attention_dropout": 0.0,
          "attention_softmax_in_fp32": true, "bias_dropout_fusion": true, "bos_token_id": 1,
          "eos_token_id": 2, "hidden_dropout": 0.0, "initializer_range": 0.02,
          "layer_norm_epsilon": 1e-05, "masked_softmax_fusion": true, "model_type": "bloom",
          "n_embed": 1024, "n_inner": null, "n_layer": 24, "num_attention_heads": 16,
          "offset_alibi": 100, "pad_token_id": 3, "pretraining_tp": 1, "seq_length": 2048,
          "skip_bias_add": true, "skip_bias_add_qkv": false, "unk_token_id": 0,
          "use_cache": true, "vocab_size": 250880})",
      // mosaicml/mpt-7b
      R"({"attn_config": {"alibi": true, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0,
          "attn_type": "multihead_attention", "attn_uses_sequence_id": false, "clip_qkv": null,
          "prefix_lm": false, "qk_ln": false, "softmax_scale": null}, "d_model": 4096,
          "emb_pdrop": 0, "embedding_fraction": 1.0, "expansion_ratio": 4,
          "init_config": {"name": "kaiming_normal_"}, "init_device": "cpu",
          "learned_pos_emb": true, "logit_scale": null, "max_seq_len": 2048, "model_type": "mpt",
          "n_heads": 32, "n_layers": 32, "no_bias": true, "norm_type": "low_precision_layernorm",
          "resid_pdrop": 0, "tokenizer_name": "EleutherAI/gpt-neox-20b", "use_cache": false,
          "verbose": 0, "vocab_size": 50432})",
      // EleutherAI/gpt-j-6b
      R"({"activation_function": "gelu_new", "attn_pdrop": 0.0, "bos_token_id": 50256,
          "embd_pdrop": 0.0, "eos_token_id": 50256, "gradient_checkpointing": false,
          "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gptj",
          "n_embd": 4096, "n_head": 16, "n_inner": null, "n_layer": 28, "n_positions": 2048,
          "resid_pdrop": 0.0, "rotary": true, "rotary_dim": 64, "scale_attn_weights": true,
          "summary_activation": null, "summary_first_dropout": 0.1,
          "summary_proj_to_labels": true, "summary_type": "cls_index", "summary_use_proj": true,
          "task_specific_params": {}, "tie_word_embeddings": false,
          "tokenizer_class": "GPT2Tokenizer", "use_cache": true, "vocab_size": 50400})",
      // HuggingFaceTB/SmolLM2-135M
      R"({"attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": 0,
          "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
          "intermediate_size": 1536, "is_llama_config": true, "max_position_embeddings": 8192,
          "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30,
          "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
          "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000,
          "tie_word_embeddings": true, "torch_dtype": "bfloat16", "use_cache": true,
          "vocab_size": 49152})",
      // google/gemma-3-1b-it
      R"({"attention_bias": false, "attention_dropout": 0.0, "attn_logit_softcapping": null,
          "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
          "final_logit_softcapping": null, "head_dim": 256,
          "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
          "initializer_range": 0.02, "intermediate_size": 6912,
          "max_position_embeddings": 32768, "model_type": "gemma3_text",
          "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
          "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
          "rope_local_base_freq": 10000, "rope_scaling": null, "rope_theta": 1000000,
          "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
          "use_cache": true, "vocab_size": 262144})",
      // google/gemma-3-4b-it
      R"({"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999,
          "eoi_token_index": 256000, "eos_token_id": [1, 106], "image_token_index": 262144,
          "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3",
          "text_config": {"hidden_size": 2560, "intermediate_size": 10240,
          "model_type": "gemma3_text", "num_hidden_layers": 34,
          "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024},
          "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0",
          "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304,
          "model_type": "siglip_vision_model", "num_attention_heads": 16,
          "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": false}})",
      // mistralai/Mistral-Small-3.1-24B-Instruct-2503
      R"({"architectures": ["Mistral3ForConditionalGeneration"], "image_token_index": 10,
          "model_type": "mistral3", "multimodal_projector_bias": false,
          "projector_hidden_act": "gelu", "spatial_merge_size": 2,
          "text_config": {"attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu",
          "hidden_size": 5120, "initializer_range": 0.02, "intermediate_size": 32768,
          "max_position_embeddings": 131072, "model_type": "mistral", "num_attention_heads": 32,
          "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
          "rope_theta": 1000000000.0, "sliding_window": null, "use_cache": true,
          "vocab_size": 131072}, "torch_dtype": "bfloat16",
          "transformers_version": "4.50.0.dev0", "vision_config": {"hidden_size": 1024,
          "model_type": "pixtral"}, "vision_feature_layer": -1})",
      // Qwen/Qwen3-Coder-30B-A3B-Instruct
      R"({"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
          "attention_dropout": 0.0, "decoder_sparse_step": 1, "eos_token_id": 151645,
          "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048, "initializer_range": 0.02,
          "intermediate_size": 5472, "max_position_embeddings": 262144, "max_window_layers": 28,
          "mlp_only_layers": [], "model_type": "qwen3_moe", "moe_intermediate_size": 768,
          "norm_topk_prob": true, "num_attention_heads": 32, "num_experts": 128,
          "num_experts_per_tok": 8, "num_hidden_layers": 48, "num_key_value_heads": 4,
          "output_router_logits": false, "qkv_bias": false, "rms_norm_eps": 1e-06,
          "rope_scaling": null, "rope_theta": 10000000, "router_aux_loss_coef": 0.0,
          "shared_expert_intermediate_size": 0, "sliding_window": null,
          "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
          "use_qk_norm": true, "use_sliding_window": false, "vocab_size": 151936})",
      // What facebook/opt-13b has beside the smaller ones' keys
      R"({"activation_function": "relu", "do_layer_norm_before": true, "ffn_dim": 20480,
          "hidden_size": 5120, "max_position_embeddings": 2048, "model_type": "opt",
          "num_attention_heads": 40, "num_hidden_layers": 40, "output_projection": true,
          "vocab_size": 50272, "word_embed_proj_dim": 5120})",
      // EleutherAI's Polyglot
      R"({"hidden_act": "gelu", "hidden_size": 4096, "intermediate_size": 16384,
          "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "gpt_neox",
          "num_attention_heads": 16, "num_hidden_layers": 28, "num_steps": "global_step320000",
          "rotary_emb_base": 10000, "rotary_pct": 0.25, "vocab_size": 30080})",
      // CodeQwen1.5
      R"({"hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 13440,
          "max_position_embeddings": 65536, "model_type": "qwen2", "num_attention_heads": 32,
          "num_hidden_layers": 32, "num_key_value_heads": 4, "rms_norm_eps": 1e-05,
          "rope_theta": 1000000, "rotary_emb_base": 1000000, "seq_length": 65536,
          "use_sliding_window": false, "vocab_size": 92416})",
      // An MPT as LLM Foundry saves it
      R"({"attn_config": {"alibi": true, "alibi_bias_max": 8, "attn_impl": "flash",
          "attn_logit_softcapping": null, "attn_pdrop": 0.0, "attn_type": "multihead_attention",
          "attn_uses_sequence_id": false, "clip_qkv": null, "fused_qkv": true, "kv_dim": null,
          "kv_n_heads": 32, "qk_gn": false, "qk_ln": false, "rope": false,
          "rope_dail_config": {"type": "original", "pos_idx_in_fp32": true,
          "xpos_scale_base": 512}, "rope_hf_config": {"type": "no_scaling", "factor": 1.0},
          "rope_impl": "dail", "rope_theta": 10000, "sliding_window_size": -1,
          "softmax_scale": null}, "d_model": 4096, "expansion_ratio": 4, "fc_type": "torch",
          "ffn_config": {"fc_type": "torch", "ffn_type": "mptmlp"}, "learned_pos_emb": false,
          "max_seq_len": 2048, "model_type": "mpt", "n_heads": 32, "n_layers": 32,
          "no_bias": true, "norm_eps": 1e-05, "norm_type": "low_precision_layernorm",
          "use_pad_tok_in_ffn": true, "vocab_size": 50432})",
      // The keys of transformers' documentation for dynamic scaling
      R"({"hidden_size": 64, "intermediate_size": 172, "model_type": "llama",
          "num_attention_heads": 8, "num_hidden_layers": 5, "rope_scaling": {"factor": 2.0,
          "original_max_position_embeddings": 2048, "rope_type": "dynamic"}, "vocab_size": 512})",
  };
  for (const char* text : published) {
    const auto config = ParseModelConfig(Json::parse(text), "config.json");
    EXPECT_TRUE(config.ok()) << config.status();
  }
}

// Variants of a family that its table names.
TEST(ModelConfigTest, RefusesVariantsByName) {
  Json gpt2 = {{"model_type", "gpt2"}, {"n_embd", 32},     {"n_layer", 2},
               {"n_head", 4},          {"vocab_size", 64}, {"scale_attn_weights", false}};
  ExpectError(gpt2, "UNSUPPORTED_MODEL", "scale_attn_weights is false; only true");
  Json mpt = {{"model_type", "mpt"}, {"d_model", 32},    {"n_layers", 2},
              {"n_heads", 4},        {"vocab_size", 64}, {"attn_config", {{"alibi", false}}}};
  ExpectError(mpt, "UNSUPPORTED_MODEL", "attn_config: alibi is false");
  mpt["attn_config"] = {{"alibi", true}, {"kv_n_heads", 2}};
  ExpectError(mpt, "UNSUPPORTED_MODEL", "attn_config: kv_n_heads is 2; only 4 is supported");
  mpt["attn_config"] = {{"alibi", true}};
  mpt["ffn_config"] = {{"ffn_type", "mptglu"}};
  ExpectError(mpt, "UNSUPPORTED_MODEL", "ffn_config: ffn_type is \"mptglu\"; only \"mptmlp\"");
  Json mixture = TinyConfig();
  mixture["model_type"] = "qwen3_moe";
  mixture["num_experts"] = 16;
  mixture["moe_intermediate_size"] = 32;
  mixture["shared_expert_intermediate_size"] = 64;
  ExpectError(mixture, "UNSUPPORTED_MODEL", "shared_expert_intermediate_size is 64; only 0");
}

// Gemma 3 of 4B leaves out what its class has: 8 heads of 256 over 4, 262208 tokens, tied.
TEST(ModelConfigTest, TheDecoderOfALargerModelIsItsTextConfig) {
  const Json text = {{"model_type", "gemma3_text"},
                     {"hidden_size", 2560},
                     {"intermediate_size", 10240},
                     {"num_hidden_layers", 34}};
  Json gemma = {{"model_type", "gemma3"}, {"vision_config", Json::object()}, {"text_config", text}};
  const auto config = ParseModelConfig(gemma, "config.json");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->model_type, "gemma3_text");
  EXPECT_EQ(config->heads, 8);
  EXPECT_EQ(config->kv_heads, 4);
  EXPECT_EQ(config->head_size, 256);
  EXPECT_EQ(config->vocabulary_size, 262208);
  EXPECT_TRUE(config->tied_embeddings);
  EXPECT_TRUE(config->prefix_in_every_window);
  EXPECT_EQ(config->source, gemma);

  gemma["mm_soft_tokens"] = 4;
  ExpectError(gemma, "UNSUPPORTED_MODEL", "config.json: key \"mm_soft_tokens\" (4) is not known");
  gemma.erase("mm_soft_tokens");
  gemma["tie_word_embeddings"] = false;
  ExpectError(gemma, "UNSUPPORTED_MODEL", "tie_word_embeddings is false; only true");
  gemma.erase("tie_word_embeddings");
  gemma["quantization_config"] = {{"quant_method", "gptq"}};
  ExpectError(gemma, "UNSUPPORTED_MODEL", "already quantized");
  gemma.erase("quantization_config");
  gemma["text_config"]["attention_sinks"] = 4;
  ExpectError(gemma, "UNSUPPORTED_MODEL", "text_config: key \"attention_sinks\" (4) is not known");
  gemma["text_config"] = {{"model_type", "gemma4_text"}};
  ExpectError(gemma, "UNSUPPORTED_MODEL", "text_config: model_type is \"gemma4_text\"; only");
  gemma.erase("text_config");
  ExpectError(gemma, "INVALID_MODEL_CONFIG", "text_config: hidden_size is missing");
  gemma["text_config"] = 4;
  ExpectError(gemma, "INVALID_MODEL_CONFIG", "text_config must be an object");
}

// What lies beside the decoder's tensors under its own name is dropped, as it is of plain decoders.
TEST(ModelConfigTest, OtherPartsAreWhatIsNotTheDecoders) {
  ModelConfig config = ParseModelConfig({{"model_type", "mistral3"},
                                         {"text_config",
                                          {{"hidden_size", 64},
                                           {"intermediate_size", 128},
                                           {"num_hidden_layers", 1},
                                           {"num_attention_heads", 8},
                                           {"vocab_size", 96}}}},
                                        "config.json")
                           .value();
  CheckpointIndex index;
  for (const char* name :
       {"lm_head.weight", "model.language_model.embed_tokens.weight",
        "language_model.lm_head.weight", "model.language_model.rotary.inv_freq",
        "model.vision_tower.layers.0.weight", "model.vision_tower.layers.1.weight",
        "multi_modal_projector.linear_1.weight"}) {
    index.tensors[name] = {};
  }
  MatchPrefix(index, config);
  EXPECT_EQ(HeadName(config), "lm_head");
  const std::vector<std::string> tensors = TensorsOfOtherParts(config, index);
  EXPECT_EQ(tensors.size(), 3U);
  EXPECT_EQ(OtherParts(tensors),
            (std::vector<std::string>{"multi_modal_projector", "vision_tower"}));
}

TEST(ModelConfigTest, OfLargerModelsTheKnownOnesAreNamed) {
  const Json llava = {{"model_type", "llava"}, {"text_config", {{"model_type", "llama"}}}};
  ExpectError(llava, "UNKNOWN_ARCHITECTURE", "stablelm, gemma3, mistral3");
}

TEST(ModelConfigTest, AMissingDirectoryIsNotFound) {
  const auto config = ReadModelConfig("/nonexistent/model");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(ErrorReason(config.status()), "MODEL_NOT_FOUND");
}

}  // namespace
}  // namespace teq::model_info
