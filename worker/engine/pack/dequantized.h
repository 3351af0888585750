#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "worker/engine/pack/packable_model.h"

namespace teq::pack {

/// Writes the model as a plain checkpoint, each rounded weight as the value that its code stands
/// for, in FloatType and where the source stores it. Else as WriteCheckpointDirectory.
/// INVALID_ARGUMENT, NOT_REPRESENTABLE: a value is too large for the type; names the layer.
[[nodiscard]] absl::StatusOr<std::map<std::string, std::string>> WriteDequantizedDirectory(
    const PackableModel& model, const std::filesystem::path& directory);

}  // namespace teq::pack
