#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/objects/object_store.h"

namespace teq::objects {

/// An open file or directory, closed with its last owner.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept;
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

/// A file that gets its name when it is whole: written under a temporary name in the same
/// directory, synced, and renamed by Commit. Without Commit it is removed. While it lives it holds
/// a lock, by which others tell it from what a dead process left. WriteAt may be called by several
/// threads at once. Errors as WriteError of file.h.
class TemporaryFile {
 public:
  /// Beside `path`, whose directory exists.
  [[nodiscard]] static absl::StatusOr<TemporaryFile> Beside(const std::filesystem::path& path);

  /// For `name` in an open directory; `path` is what messages call the file.
  [[nodiscard]] static absl::StatusOr<TemporaryFile> In(int directory, const std::string& name,
                                                        const std::filesystem::path& path);

  ~TemporaryFile();
  TemporaryFile(TemporaryFile&&) noexcept = default;
  TemporaryFile& operator=(TemporaryFile&&) = delete;

  [[nodiscard]] absl::Status WriteAt(std::uint64_t offset, std::string_view content) const;

  /// With kFail, ALREADY_EXISTS, OBJECT_EXISTS, where the name is taken.
  [[nodiscard]] absl::Status Commit(IfExists if_exists);

  /// Whether a file's name is one that this class gives.
  [[nodiscard]] static bool IsTemporaryName(std::string_view name);

 private:
  TemporaryFile(Descriptor directory, std::string name, std::filesystem::path path)
      : directory_(std::move(directory)), name_(std::move(name)), path_(std::move(path)) {}

  Descriptor directory_;
  Descriptor file_;
  std::string name_;
  std::string temporary_;  // empty once nothing has the temporary name
  std::filesystem::path path_;
};

}  // namespace teq::objects
