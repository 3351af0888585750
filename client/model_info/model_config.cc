#include "client/model_info/model_config.h"

#include <fstream>
#include <sstream>

#include "client/model_info/architecture.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using Json = nlohmann::ordered_json;

absl::Status Invalid(const std::string& where, std::string_view message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_MODEL_CONFIG",
               fmt::format("{}: {}", where, message));
}

absl::Status Unsupported(const std::string& where, std::string_view message) {
  return Error(absl::StatusCode::kInvalidArgument, "UNSUPPORTED_MODEL",
               fmt::format("{}: {}", where, message));
}

bool Present(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && !found->is_null();
}

/// Reads keys of one object; remembers the first error, so that a caller reads many and asks once.
class Reader {
 public:
  Reader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  std::int64_t Size(const char* key) {
    if (!Present(json_, key)) return Fail(fmt::format("{} is missing", key));
    return Size(key, 0);
  }
  std::int64_t Size(const char* key, std::int64_t fallback) {
    if (!Present(json_, key)) return fallback;
    const Json& value = json_[key];
    // The bound keeps products of two sizes inside 64 bits.
    if (!value.is_number_integer() || value.get<std::int64_t>() < 1 ||
        value.get<std::int64_t>() > (std::int64_t{1} << 30)) {
      return Fail(fmt::format("{} is {}; it must be an integer from 1 to 2^30", key, value.dump()));
    }
    return value.get<std::int64_t>();
  }
  double Positive(const char* key, double fallback) {
    if (!Present(json_, key)) return fallback;
    const Json& value = json_[key];
    if (!value.is_number() || !(value.get<double>() > 0)) {
      return static_cast<double>(
          Fail(fmt::format("{} is {}; it must be positive", key, value.dump())));
    }
    return value.get<double>();
  }
  bool Flag(const char* key, bool fallback) {
    if (!Present(json_, key)) return fallback;
    if (!json_[key].is_boolean()) {
      return Fail(fmt::format("{} is {}; it must be true or false", key, json_[key].dump())) != 0;
    }
    return json_[key].get<bool>();
  }
  std::string Text(const char* key, const std::string& fallback) {
    if (!Present(json_, key)) return fallback;
    if (!json_[key].is_string()) {
      Fail(fmt::format("{} is {}; it must be a string", key, json_[key].dump()));
      return fallback;
    }
    return json_[key].get<std::string>();
  }
  [[nodiscard]] const absl::Status& status() const { return status_; }

 private:
  std::int64_t Fail(const std::string& message) {
    if (status_.ok()) status_ = Invalid(where_, message);
    return 0;
  }

  const Json& json_;
  std::string where_;
  absl::Status status_;
};

absl::StatusOr<std::optional<RopeScaling>> ParseRopeScaling(const Json& json,
                                                            const std::string& where) {
  if (!Present(json, "rope_scaling")) return std::nullopt;
  const Json& scaling = json["rope_scaling"];
  if (!scaling.is_object()) return Invalid(where, "rope_scaling must be an object");
  Reader reader(scaling, where + ": rope_scaling");
  const std::string kind = reader.Text("rope_type", reader.Text("type", "default"));
  TEQ_RETURN_IF_ERROR(reader.status());
  if (kind == "default") return std::nullopt;
  RopeScaling result;
  result.factor = reader.Positive("factor", 1);
  if (kind == "linear") {
    result.kind = RopeScaling::Kind::kLinear;
  } else if (kind == "llama3") {
    result.kind = RopeScaling::Kind::kLlama3;
    result.low_frequency_factor = reader.Positive("low_freq_factor", 1);
    result.high_frequency_factor = reader.Positive("high_freq_factor", 4);
    result.original_max_positions = reader.Size("original_max_position_embeddings");
  } else {
    return Unsupported(where,
                       fmt::format("rope_scaling of type \"{}\" is not supported; supported: "
                                   "default, linear, llama3",
                                   kind));
  }
  TEQ_RETURN_IF_ERROR(reader.status());
  if (result.kind == RopeScaling::Kind::kLlama3 &&
      result.high_frequency_factor <= result.low_frequency_factor) {
    return Invalid(where, "rope_scaling: high_freq_factor must be above low_freq_factor");
  }
  return result;
}

absl::Status CheckConsistency(const ModelConfig& config, const std::string& where) {
  if (config.heads % config.kv_heads != 0) {
    return Invalid(where, fmt::format("num_attention_heads {} is no multiple of "
                                      "num_key_value_heads {}",
                                      config.heads, config.kv_heads));
  }
  if (config.head_size % 2 != 0) {
    return Invalid(
        where, fmt::format("head_dim {} is odd; rotary positions need pairs", config.head_size));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json, const std::string& where) {
  if (!json.is_object()) return Invalid(where, "it must be a JSON object");
  Reader reader(json, where);
  ModelConfig config;
  config.model_type = reader.Text("model_type", "");
  TEQ_RETURN_IF_ERROR(reader.status());
  if (FindArchitecture(config.model_type) == nullptr) {
    std::vector<std::string_view> known;
    for (const Architecture& row : Architectures()) known.push_back(row.model_type);
    return Error(absl::StatusCode::kInvalidArgument, "UNKNOWN_ARCHITECTURE",
                 fmt::format("{}: model_type \"{}\" is not known; known: {}", where,
                             config.model_type, fmt::join(known, ", ")));
  }
  const std::string activation = reader.Text("hidden_act", "silu");
  config.hidden_size = reader.Size("hidden_size");
  config.intermediate_size = reader.Size("intermediate_size");
  config.layers = reader.Size("num_hidden_layers");
  config.heads = reader.Size("num_attention_heads");
  config.kv_heads = reader.Size("num_key_value_heads", config.heads);
  TEQ_RETURN_IF_ERROR(reader.status());
  if (!Present(json, "head_dim") && config.hidden_size % config.heads != 0) {
    return Invalid(where, fmt::format("hidden_size {} is no multiple of num_attention_heads {}",
                                      config.hidden_size, config.heads));
  }
  config.head_size = reader.Size("head_dim", config.hidden_size / config.heads);
  config.vocabulary_size = reader.Size("vocab_size");
  config.max_positions = reader.Size("max_position_embeddings", 2048);
  config.sliding_window = reader.Size("sliding_window", 0);
  config.norm_epsilon = reader.Positive("rms_norm_eps", 1e-6);
  config.rope_theta = reader.Positive("rope_theta", 10000);
  config.tied_embeddings = reader.Flag("tie_word_embeddings", false);
  config.attention_bias = reader.Flag("attention_bias", false);
  config.mlp_bias = reader.Flag("mlp_bias", false);
  TEQ_RETURN_IF_ERROR(reader.status());
  TEQ_ASSIGN_OR_RETURN(config.rope_scaling, ParseRopeScaling(json, where));
  TEQ_RETURN_IF_ERROR(CheckConsistency(config, where));
  if (activation != "silu") {
    return Unsupported(
        where, fmt::format("hidden_act \"{}\" is not supported; supported: silu", activation));
  }
  if (Present(json, "quantization_config")) {
    return Unsupported(where,
                       "the checkpoint is already quantized (quantization_config); give the "
                       "original one");
  }
  config.source = json;
  return config;
}

absl::StatusOr<ModelConfig> ReadModelConfig(const std::filesystem::path& directory) {
  const std::filesystem::path file = directory / "config.json";
  std::ifstream stream(file, std::ios::binary);
  std::stringstream text;
  if (!stream || !(text << stream.rdbuf())) {
    return Error(absl::StatusCode::kNotFound, "MODEL_NOT_FOUND",
                 fmt::format("{}: cannot be read; model.uri must name a Hugging Face checkpoint "
                             "directory",
                             file.string()));
  }
  const Json json = Json::parse(text.str(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return Invalid(file.string(), "it is not JSON");
  return ParseModelConfig(json, file.string());
}

}  // namespace teq::model_info
