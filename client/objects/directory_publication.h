#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/objects/publication.h"

namespace teq::objects {

/// Publication::Begin for a directory.
[[nodiscard]] absl::StatusOr<Publication> BeginInDirectory(
    std::filesystem::path output, const Publisher& publisher,
    const std::vector<std::string>& format_directories);

/// Publication::Find for a directory.
[[nodiscard]] Publication FindInDirectory(std::filesystem::path output, const Publisher& publisher);

}  // namespace teq::objects
