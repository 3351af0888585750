#pragma once

#include <filesystem>

#include "absl/status/status.h"

namespace teq::agent {

/// Whether a worker can keep its files in `data`, which is made where it is not there: by a file
/// that is written and removed. Errors as WriteError of client/objects/file.h, with "data" before.
[[nodiscard]] absl::Status CheckDataDirectory(const std::filesystem::path& data);

}  // namespace teq::agent
