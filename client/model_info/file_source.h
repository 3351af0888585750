#pragma once

#include <cstdint>
#include <filesystem>

#include "absl/status/status.h"

namespace teq::model_info {

/// Told which bytes of a model's files are about to be read, so that files may be there before
/// their bytes are. Thread-safe.
class FileSource {
 public:
  virtual ~FileSource() = default;

  /// OK once the bytes from `offset` are there, as far as the file has them.
  [[nodiscard]] virtual absl::Status EnsureRange(const std::filesystem::path& file,
                                                 std::uint64_t offset, std::uint64_t length) = 0;
};

/// Files that are wholly there.
class WholeFiles final : public FileSource {
 public:
  [[nodiscard]] absl::Status EnsureRange(const std::filesystem::path& /*file*/,
                                         std::uint64_t /*offset*/,
                                         std::uint64_t /*length*/) override {
    return absl::OkStatus();
  }
};

}  // namespace teq::model_info
