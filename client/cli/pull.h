#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/objects/manifest.h"
#include "client/objects/object_store.h"

namespace teq::cli {

/// What is brought where.
struct PullPlan {
  std::filesystem::path directory;
  std::string manifest_text;
  std::string prefix;                        // of the files' paths; left out in the directory
  std::vector<objects::ManifestFile> files;  // those that are wanted
};

/// Brings one file of the manifest to a local path.
using FetchFile =
    std::function<absl::Status(const objects::ManifestFile& file, const std::filesystem::path& to,
                               const objects::TransferProgress& progress)>;

struct PullResult {
  int fetched = 0;
  int kept = 0;  // were there with the right digest
  std::uint64_t fetched_bytes = 0;
};

/// Fills plan.directory with the files, manifest.json beside them, several files at once. All go to
/// <directory>.partial first and get their places when each has the sha256 that the manifest says,
/// so that nobody sees a half; what an interrupted pull has left there is used. A directory of the
/// same manifest is completed and repaired.
///
/// FAILED_PRECONDITION, DIRECTORY_IN_USE: the directory, or the one beside it, holds something
/// else, or another pull is at work. DATA_LOSS, CHECKSUM_MISMATCH, names the file and both digests.
/// CANCELLED where `progress` returns false. And the errors of AbsoluteDirectory, `fetch` and
/// file.h.
[[nodiscard]] absl::StatusOr<PullResult> PullFiles(const PullPlan& plan, const FetchFile& fetch,
                                                   const objects::TransferProgress& progress);

/// The absolute path, without a slash at its end. INVALID_ARGUMENT, reason USAGE, where it is
/// empty, or relative to a current directory that is gone.
[[nodiscard]] absl::StatusOr<std::filesystem::path> AbsoluteDirectory(
    const std::filesystem::path& directory);

/// Where files wait until all are there.
[[nodiscard]] std::filesystem::path PartialDirectory(const std::filesystem::path& directory);

}  // namespace teq::cli
