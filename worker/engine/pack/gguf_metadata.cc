#include "worker/engine/pack/gguf_metadata.h"

#include <algorithm>
#include <string>

#include "fmt/format.h"

namespace teq::pack {
namespace {

using model_info::ModelConfig;
using model_info::RopeScaling;

std::int64_t ContextLength(const ModelConfig& config) {
  std::int64_t length = config.max_positions;
  for (const std::int64_t window : config.windows) {
    if (window > 0) length = std::min(length, window);
  }
  return length;
}

class Architecture {
 public:
  Architecture(const ModelConfig& config, GgufMetadata& metadata)
      : config_(config),
        metadata_(metadata),
        name_(config.model_type == "mistral" ? "llama" : config.model_type) {}

  void Describe() {
    metadata_.AddText("general.architecture", name_);
    metadata_.AddText("general.type", "model");
    AddNumber("vocab_size", config_.vocabulary_size);
    AddNumber("context_length", ContextLength(config_));
    AddNumber("embedding_length", config_.hidden_size);
    AddNumber("block_count", config_.layers);
    AddNumber("feed_forward_length", config_.intermediate_size);
    AddNumber("attention.head_count", config_.heads);
    AddNumber("attention.head_count_kv", config_.kv_heads);
    AddNumber("attention.key_length", config_.head_size);
    AddNumber("attention.value_length", config_.head_size);
    AddReal(config_.norm == model_info::NormKind::kLayer ? "attention.layer_norm_epsilon"
                                                         : "attention.layer_norm_rms_epsilon",
            config_.norm_epsilon);
    if (config_.positions == model_info::PositionKind::kRotary) DescribeRotary();
  }

 private:
  void DescribeRotary() {
    AddNumber("rope.dimension_count", config_.rotary.dimensions);
    AddReal("rope.freq_base", config_.rotary.theta);
    if (!config_.rotary.scaling) return;
    const RopeScaling& scaling = *config_.rotary.scaling;
    // Llama 3's has a tensor of its own.
    if (scaling.kind == RopeScaling::Kind::kLlama3) return;
    const bool yarn = scaling.kind == RopeScaling::Kind::kYarn;
    metadata_.AddText(Key("rope.scaling.type"), yarn ? "yarn" : "linear");
    AddReal("rope.scaling.factor", scaling.factor);
    if (yarn) AddNumber("rope.scaling.original_context_length", scaling.original_max_positions);
  }

  [[nodiscard]] std::string Key(std::string_view key) const {
    return fmt::format("{}.{}", name_, key);
  }
  void AddNumber(std::string_view key, std::int64_t value) { metadata_.AddNumber(Key(key), value); }
  void AddReal(std::string_view key, double value) { metadata_.AddReal(Key(key), value); }

  const ModelConfig& config_;
  GgufMetadata& metadata_;
  std::string name_;
};

}  // namespace

void DescribeModel(const ModelConfig& config, GgufMetadata& metadata) {
  Architecture(config, metadata).Describe();
}

}  // namespace teq::pack
