#include "client/model_info/model_config.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "client/model_info/config_reader.h"
#include "client/model_info/families.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "proto/spec/error.h"

namespace teq::model_info {
namespace {

using Json = nlohmann::ordered_json;

absl::StatusOr<const Family*> FindFamily(ConfigReader& config) {
  const std::string model_type = config.Text("model_type", "");
  TEQ_RETURN_IF_ERROR(config.status());
  std::vector<std::string_view> known;
  for (const Family& family : Families()) {
    if (family.model_type == model_type) return &family;
    known.push_back(family.model_type);
  }
  // Gemma 3 from 4B, Mistral Small 3.1.
  if (config.Has("text_config")) {
    return Error(absl::StatusCode::kInvalidArgument, "UNKNOWN_ARCHITECTURE",
                 fmt::format("{}: model_type \"{}\" is a model of more than text, with its decoder "
                             "under text_config; give that decoder as a checkpoint of its own",
                             config.where(), model_type));
  }
  return Error(absl::StatusCode::kInvalidArgument, "UNKNOWN_ARCHITECTURE",
               fmt::format("{}: model_type \"{}\" is not known; known: {}", config.where(),
                           model_type, fmt::join(known, ", ")));
}

// Far above any published file. An object's keys are looked up one by one, and nested values by
// recursion.
constexpr std::uintmax_t kMostBytes = 1 << 20;
constexpr int kMostDepth = 32;
// Layers of all experts.
constexpr std::int64_t kMostExperts = 1 << 20;

absl::Status InvalidConfig(const std::string& where, std::string_view message) {
  return Error(absl::StatusCode::kInvalidArgument, "INVALID_MODEL_CONFIG",
               fmt::format("{}: {}", where, message));
}

/// What no decoder's forward pass without a cache has.
void RequirePlainDecoder(ConfigReader& config) {
  for (const char* key :
       {"is_decoder", "is_encoder_decoder", "tie_encoder_decoder", "add_cross_attention"}) {
    config.Require(key, false);
  }
  config.Require("pruned_heads", Json::object());
}

void CheckConsistency(const ModelConfig& model, ConfigReader& config) {
  if (model.heads % model.kv_heads != 0) {
    config.Invalid(fmt::format("num_attention_heads {} is no multiple of num_key_value_heads {}",
                               model.heads, model.kv_heads));
  }
  if (model.layers * model.experts.count > kMostExperts) {
    config.Invalid(fmt::format("{} layers of {} experts are more than {}", model.layers,
                               model.experts.count, kMostExperts));
  }
  if (model.experts.per_token > model.experts.count) {
    config.Invalid(fmt::format("num_experts_per_tok {} is more than the {} experts",
                               model.experts.per_token, model.experts.count));
  }
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json, const std::string& where) {
  if (!json.is_object()) return InvalidConfig(where, "it must be a JSON object");
  ConfigReader reader(json, where);
  TEQ_ASSIGN_OR_RETURN(const Family* family, FindFamily(reader));
  if (reader.Has("quantization_config")) {
    reader.Unsupported(
        "the checkpoint is already quantized (quantization_config); give the original one");
  }
  RequirePlainDecoder(reader);
  ModelConfig model = family->describe(reader);
  CheckConsistency(model, reader);
  TEQ_RETURN_IF_ERROR(reader.Finish());
  model.model_type = family->model_type;
  if (model.embedding_size == 0) model.embedding_size = model.hidden_size;
  model.source = json;
  return model;
}

absl::StatusOr<ModelConfig> ParseModelConfigText(std::string_view text, const std::string& where) {
  if (text.size() > kMostBytes) {
    return InvalidConfig(where, fmt::format("it has more than {} bytes", kMostBytes));
  }
  bool too_deep = false;
  const Json json = Json::parse(
      text,
      [&](int depth, Json::parse_event_t, Json&) {
        too_deep |= depth > kMostDepth;
        return depth <= kMostDepth;
      },
      /*allow_exceptions=*/false);
  if (too_deep) return InvalidConfig(where, fmt::format("it nests deeper than {}", kMostDepth));
  if (json.is_discarded()) return InvalidConfig(where, "it is not JSON");
  return ParseModelConfig(json, where);
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
  return ParseModelConfigText(text.view(), file.string());
}

}  // namespace teq::model_info
