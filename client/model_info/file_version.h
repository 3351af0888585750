#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "absl/status/status.h"

namespace teq::model_info {

/// What tells, without reading it, that a file is still as it was.
struct FileVersion {
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;  // since 1970

  friend bool operator==(const FileVersion&, const FileVersion&) = default;
};

/// Of what has the name now, or of an open file, whatever has its name. Nothing where there is no
/// file, or it cannot be looked at.
[[nodiscard]] std::optional<FileVersion> VersionOf(const std::filesystem::path& file);
[[nodiscard]] std::optional<FileVersion> VersionOf(int descriptor);

/// OK where a model's file is as it was before; nothing stands for no file.
/// FAILED_PRECONDITION, OBJECT_CHANGED: names the file, what differs, and the remedy.
[[nodiscard]] absl::Status CheckVersion(const std::filesystem::path& file,
                                        const std::optional<FileVersion>& before,
                                        const std::optional<FileVersion>& now);

}  // namespace teq::model_info
