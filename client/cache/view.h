#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cache/file_lock.h"

namespace teq::cache {

/// A directory of links to files that lie elsewhere, under the names that readers look for. Removed
/// with its owner; what a dead process left is known by its free lock.
class View {
 public:
  /// A new one below `parent`, which is made where it is missing.
  [[nodiscard]] static absl::StatusOr<std::unique_ptr<View>> Create(
      const std::filesystem::path& parent);

  /// Removes views of processes that are gone.
  static void RemoveStale(const std::filesystem::path& parent);

  ~View();
  View(const View&) = delete;
  View& operator=(const View&) = delete;

  [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }

  /// A link, a path below the directory, to a file. Errors as WriteError of file.h.
  [[nodiscard]] static absl::Status Add(const std::filesystem::path& link,
                                        const std::filesystem::path& target);

 private:
  View(std::filesystem::path directory, FileLock lock)
      : directory_(std::move(directory)), lock_(std::move(lock)) {}

  std::filesystem::path directory_;
  FileLock lock_;
};

}  // namespace teq::cache
