#pragma once

#include <optional>
#include <string_view>

#include "worker/engine/model/decoder.h"

namespace teq::bench {

/// The config of a Llama of a named shape, vocabulary 32000: "15m" (hidden 288, 6 blocks, 6 heads,
/// mlp 768, tied embeddings), "100m" (768, 12, 12, 2048, tied) or "7b" (4096, 32, 32, 11008).
[[nodiscard]] std::optional<model_info::ModelConfig> ShapeConfig(std::string_view shape);

/// Random float32 weights on the CPU, of the size that keeps states from growing with depth.
[[nodiscard]] model::Decoder RandomDecoder(const model_info::ModelConfig& config);

/// Bytes of a decoder's weights, a tied matrix counted once.
[[nodiscard]] std::int64_t WeightBytes(const model::Decoder& decoder);

}  // namespace teq::bench
