#pragma once

#include <cstdint>
#include <vector>

#include "client/model_info/model_config.h"
#include "client/model_info/plan.h"
#include "teq/v1/job.pb.h"

namespace teq::model_info {

/// Bytes of the weight files that a format makes of a model: exact but for their headers' last few
/// bytes, and for GGUF's metadata, which holds the tokenizer and is not counted. Floats are
/// published in half precision. Of a larger model the decoder alone is counted. Where target_bits
/// leaves the bits open, they are taken as it says on average.
[[nodiscard]] std::int64_t OutputBytes(teq::v1::Format format, const teq::v1::Recipe& recipe,
                                       const ModelConfig& config,
                                       const std::vector<PlannedLayer>& plan);

}  // namespace teq::model_info
