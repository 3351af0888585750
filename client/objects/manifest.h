#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/objects/object_store.h"
#include "teq/v1/report.pb.h"

namespace teq::objects {

/// The manifest's key, below an output and below an attempt.
inline constexpr const char* kManifestKey = "manifest.json";

/// A manifest is read whole; a larger one is refused.
inline constexpr std::uint64_t kMaxManifestBytes = 64ULL << 20;

/// One published file.
struct ManifestFile {
  std::string path;  // relative to the output
  std::uint64_t bytes = 0;
  std::string sha256;  // hexadecimal
};

/// What a manifest.json says, but for its report.
struct Manifest {
  std::string job;  // empty: a run without a server
  std::string job_uid;
  std::string spec_digest;
  int attempt = 0;
  std::int64_t fence = 0;
  std::vector<teq::v1::Artifact> artifacts;
  std::vector<ManifestFile> files;

  /// The attempt's prefix where the files lie below it, such as "1-1/"; else empty.
  [[nodiscard]] std::string Prefix() const;

  /// The files of one format's directory; none where it was not published.
  [[nodiscard]] std::vector<ManifestFile> FilesOf(std::string_view format) const;
};

/// Reads a manifest that may come from anywhere: paths that leave the output, digests that are
/// none, and a path that is listed twice are refused. `place` is its name for messages. DATA_LOSS,
/// MANIFEST_INVALID.
[[nodiscard]] absl::StatusOr<Manifest> ParseManifest(std::string_view text, std::string_view place);

/// The bytes of an object that is small, whole and of one version. RESOURCE_EXHAUSTED,
/// MANIFEST_TOO_LARGE, above kMaxManifestBytes; else the store's errors.
[[nodiscard]] absl::StatusOr<std::string> ReadSmallObject(const ObjectStore& store,
                                                          const std::string& key);

/// Whether a store has answered that nothing has the key.
[[nodiscard]] bool IsMissing(const absl::Status& status);

/// The directory that a format is published in, such as "compressed_tensors".
[[nodiscard]] std::string FormatDirectory(std::string_view format);

}  // namespace teq::objects
