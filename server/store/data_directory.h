#pragma once

#include <filesystem>

#include "absl/status/statusor.h"

namespace teq::store {

/// Where a server whose data directory is `data` keeps its database.
[[nodiscard]] std::filesystem::path DatabaseFile(const std::filesystem::path& data);

/// The directory where a server keeps its database. While this object lives, no other server can
/// use the directory.
class DataDirectory {
 public:
  /// Creates the directory where it is missing and locks it. FAILED_PRECONDITION, reason
  /// DATA_DIRECTORY_IN_USE, names the directory and the process that holds it; UNAVAILABLE, reason
  /// STORE_UNAVAILABLE, where it cannot be made or written.
  [[nodiscard]] static absl::StatusOr<DataDirectory> Open(const std::filesystem::path& path);

  DataDirectory(DataDirectory&& other) noexcept;
  DataDirectory& operator=(DataDirectory&&) = delete;
  DataDirectory(const DataDirectory&) = delete;
  DataDirectory& operator=(const DataDirectory&) = delete;
  ~DataDirectory();

  [[nodiscard]] std::filesystem::path DatabaseFile() const;

 private:
  DataDirectory(std::filesystem::path path, int lock);

  std::filesystem::path path_;
  int lock_;  // descriptor of the lock file; -1 after a move
};

}  // namespace teq::store
