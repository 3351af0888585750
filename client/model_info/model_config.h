#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace teq::model_info {

enum class NormKind {
  kRms,         // x / sqrt(mean(x^2) + epsilon) * w
  kRmsOnePlus,  // the same times 1 + w
  kLayer,       // (x - mean) / sqrt(variance + epsilon) * w + b
};

enum class Activation { kSilu, kGelu, kGeluTanh, kRelu };

enum class PositionKind { kRotary, kLearned, kAlibi };

/// How rotary frequencies are stretched for longer texts than the model was first trained on; the
/// kinds of config.json's rope_scaling.
struct RopeScaling {
  enum class Kind {
    kLinear,    // all positions divided by `factor`
    kDynamic,   // NTK: a larger base, by how far a text exceeds original_max_positions
    kLlama3,    // low frequencies divided, high ones kept, a ramp of frequency between
    kYarn,      // the same with a ramp of dimension, and a temperature (arXiv 2309.00071)
    kLongRope,  // a searched divisor for every frequency (arXiv 2402.13753)
  };
  Kind kind = Kind::kLinear;
  double factor = 1;
  double low_frequency_factor = 1;
  double high_frequency_factor = 4;
  std::int64_t original_max_positions = 0;
  double beta_fast = 32;  // turns over the original positions: yarn's ramp ends
  double beta_slow = 1;
  bool truncate = true;               // yarn: the ramp's ends are whole dimensions
  double attention_factor = 1;        // multiplies cosines and sines
  std::vector<double> short_factors;  // longrope, by frequency: texts of the original length
  std::vector<double> long_factors;   // longer ones
};

/// Rotary positions of one kind of layer.
struct Rotary {
  double theta = 10000;
  std::int64_t dimensions = 0;  // of each head that turn; the others stay
  bool interleaved = false;     // neighbours form a pair; otherwise halves do
  std::optional<RopeScaling> scaling;
};

/// Modules of a gated (gate, up, down), a fused (gate_up, down) or a plain (up, down) MLP.
struct MlpNames {
  std::string_view gate;
  std::string_view up;
  std::string_view gate_up;  // rows: gate, then up
  std::string_view down;
};

/// Module names, with `{}` for the block's number, and a second one for an expert's (or a head's).
/// Empty: the family has no such module.
struct Names {
  std::string_view embedding;
  std::string_view positions;
  std::string_view embedding_norm;
  std::string_view project_in;
  std::string_view project_out;
  std::string_view final_norm;
  std::string_view head;
  std::string_view attention_norm;
  std::string_view mlp_norm;
  std::string_view post_attention_norm;
  std::string_view post_mlp_norm;
  std::string_view query_norm;
  std::string_view key_norm;
  std::string_view query;
  std::string_view key;
  std::string_view value;
  std::string_view query_key_value;
  std::string_view attention_output;
  MlpNames mlp;
  MlpNames expert;
  MlpNames shared_expert;
  std::string_view router;
  std::string_view shared_expert_gate;
};

/// A mixture's experts; none without.
struct Experts {
  std::int64_t count = 0;
  std::int64_t per_token = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t shared_intermediate_size = 0;
  bool normalized = false;          // the chosen experts' weights sum to 1
  std::vector<bool> sparse_blocks;  // by block; the others have the plain MLP
};

/// What a model is: everything that config.json and the family's table (families.cc) say about it,
/// in one vocabulary for all families. The decoder (worker/engine/model) runs it, layout.h lists
/// its tensors, and the scale groups (worker/engine/teq) follow from it.
struct ModelConfig {
  std::string model_type;
  Names names;
  // Before every name but the head's, such as "transformer."; a checkpoint may leave it out.
  std::string prefix;
  std::string head_prefix;
  // The decoder of a model of more than text (Gemma 3 from 4B, Mistral Small 3.1), whose other
  // parts are published as they are stored.
  bool is_part = false;

  std::int64_t hidden_size = 0;
  std::int64_t embedding_size = 0;  // of the vocabulary's rows; projected where it is not hidden's
  std::int64_t intermediate_size = 0;
  std::int64_t layers = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_size = 0;
  std::int64_t vocabulary_size = 0;
  std::int64_t max_positions = 0;

  NormKind norm = NormKind::kRms;
  bool norm_bias = false;
  double norm_epsilon = 1e-5;
  Activation activation = Activation::kSilu;

  PositionKind positions = PositionKind::kRotary;
  Rotary rotary;
  std::optional<Rotary> local_rotary;  // of blocks with a sliding window, where they differ
  std::int64_t position_offset = 0;    // rows of the position table before position 0
  double alibi_max = 8;                // arXiv 2108.12409: slopes fall to 2^-alibi_max
  double alibi_scale = 1;

  double embedding_scale = 1;
  double attention_scale = 0;
  bool attention_scale_by_depth = false;  // divided by the block's number from 1
  double attention_softcap = 0;           // cap * tanh(score / cap); 0: none
  double logit_softcap = 0;
  double qkv_clip = 0;                // queries, keys and values stay within it; 0: anywhere
  std::vector<std::int64_t> windows;  // by block: tokens a position sees, itself included; 0: all
  bool qkv_by_head = false;           // fused rows: every kv head's queries, its key, its value
  bool norm_by_head = false;          // query and key norms have weights of every head's own

  bool parallel = false;            // attention and MLP both read the block's input
  bool post_norm = false;           // norms follow the sums with the residual
  bool residual_from_norm = false;  // the residual is what the norm gives

  bool tied_embeddings = false;
  bool head_bias = false;
  bool qkv_bias = false;
  bool attention_output_bias = false;
  bool mlp_bias = false;
  bool transposed_linears = false;  // stored [in, out]
  Experts experts;

  // Texts are cut so that every window begins with the tokenizer's prefix: without its BOS the
  // model does not predict.
  bool prefix_in_every_window = false;

  nlohmann::ordered_json source;  // the whole of config.json, for what is published

  [[nodiscard]] std::int64_t Window(std::int64_t block) const {
    return windows.empty() ? 0 : windows[static_cast<std::size_t>(block)];
  }
  [[nodiscard]] double AttentionScale(std::int64_t block) const {
    return attention_scale_by_depth ? attention_scale / static_cast<double>(block + 1)
                                    : attention_scale;
  }
  [[nodiscard]] bool IsSparse(std::int64_t block) const {
    return experts.count > 0 && experts.sparse_blocks[static_cast<std::size_t>(block)];
  }
};

/// Reads `directory`/config.json.
///
/// NOT_FOUND, MODEL_NOT_FOUND. INVALID_ARGUMENT: INVALID_MODEL_CONFIG (names the key and the
/// value), UNKNOWN_ARCHITECTURE (names model_type and the families that are known),
/// UNSUPPORTED_MODEL for a known family's variant that teqd cannot run exactly, such as an unknown
/// rope_scaling or a key that the family's table does not know, and for a checkpoint that is
/// already quantized.
[[nodiscard]] absl::StatusOr<ModelConfig> ReadModelConfig(const std::filesystem::path& directory);

/// The same from a config.json's text; `where` names it in messages.
[[nodiscard]] absl::StatusOr<ModelConfig> ParseModelConfigText(std::string_view text,
                                                               const std::string& where);

/// The same from parsed JSON.
[[nodiscard]] absl::StatusOr<ModelConfig> ParseModelConfig(const nlohmann::ordered_json& json,
                                                           const std::string& where);

}  // namespace teq::model_info
