#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "worker/engine/model/hpu_plugin.h"

namespace teq::model {

/// Loads the plugin at `path`, for as long as the process lives; a second call finds it loaded. All
/// functions of the table are there.
///
/// FAILED_PRECONDITION, reason DEVICE_NOT_AVAILABLE: names the path, what is wrong with it and what
/// to do.
[[nodiscard]] absl::StatusOr<const teq_hpu_plugin*> LoadHpuPlugin(const std::string& path);

/// What the plugin says of the call that failed.
[[nodiscard]] std::string HpuError(const teq_hpu_plugin& plugin);

}  // namespace teq::model
