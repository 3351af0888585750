#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/statusor.h"

namespace teq::text {

/// A file of texts or ids, read where one asks. Errors: NOT_FOUND, TEXT_NOT_FOUND;
/// INVALID_ARGUMENT, INVALID_TEXT.
class DataFile {
 public:
  [[nodiscard]] static absl::StatusOr<DataFile> Open(const std::filesystem::path& path);
  DataFile(DataFile&& other) noexcept;
  DataFile& operator=(DataFile&&) = delete;
  ~DataFile();

  [[nodiscard]] const std::filesystem::path& path() const { return path_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }

  /// The bytes from `offset`, fewer than `count` only where the file ends.
  [[nodiscard]] absl::StatusOr<std::string> Read(std::uint64_t offset, std::uint64_t count) const;

 private:
  DataFile(std::filesystem::path path, int descriptor, std::uint64_t size)
      : path_(std::move(path)), descriptor_(descriptor), size_(size) {}

  std::filesystem::path path_;
  int descriptor_;
  std::uint64_t size_;
};

}  // namespace teq::text
