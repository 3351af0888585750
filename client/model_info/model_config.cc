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

/// A row of Families or Composites.
template <typename Row>
const Row* FindRow(std::span<const Row> rows, std::string_view model_type) {
  const auto found = std::ranges::find(rows, model_type, &Row::model_type);
  return found == rows.end() ? nullptr : &*found;
}

absl::Status UnknownArchitecture(const ConfigReader& config, std::string_view model_type) {
  std::vector<std::string_view> known;
  for (const Family& family : Families()) known.push_back(family.model_type);
  for (const Composite& composite : Composites()) known.push_back(composite.model_type);
  return Error(absl::StatusCode::kInvalidArgument, "UNKNOWN_ARCHITECTURE",
               fmt::format("{}: model_type \"{}\" is not known; known: {}", config.where(),
                           model_type, fmt::join(known, ", ")));
}

void RefuseQuantized(ConfigReader& config) {
  if (!config.Has("quantization_config")) return;
  config.Unsupported(
      "the checkpoint is already quantized (quantization_config); give the original one");
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

absl::StatusOr<ModelConfig> ReadDecoder(const Family& family, ConfigReader& config) {
  RefuseQuantized(config);
  RequirePlainDecoder(config);
  ModelConfig model = family.describe(config);
  CheckConsistency(model, config);
  TEQ_RETURN_IF_ERROR(config.Finish());
  model.model_type = family.model_type;
  if (model.embedding_size == 0) model.embedding_size = model.hidden_size;
  return model;
}

absl::StatusOr<ModelConfig> ReadComposite(const Composite& composite, ConfigReader& config) {
  RefuseQuantized(config);
  // What becomes of images, and where they stand in a text.
  config.Ignore({"vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index",
                 "image_token_index", "boi_token_id", "eoi_token_id", "image_token_id",
                 "image_seq_length", "multimodal_projector_bias", "projector_hidden_act",
                 "spatial_merge_size", "vision_feature_layer"});
  const Json& text = config.Object("text_config");
  TEQ_RETURN_IF_ERROR(config.status());
  ConfigReader text_config(text, config.where() + ": text_config");
  text_config.Require("model_type", composite.decoder);
  TEQ_ASSIGN_OR_RETURN(ModelConfig model,
                       ReadDecoder(*FindRow(Families(), composite.decoder), text_config));
  config.Require("tie_word_embeddings", model.tied_embeddings);
  TEQ_RETURN_IF_ERROR(config.Finish());
  model.is_part = true;
  model.head_prefix = "language_model.";
  model.prefix.insert(0, model.head_prefix);
  return model;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const Json& json, const std::string& where) {
  if (!json.is_object()) return InvalidConfig(where, "it must be a JSON object");
  ConfigReader reader(json, where);
  const std::string model_type = reader.Text("model_type", "");
  TEQ_RETURN_IF_ERROR(reader.status());
  const Family* family = FindRow(Families(), model_type);
  const Composite* composite = FindRow(Composites(), model_type);
  if (family == nullptr && composite == nullptr) return UnknownArchitecture(reader, model_type);
  TEQ_ASSIGN_OR_RETURN(ModelConfig model, family != nullptr ? ReadDecoder(*family, reader)
                                                            : ReadComposite(*composite, reader));
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
