#pragma once

#include <filesystem>
#include <vector>

#include "absl/status/status.h"
#include "client/model_info/model_config.h"
#include "client/model_info/plan.h"
#include "teq/v1/job.pb.h"

namespace teq::model_info {

/// Checks that every format that a job asks for can hold the planned layers, by the table in
/// format_rules.cc. `directory` is the model's. Where bits are still open (BitsAreOpen), a format
/// must hold every width.
///
/// INVALID_ARGUMENT: SHAPE_NOT_PACKABLE where codes or zero points of a layer do not fill words,
/// FORMAT_CANNOT_HOLD for anything else; names the format, the layers, the remedy, and the formats
/// that hold the plan as it is.
[[nodiscard]] absl::Status CheckFormats(const teq::v1::JobSpec& spec, const ModelConfig& config,
                                        const std::vector<PlannedLayer>& plan,
                                        const std::filesystem::path& directory);

}  // namespace teq::model_info
