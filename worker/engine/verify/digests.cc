#include <set>
#include <string>
#include <system_error>

#include "client/objects/publication.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {
namespace {

absl::Status Bad(const std::filesystem::path& file, std::string_view message) {
  return Error(absl::StatusCode::kDataLoss, "VERIFY_FAILED",
               fmt::format("{}: {}", file.string(), message));
}

/// The paths of all regular files, relative to `directory`.
absl::StatusOr<std::set<std::string>> FilesOf(const std::filesystem::path& directory) {
  std::set<std::string> files;
  std::error_code error;
  std::filesystem::recursive_directory_iterator entry(directory, error);
  for (; !error && entry != std::filesystem::recursive_directory_iterator();
       entry.increment(error)) {
    const std::filesystem::file_status status = entry->symlink_status(error);
    if (error) break;
    if (std::filesystem::is_directory(status)) continue;
    if (!std::filesystem::is_regular_file(status)) return Bad(entry->path(), "is no regular file");
    files.insert(entry->path().lexically_relative(directory).string());
  }
  if (error) return Bad(directory, fmt::format("cannot be listed: {}", error.message()));
  return files;
}

}  // namespace

absl::Status CheckDigests(const std::filesystem::path& directory,
                          const std::map<std::string, std::string>& recorded) {
  TEQ_ASSIGN_OR_RETURN(const std::set<std::string> files, FilesOf(directory));
  for (const std::string& file : files) {
    if (!recorded.contains(file)) {
      return Bad(directory / file, "lies in the directory, but no digest of it was recorded");
    }
  }
  for (const auto& [file, digest] : recorded) {
    if (!files.contains(file)) return Bad(directory / file, "was recorded and is missing");
    const absl::StatusOr<std::string> found = objects::FileSha256(directory / file);
    if (!found.ok()) return Bad(directory / file, std::string(found.status().message()));
    if (*found != digest) {
      return Bad(directory / file, fmt::format("has sha256 {}, but {} was recorded when it was "
                                               "written; the disk or another program changed it",
                                               *found, digest));
    }
  }
  return absl::OkStatus();
}

}  // namespace teq::verify
