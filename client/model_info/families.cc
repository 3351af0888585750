// The families of decoders as tables. A table reads what config.json may vary and fills in the
// rest; its defaults are those of the family's class in transformers. To add a family: a function
// here, a row at the end, and a recorded case in tests/fixtures/families.
#include "client/model_info/families.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "client/model_info/rotary.h"
#include "fmt/format.h"

namespace teq::model_info {
namespace {

/// What a class takes for keys that config.json leaves out; 0: it follows from others, or has to be
/// there.
struct Defaults {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_size = 0;
  std::int64_t vocabulary_size = 0;
  std::int64_t max_positions = 2048;
  const char* norm_key = "rms_norm_eps";
  double norm_epsilon = 1e-6;
  bool tied_embeddings = false;
};

/// hidden over heads.
std::int64_t UsualHeadSize(ConfigReader& config, const ModelConfig& model) {
  if (model.hidden_size % model.heads != 0) {
    config.Invalid(fmt::format("a hidden size of {} is no multiple of {} attention heads",
                               model.hidden_size, model.heads));
  }
  return std::max<std::int64_t>(1, model.hidden_size / model.heads);
}

double InverseRoot(std::int64_t head_size) { return 1 / std::sqrt(static_cast<double>(head_size)); }

/// Windows of `size` tokens in the blocks that `layer_types` lists as sliding, or `slides` picks.
template <typename Slides>
std::vector<std::int64_t> ReadWindows(ConfigReader& config, const ModelConfig& model,
                                      std::int64_t size, const Slides& slides) {
  const std::vector<std::string> types = config.Texts("layer_types");
  if (!types.empty() && static_cast<std::int64_t>(types.size()) != model.layers) {
    config.Invalid(
        fmt::format("layer_types has {} entries for {} layers", types.size(), model.layers));
    return {};
  }
  std::vector<std::int64_t> windows;
  for (std::int64_t block = 0; block < model.layers; ++block) {
    bool slide = slides(block);
    if (!types.empty()) {
      const std::string& type = types[static_cast<std::size_t>(block)];
      slide = type == "sliding_attention";
      if (!slide && type != "full_attention") {
        config.Unsupported(
            fmt::format("layer_types has \"{}\"; supported: full_attention, "
                        "sliding_attention",
                        type));
      }
    }
    windows.push_back(slide ? size : 0);
  }
  return windows;
}

/// What most families since Llama share.
ModelConfig LlamaLike(ConfigReader& config, const Defaults& defaults = {}) {
  ModelConfig model;
  model.names = {.embedding = "embed_tokens",
                 .final_norm = "norm",
                 .head = "lm_head",
                 .attention_norm = "layers.{}.input_layernorm",
                 .mlp_norm = "layers.{}.post_attention_layernorm",
                 .query = "layers.{}.self_attn.q_proj",
                 .key = "layers.{}.self_attn.k_proj",
                 .value = "layers.{}.self_attn.v_proj",
                 .attention_output = "layers.{}.self_attn.o_proj",
                 .mlp = {.gate = "layers.{}.mlp.gate_proj",
                         .up = "layers.{}.mlp.up_proj",
                         .down = "layers.{}.mlp.down_proj"}};
  model.prefix = "model.";
  model.hidden_size = config.Size("hidden_size");
  model.intermediate_size = config.Size("intermediate_size");
  model.layers = config.Number("num_hidden_layers");
  model.heads = defaults.heads == 0 ? config.Number("num_attention_heads")
                                    : config.Number("num_attention_heads", defaults.heads);
  // A null means one for every head; only an absent key means the class's own number.
  model.kv_heads = config.Number("num_key_value_heads",
                                 defaults.kv_heads == 0 || config.Contains("num_key_value_heads")
                                     ? model.heads
                                     : defaults.kv_heads);
  model.head_size = config.Has("head_dim") || defaults.head_size > 0
                        ? config.Size("head_dim", defaults.head_size)
                        : UsualHeadSize(config, model);
  model.vocabulary_size = defaults.vocabulary_size == 0
                              ? config.Size("vocab_size")
                              : config.Size("vocab_size", defaults.vocabulary_size);
  model.max_positions = config.Size("max_position_embeddings", defaults.max_positions);
  model.norm_epsilon = config.Positive(defaults.norm_key, defaults.norm_epsilon);
  model.attention_scale = InverseRoot(model.head_size);
  model.tied_embeddings = config.Flag("tie_word_embeddings", defaults.tied_embeddings);
  return model;
}

void AddRotary(ConfigReader& config, ModelConfig& model, const RotaryDefaults& defaults = {}) {
  model.rotary = ReadRotary(config, model.head_size, model.max_positions, defaults);
  model.max_positions = UsablePositions(model.rotary, model.max_positions);
}

void AddLlamaBiases(ConfigReader& config, ModelConfig& model) {
  model.qkv_bias = model.attention_output_bias = config.Flag("attention_bias", false);
  model.mlp_bias = config.Flag("mlp_bias", false);
}

/// Meta's Llama 1 to 3, TinyLlama, SmolLM.
ModelConfig Llama(ConfigReader& config) {
  ModelConfig model = LlamaLike(config);
  model.activation = config.ReadActivation("hidden_act", "silu");
  AddLlamaBiases(config, model);
  AddRotary(config, model);
  config.Require("rope_interleaved", false);
  config.Ignore({"is_llama_config"});
  return model;
}

ModelConfig Mistral(ConfigReader& config) {
  ModelConfig model = LlamaLike(config, {.kv_heads = 8, .max_positions = 131072});
  model.activation = config.ReadActivation("hidden_act", "silu");
  AddLlamaBiases(config, model);
  AddRotary(config, model);
  const bool off = config.Contains("sliding_window") && !config.Has("sliding_window");
  const std::int64_t window = off ? 0 : config.Size("sliding_window", 4096);
  model.windows = ReadWindows(config, model, window, [](std::int64_t) { return true; });
  return model;
}

void AddQwenWindows(ConfigReader& config, ModelConfig& model) {
  const bool slides = config.Flag("use_sliding_window", false);
  const std::int64_t window = config.Size("sliding_window", 4096);
  const std::int64_t first = config.Count("max_window_layers", 28);
  model.windows = ReadWindows(config, model, slides ? window : 0,
                              [&](std::int64_t block) { return block >= first; });
}

ModelConfig QwenLike(ConfigReader& config, const Defaults& defaults) {
  ModelConfig model = LlamaLike(config, defaults);
  model.activation = config.ReadActivation("hidden_act", "silu");
  AddRotary(config, model);
  AddQwenWindows(config, model);
  config.Require("use_mrope", false);
  config.Ignore({"rotary_emb_base", "seq_length"});  // CodeQwen's, beside rope_theta
  // Acts on texts longer than its chunks only.
  const nlohmann::ordered_json& chunks = config.Object("dual_chunk_attention_config");
  ConfigReader chunk(chunks, config.where() + ": dual_chunk_attention_config");
  model.max_positions =
      std::min(model.max_positions, chunk.Size("chunk_size", model.max_positions));
  return model;
}

void AddQueryKeyNorms(ModelConfig& model) {
  model.names.query_norm = "layers.{}.self_attn.q_norm";
  model.names.key_norm = "layers.{}.self_attn.k_norm";
}

ModelConfig Qwen2(ConfigReader& config) {
  ModelConfig model = QwenLike(config, {.kv_heads = 32, .max_positions = 32768});
  model.qkv_bias = true;
  return model;
}

ModelConfig Qwen3(ConfigReader& config) {
  ModelConfig model = QwenLike(config, {.kv_heads = 32, .head_size = 128, .max_positions = 32768});
  model.qkv_bias = model.attention_output_bias = config.Flag("attention_bias", false);
  AddQueryKeyNorms(model);
  return model;
}

/// Which blocks of Qwen's mixtures have experts.
void AddQwenExperts(ConfigReader& config, ModelConfig& model, std::int64_t per_token) {
  model.names.router = "layers.{}.mlp.gate";
  model.names.expert = {.gate = "layers.{}.mlp.experts.{}.gate_proj",
                        .up = "layers.{}.mlp.experts.{}.up_proj",
                        .down = "layers.{}.mlp.experts.{}.down_proj"};
  model.experts.count = config.Number({"num_experts", "num_local_experts"});
  model.experts.per_token = config.Number("num_experts_per_tok", per_token);
  model.experts.intermediate_size = config.Size("moe_intermediate_size");
  model.experts.normalized = config.Flag("norm_topk_prob", false);
  const std::int64_t step = config.Size("decoder_sparse_step", 1);
  model.experts.sparse_blocks.assign(static_cast<std::size_t>(model.layers), false);
  for (std::int64_t block = 0; block < model.layers; ++block) {
    model.experts.sparse_blocks[static_cast<std::size_t>(block)] = (block + 1) % step == 0;
  }
  for (const std::int64_t block : config.Counts("mlp_only_layers")) {
    if (block < model.layers) model.experts.sparse_blocks[static_cast<std::size_t>(block)] = false;
  }
}

ModelConfig Qwen2Moe(ConfigReader& config) {
  ModelConfig model = QwenLike(config, {.kv_heads = 16, .max_positions = 32768});
  model.qkv_bias = config.Flag("qkv_bias", true);
  // Which blocks slide then differs between versions of transformers.
  config.Require("use_sliding_window", false);
  AddQwenExperts(config, model, 4);
  model.names.shared_expert = {.gate = "layers.{}.mlp.shared_expert.gate_proj",
                               .up = "layers.{}.mlp.shared_expert.up_proj",
                               .down = "layers.{}.mlp.shared_expert.down_proj"};
  model.names.shared_expert_gate = "layers.{}.mlp.shared_expert_gate";
  model.experts.shared_intermediate_size = config.Size("shared_expert_intermediate_size", 5632);
  return model;
}

ModelConfig Qwen3Moe(ConfigReader& config) {
  ModelConfig model = QwenLike(config, {.kv_heads = 4, .max_positions = 32768});
  model.qkv_bias = model.attention_output_bias = config.Flag("attention_bias", false);
  AddQueryKeyNorms(model);
  config.Require("use_sliding_window", false);
  // Qwen3-Coder says of itself what every model of the class is.
  config.Require("qkv_bias", false);
  config.Require("use_qk_norm", true);
  config.Require("shared_expert_intermediate_size", 0);
  AddQwenExperts(config, model, 8);
  return model;
}

ModelConfig Mixtral(ConfigReader& config) {
  ModelConfig model =
      LlamaLike(config, {.kv_heads = 8, .max_positions = 131072, .norm_epsilon = 1e-5});
  model.activation = config.ReadActivation("hidden_act", "silu");
  AddRotary(config, model, {.theta = 1e6});
  const std::int64_t window = config.Size("sliding_window", 0);
  model.windows = ReadWindows(config, model, window, [](std::int64_t) { return true; });
  model.names.mlp = {};
  model.names.router = "layers.{}.block_sparse_moe.gate";
  model.names.expert = {.gate = "layers.{}.block_sparse_moe.experts.{}.w1",
                        .up = "layers.{}.block_sparse_moe.experts.{}.w3",
                        .down = "layers.{}.block_sparse_moe.experts.{}.w2"};
  model.experts = {
      .count = config.Number({"num_local_experts", "num_experts"}, 8),
      .per_token = config.Number("num_experts_per_tok", 2),
      .intermediate_size = model.intermediate_size,
      .normalized = true,
      .sparse_blocks = std::vector<bool>(static_cast<std::size_t>(model.layers), true)};
  return model;
}

ModelConfig GemmaLike(ConfigReader& config, Defaults defaults) {
  defaults.head_size = 256;
  defaults.tied_embeddings = true;
  ModelConfig model = LlamaLike(config, defaults);
  model.norm = NormKind::kRmsOnePlus;
  model.activation = Activation::kGeluTanh;
  model.embedding_scale = std::sqrt(static_cast<double>(model.hidden_size));
  model.qkv_bias = model.attention_output_bias = config.Flag("attention_bias", false);
  model.prefix_in_every_window = true;
  return model;
}

ModelConfig Gemma(ConfigReader& config) {
  ModelConfig model = GemmaLike(config, {.kv_heads = 16, .max_positions = 8192});
  // Early files say "gelu"; their weights were trained with the tanh form.
  config.Require("hidden_activation", "gelu_pytorch_tanh");
  const std::string activation = config.Text("hidden_act", "gelu_pytorch_tanh");
  if (activation != "gelu" && activation != "gelu_pytorch_tanh") {
    config.Unsupported(fmt::format(
        "hidden_act \"{}\" is not supported; supported: gelu_pytorch_tanh", activation));
  }
  AddRotary(config, model);
  return model;
}

/// Gemma 2 and 3: four norms, soft caps, a query scale of their own.
ModelConfig LaterGemma(ConfigReader& config, Defaults defaults) {
  defaults.kv_heads = 4;
  ModelConfig model = GemmaLike(config, defaults);
  model.activation =
      config.ReadActivation({"hidden_activation", "hidden_act"}, "gelu_pytorch_tanh");
  model.names.mlp_norm = "layers.{}.pre_feedforward_layernorm";
  model.names.post_attention_norm = "layers.{}.post_attention_layernorm";
  model.names.post_mlp_norm = "layers.{}.post_feedforward_layernorm";
  model.attention_scale = 1 / std::sqrt(config.Positive("query_pre_attn_scalar", 256));
  config.Require("use_bidirectional_attention", false);
  return model;
}

/// A soft cap: a class's own where the key is absent, none where it is null.
double SoftCap(ConfigReader& config, const char* key, double fallback) {
  return config.Contains(key) && !config.Has(key) ? 0 : config.Positive(key, fallback);
}

ModelConfig Gemma2(ConfigReader& config) {
  ModelConfig model = LaterGemma(config, {.max_positions = 8192});
  model.attention_softcap = SoftCap(config, "attn_logit_softcapping", 50);
  model.logit_softcap = SoftCap(config, "final_logit_softcapping", 30);
  AddRotary(config, model);
  model.windows =
      ReadWindows(config, model, config.Size({"sliding_window", "sliding_window_size"}, 4096),
                  [](std::int64_t block) { return block % 2 == 0; });
  return model;
}

/// Rotary positions of Gemma 3: its windows have a base of their own. Newer files keep both under
/// rope_parameters, by kind of layer.
void AddGemma3Rotary(ConfigReader& config, ModelConfig& model) {
  const nlohmann::ordered_json& both = config.Object("rope_parameters");
  if (!both.contains("full_attention")) {
    AddRotary(config, model, {.theta = 1e6});
    model.local_rotary = Rotary{.theta = config.Positive("rope_local_base_freq", 10000),
                                .dimensions = model.head_size};
    return;
  }
  const auto read = [&](const char* layers, double theta) {
    const nlohmann::ordered_json one = {
        {"rope_parameters", both.value(layers, nlohmann::ordered_json::object())}};
    ConfigReader reader(one, config.where() + ": " + layers);
    Rotary rotary = ReadRotary(reader, model.head_size, model.max_positions, {.theta = theta});
    config.Adopt(reader.Finish());
    return rotary;
  };
  model.rotary = read("full_attention", 1e6);
  model.local_rotary = read("sliding_attention", 1e4);
}

ModelConfig Gemma3(ConfigReader& config) {
  // The text_config of Gemma 3 4B leaves out even these.
  ModelConfig model =
      LaterGemma(config, {.heads = 8, .vocabulary_size = 262208, .max_positions = 131072});
  AddQueryKeyNorms(model);
  model.attention_softcap = SoftCap(config, "attn_logit_softcapping", 0);
  model.logit_softcap = SoftCap(config, "final_logit_softcapping", 0);
  const std::int64_t pattern =
      config.Size({"sliding_window_pattern", "_sliding_window_pattern"}, 6);
  model.windows = ReadWindows(config, model, config.Size("sliding_window", 4096),
                              [&](std::int64_t block) { return (block + 1) % pattern != 0; });
  AddGemma3Rotary(config, model);
  return model;
}

/// Microsoft's Phi-1, 1.5 and 2: one norm feeds attention and MLP.
ModelConfig Phi(ConfigReader& config) {
  ModelConfig model = LlamaLike(config, {.norm_key = "layer_norm_eps", .norm_epsilon = 1e-5});
  model.names.final_norm = "final_layernorm";
  model.names.mlp_norm = "";
  model.names.attention_output = "layers.{}.self_attn.dense";
  model.names.mlp = {.up = "layers.{}.mlp.fc1", .down = "layers.{}.mlp.fc2"};
  model.norm = NormKind::kLayer;
  model.norm_bias = model.qkv_bias = model.attention_output_bias = true;
  model.mlp_bias = model.head_bias = true;
  model.parallel = true;
  model.activation = config.ReadActivation("hidden_act", "gelu_new");
  config.Require("qk_layernorm", false);
  AddRotary(config, model, {.fraction = 0.5});
  return model;
}

ModelConfig Phi3(ConfigReader& config) {
  ModelConfig model = LlamaLike(config, {.max_positions = 4096, .norm_epsilon = 1e-5});
  model.names.query = model.names.key = model.names.value = "";
  model.names.query_key_value = "layers.{}.self_attn.qkv_proj";
  model.names.mlp = {.gate_up = "layers.{}.mlp.gate_up_proj", .down = "layers.{}.mlp.down_proj"};
  model.activation = config.ReadActivation("hidden_act", "silu");
  for (const char* key : {"attention_bias", "mlp_bias", "lm_head_bias"}) config.Require(key, false);
  for (const char* key : {"full_attn_mod", "interpolate_factor"}) config.Require(key, 1);
  AddRotary(config, model, {.original_positions = 4096, .yarn_is_longrope = true});
  const std::int64_t window = config.Size("sliding_window", 0);
  model.windows = ReadWindows(config, model, window, [](std::int64_t) { return true; });
  return model;
}

ModelConfig StableLm(ConfigReader& config) {
  ModelConfig model = LlamaLike(
      config,
      {.kv_heads = 32, .max_positions = 4096, .norm_key = "layer_norm_eps", .norm_epsilon = 1e-5});
  model.norm = NormKind::kLayer;
  model.norm_bias = true;
  model.activation = config.ReadActivation("hidden_act", "silu");
  model.qkv_bias = config.Flag("use_qkv_bias", false);
  model.parallel = config.Flag("use_parallel_residual", false);
  if (model.parallel) model.names.mlp_norm = "";
  if (config.Flag("qk_layernorm", false)) {
    model.names.query_norm = "layers.{}.self_attn.q_layernorm.norms.{}";
    model.names.key_norm = "layers.{}.self_attn.k_layernorm.norms.{}";
    model.norm_by_head = true;
  }
  AddRotary(config, model,
            {.fraction = 0.25, .fraction_key = {"partial_rotary_factor", "rope_pct"}});
  return model;
}

ModelConfig Opt(ConfigReader& config) {
  ModelConfig model;
  model.prefix = "model.";
  model.names = {.embedding = "decoder.embed_tokens",
                 .positions = "decoder.embed_positions",
                 .final_norm = "decoder.final_layer_norm",
                 .head = "lm_head",
                 .attention_norm = "decoder.layers.{}.self_attn_layer_norm",
                 .mlp_norm = "decoder.layers.{}.final_layer_norm",
                 .query = "decoder.layers.{}.self_attn.q_proj",
                 .key = "decoder.layers.{}.self_attn.k_proj",
                 .value = "decoder.layers.{}.self_attn.v_proj",
                 .attention_output = "decoder.layers.{}.self_attn.out_proj",
                 .mlp = {.up = "decoder.layers.{}.fc1", .down = "decoder.layers.{}.fc2"}};
  model.hidden_size = config.Size("hidden_size");
  model.intermediate_size = config.Size("ffn_dim");
  model.layers = config.Number("num_hidden_layers");
  model.heads = model.kv_heads = config.Number("num_attention_heads");
  model.head_size = UsualHeadSize(config, model);
  model.vocabulary_size = config.Size("vocab_size");
  model.max_positions = config.Size("max_position_embeddings", 2048);
  model.embedding_size = config.Size("word_embed_proj_dim", model.hidden_size);
  if (model.embedding_size != model.hidden_size) {
    model.names.project_in = "decoder.project_in";
    model.names.project_out = "decoder.project_out";
  }
  model.post_norm = !config.Flag("do_layer_norm_before", true);
  if (model.post_norm || config.Flag("_remove_final_layer_norm", false)) {
    model.names.final_norm = "";
  }
  model.norm = NormKind::kLayer;
  model.norm_bias = true;
  model.norm_epsilon = 1e-5;
  model.activation = config.ReadActivation("activation_function", "relu");
  model.positions = PositionKind::kLearned;
  model.position_offset = 2;
  model.attention_scale = InverseRoot(model.head_size);
  const bool bias = config.Flag("enable_bias", true);
  model.qkv_bias = model.attention_output_bias = model.mlp_bias = bias;
  config.Require("layer_norm_elementwise_affine", true);
  config.Require("learned_embeddings", true);
  config.Require("scale_embeddings", false);
  config.Ignore({"output_projection"});
  model.tied_embeddings = config.Flag("tie_word_embeddings", true);
  return model;
}

ModelConfig Bloom(ConfigReader& config) {
  ModelConfig model;
  model.prefix = "transformer.";
  model.names = {.embedding = "word_embeddings",
                 .embedding_norm = "word_embeddings_layernorm",
                 .final_norm = "ln_f",
                 .head = "lm_head",
                 .attention_norm = "h.{}.input_layernorm",
                 .mlp_norm = "h.{}.post_attention_layernorm",
                 .query_key_value = "h.{}.self_attention.query_key_value",
                 .attention_output = "h.{}.self_attention.dense",
                 .mlp = {.up = "h.{}.mlp.dense_h_to_4h", .down = "h.{}.mlp.dense_4h_to_h"}};
  model.hidden_size = config.Size({"hidden_size", "n_embed"});
  model.intermediate_size = 4 * model.hidden_size;
  model.layers = config.Number({"n_layer", "num_hidden_layers"});
  model.heads = model.kv_heads = config.Number({"n_head", "num_attention_heads"});
  model.head_size = UsualHeadSize(config, model);
  model.vocabulary_size = config.Size("vocab_size");
  model.max_positions = config.Size("seq_length", 2048);
  model.norm = NormKind::kLayer;
  model.norm_bias = true;
  model.norm_epsilon = config.Positive("layer_norm_epsilon", 1e-5);
  model.activation = Activation::kGeluTanh;
  model.positions = PositionKind::kAlibi;
  model.attention_scale = InverseRoot(model.head_size);
  model.qkv_by_head = true;
  model.qkv_bias = model.attention_output_bias = model.mlp_bias = true;
  model.residual_from_norm = config.Flag("apply_residual_connection_post_layernorm", false);
  model.tied_embeddings = config.Flag("tie_word_embeddings", true);
  config.Ignore({"offset_alibi", "slow_but_exact", "skip_bias_add", "skip_bias_add_qkv",
                 "masked_softmax_fusion", "attention_softmax_in_fp32"});
  return model;
}

ModelConfig Falcon(ConfigReader& config) {
  ModelConfig model;
  model.prefix = "transformer.";
  model.names = {.embedding = "word_embeddings",
                 .final_norm = "ln_f",
                 .head = "lm_head",
                 .attention_norm = "h.{}.input_layernorm",
                 .query_key_value = "h.{}.self_attention.query_key_value",
                 .attention_output = "h.{}.self_attention.dense",
                 .mlp = {.up = "h.{}.mlp.dense_h_to_4h", .down = "h.{}.mlp.dense_4h_to_h"}};
  model.hidden_size = config.Size({"hidden_size", "n_embed"});
  model.intermediate_size = config.Size("ffn_hidden_size", 4 * model.hidden_size);
  model.layers = config.Number({"num_hidden_layers", "n_layer"});
  model.heads = config.Number({"num_attention_heads", "n_head"});
  model.head_size = UsualHeadSize(config, model);
  model.vocabulary_size = config.Size("vocab_size");
  model.max_positions = config.Size("max_position_embeddings", 2048);
  const bool newer = config.Flag("new_decoder_architecture", false);
  const bool single = config.Flag("multi_query", true);
  const std::int64_t grouped = config.Number({"num_kv_heads", "n_head_kv"}, model.heads);
  model.kv_heads = newer ? grouped : single ? 1 : model.heads;
  model.qkv_by_head = true;
  model.parallel = config.Flag("parallel_attn", true) || newer;
  const std::int64_t norms = config.Size("num_ln_in_parallel_attn", newer ? 2 : 1);
  if (newer && norms == 2) {
    model.names.attention_norm = "h.{}.ln_attn";
    model.names.mlp_norm = "h.{}.ln_mlp";
  } else if (!model.parallel) {
    model.names.mlp_norm = "h.{}.post_attention_layernorm";
  }
  model.norm = NormKind::kLayer;
  model.norm_bias = true;
  model.norm_epsilon = config.Positive("layer_norm_epsilon", 1e-5);
  model.activation = config.ReadActivation("activation", "gelu");
  model.attention_scale = InverseRoot(model.head_size);
  if (config.Flag("alibi", false)) {
    model.positions = PositionKind::kAlibi;
    // Falcon adds the slopes before it scales the scores.
    model.alibi_scale = model.attention_scale;
    config.Ignore({"rope_theta", "rope_scaling", "rope_parameters"});
  } else {
    AddRotary(config, model);
  }
  config.Require("apply_residual_connection_post_layernorm", false);
  config.Ignore({"ff_factor"});  // transformers reads ffn_hidden_size alone
  const bool bias = config.Flag("bias", false);
  model.qkv_bias = model.attention_output_bias = model.mlp_bias = bias;
  model.tied_embeddings = config.Flag("tie_word_embeddings", true);
  return model;
}

/// EleutherAI's GPT-NeoX and Pythia.
ModelConfig GptNeoX(ConfigReader& config) {
  ModelConfig model;
  model.prefix = "gpt_neox.";
  model.names = {
      .embedding = "embed_in",
      .final_norm = "final_layer_norm",
      .head = "embed_out",
      .attention_norm = "layers.{}.input_layernorm",
      .mlp_norm = "layers.{}.post_attention_layernorm",
      .query_key_value = "layers.{}.attention.query_key_value",
      .attention_output = "layers.{}.attention.dense",
      .mlp = {.up = "layers.{}.mlp.dense_h_to_4h", .down = "layers.{}.mlp.dense_4h_to_h"}};
  model.hidden_size = config.Size("hidden_size");
  model.intermediate_size = config.Size("intermediate_size");
  model.layers = config.Number("num_hidden_layers");
  model.heads = model.kv_heads = config.Number("num_attention_heads");
  model.head_size = UsualHeadSize(config, model);
  model.vocabulary_size = config.Size("vocab_size");
  model.max_positions = config.Size("max_position_embeddings", 2048);
  model.norm = NormKind::kLayer;
  model.norm_bias = true;
  model.norm_epsilon = config.Positive("layer_norm_eps", 1e-5);
  model.activation = config.ReadActivation("hidden_act", "gelu");
  model.attention_scale = InverseRoot(model.head_size);
  model.qkv_by_head = true;
  model.qkv_bias = model.attention_output_bias = config.Flag("attention_bias", true);
  model.mlp_bias = true;
  model.parallel = config.Flag("use_parallel_residual", true);
  model.tied_embeddings = config.Flag("tie_word_embeddings", false);
  AddRotary(config, model,
            {.fraction = 0.25,
             .theta_key = {"rotary_emb_base", "rope_theta"},
             .fraction_key = {"rotary_pct", "partial_rotary_factor"}});
  config.Ignore({"num_steps"});  // Polyglot's, of its training
  return model;
}

/// The keys of OpenAI's GPT-2 and of GPT-J.
ModelConfig GptLike(ConfigReader& config) {
  ModelConfig model;
  model.prefix = "transformer.";
  model.hidden_size = config.Size({"n_embd", "hidden_size"});
  model.intermediate_size = config.Size("n_inner", 4 * model.hidden_size);
  model.layers = config.Number({"n_layer", "num_hidden_layers"});
  model.heads = model.kv_heads = config.Number({"n_head", "num_attention_heads"});
  model.head_size = UsualHeadSize(config, model);
  model.vocabulary_size = config.Size("vocab_size");
  model.norm = NormKind::kLayer;
  model.norm_bias = model.mlp_bias = true;
  model.norm_epsilon = config.Positive("layer_norm_epsilon", 1e-5);
  model.activation = config.ReadActivation("activation_function", "gelu_new");
  model.attention_scale = InverseRoot(model.head_size);
  config.Require("scale_attn_weights", true);
  config.Ignore({"n_ctx", "summary_activation", "summary_first_dropout", "summary_proj_to_labels",
                 "summary_type", "summary_use_proj", "reorder_and_upcast_attn", "n_special",
                 "predict_special_tokens", "output_past"});
  return model;
}

ModelConfig Gpt2(ConfigReader& config) {
  ModelConfig model = GptLike(config);
  model.names = {.embedding = "wte",
                 .positions = "wpe",
                 .final_norm = "ln_f",
                 .head = "lm_head",
                 .attention_norm = "h.{}.ln_1",
                 .mlp_norm = "h.{}.ln_2",
                 .query_key_value = "h.{}.attn.c_attn",
                 .attention_output = "h.{}.attn.c_proj",
                 .mlp = {.up = "h.{}.mlp.c_fc", .down = "h.{}.mlp.c_proj"}};
  model.max_positions = config.Size({"n_positions", "max_position_embeddings"}, 1024);
  model.positions = PositionKind::kLearned;
  model.transposed_linears = true;
  model.qkv_bias = model.attention_output_bias = true;
  model.tied_embeddings = config.Flag("tie_word_embeddings", true);
  model.attention_scale_by_depth = config.Flag("scale_attn_by_inverse_layer_idx", false);
  return model;
}

ModelConfig GptJ(ConfigReader& config) {
  ModelConfig model = GptLike(config);
  model.names = {.embedding = "wte",
                 .final_norm = "ln_f",
                 .head = "lm_head",
                 .attention_norm = "h.{}.ln_1",
                 .query = "h.{}.attn.q_proj",
                 .key = "h.{}.attn.k_proj",
                 .value = "h.{}.attn.v_proj",
                 .attention_output = "h.{}.attn.out_proj",
                 .mlp = {.up = "h.{}.mlp.fc_in", .down = "h.{}.mlp.fc_out"}};
  model.max_positions = config.Size({"n_positions", "max_position_embeddings"}, 2048);
  model.parallel = model.head_bias = true;
  config.Require("rotary", true);
  model.rotary = {.dimensions = config.Size("rotary_dim", 64), .interleaved = true};
  if (model.rotary.dimensions > model.head_size || model.rotary.dimensions % 2 != 0) {
    config.Invalid(fmt::format("rotary_dim is {}; it must be even and at most the head's {}",
                               model.rotary.dimensions, model.head_size));
  }
  model.tied_embeddings = config.Flag("tie_word_embeddings", false);
  return model;
}

/// MosaicML's MPT; its attention has an object of its own.
ModelConfig Mpt(ConfigReader& config) {
  ModelConfig model;
  model.prefix = "transformer.";
  model.names = {.embedding = "wte",
                 .final_norm = "norm_f",
                 .head = "lm_head",
                 .attention_norm = "blocks.{}.norm_1",
                 .mlp_norm = "blocks.{}.norm_2",
                 .query_key_value = "blocks.{}.attn.Wqkv",
                 .attention_output = "blocks.{}.attn.out_proj",
                 .mlp = {.up = "blocks.{}.ffn.up_proj", .down = "blocks.{}.ffn.down_proj"}};
  model.hidden_size = config.Size({"d_model", "hidden_size"});
  model.intermediate_size = config.Size("expansion_ratio", 4) * model.hidden_size;
  model.layers = config.Number({"n_layers", "num_hidden_layers"});
  model.heads = model.kv_heads = config.Number({"n_heads", "num_attention_heads"});
  model.head_size = UsualHeadSize(config, model);
  model.vocabulary_size = config.Size("vocab_size");
  model.max_positions = config.Size("max_seq_len", 2048);
  model.norm = NormKind::kLayer;
  model.norm_epsilon = config.Positive("layer_norm_epsilon", 1e-5);
  model.activation = Activation::kGelu;
  model.positions = PositionKind::kAlibi;
  model.tied_embeddings = config.Flag("tie_word_embeddings", true);
  config.Require("no_bias", true);
  config.Require("norm_type", "low_precision_layernorm");
  config.Require("norm_eps", 1e-5);
  config.Require("logit_scale", nullptr);
  // Transformers reads learned_pos_emb nowhere, and MosaicML's own code makes it false with ALiBi.
  config.Ignore({"learned_pos_emb", "emb_pdrop", "embedding_fraction", "verbose", "init_config",
                 "tokenizer_name", "fc_type", "use_pad_tok_in_ffn"});
  ConfigReader mlp(config.Object("ffn_config"), config.where() + ": ffn_config");
  mlp.Require("ffn_type", "mptmlp");
  mlp.Ignore({"fc_type"});
  config.Adopt(mlp.Finish());
  ConfigReader attention(config.Object("attn_config"), config.where() + ": attn_config");
  model.attention_scale = attention.Positive("softmax_scale", InverseRoot(model.head_size));
  model.qkv_clip = attention.Limit("clip_qkv");
  model.alibi_max = attention.Positive("alibi_bias_max", 8);
  attention.Require("alibi", true);
  attention.Require("qk_ln", false);
  attention.Require("prefix_lm", false);
  attention.Require("attn_uses_sequence_id", false);
  attention.Require("attn_type", "multihead_attention");
  attention.Require("kv_n_heads", model.heads);
  attention.Require("qk_gn", false);
  attention.Require("rope", false);
  attention.Require("sliding_window_size", -1);
  attention.Ignore({"attn_impl", "attn_pdrop", "fused_qkv", "rope_theta", "rope_impl",
                    "rope_dail_config", "rope_hf_config"});
  config.Adopt(attention.Finish());
  return model;
}

constexpr std::array kFamilies = {
    Family{"bloom", Bloom},
    Family{"falcon", Falcon},
    Family{"gemma", Gemma},
    Family{"gemma2", Gemma2},
    Family{"gemma3_text", Gemma3},
    Family{"gpt2", Gpt2},
    Family{"gpt_neox", GptNeoX},
    Family{"gptj", GptJ},
    Family{"llama", Llama},
    Family{"mistral", Mistral},
    Family{"mixtral", Mixtral},
    Family{"mpt", Mpt},
    Family{"opt", Opt},
    Family{"phi", Phi},
    Family{"phi3", Phi3},
    Family{"qwen2", Qwen2},
    Family{"qwen2_moe", Qwen2Moe},
    Family{"qwen3", Qwen3},
    Family{"qwen3_moe", Qwen3Moe},
    Family{"stablelm", StableLm},
};

// Each keeps its decoder below language_model, in its own order with the decoder's prefix.
constexpr std::array kComposites = {
    Composite{"gemma3", "gemma3_text"},
    Composite{"mistral3", "mistral"},
};

}  // namespace

std::span<const Family> Families() { return kFamilies; }

std::span<const Composite> Composites() { return kComposites; }

}  // namespace teq::model_info
