#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/objects/manifest.h"
#include "client/objects/object_store.h"

namespace teq::objects {

/// A published output, as its root manifest says.
struct PublishedOutput {
  std::string text;    // the manifest's bytes
  std::string sha256;  // theirs
  Manifest manifest;   // paths: the keys that the files have in this store
};

/// Reads the root manifest of an output. A copy that has the formats' directories without the
/// attempt's prefix, as teqctl pull makes it, is an output too.
///
/// NOT_FOUND, NO_MANIFEST: nothing is published there (yet). DATA_LOSS, MANIFEST_MISMATCH: its
/// sha256 is not the `committed` one, which may be empty: not known; MANIFEST_INVALID. And the
/// store's.
[[nodiscard]] absl::StatusOr<PublishedOutput> ReadPublishedOutput(
    const ObjectStore& store, const std::string& committed = {});

/// How closely to look.
enum class VerifyDepth {
  kSizes,    // every file is there with its size
  kDigests,  // every byte is read and digested
};

/// One thing that is not as the manifest says.
struct FileProblem {
  std::string path;
  std::string description;
};

struct Verification {
  int files = 0;                 // that were compared
  std::uint64_t bytes_read = 0;  // and digested
  std::vector<FileProblem> problems;
};

/// Compares what lies in `store` with `files` of a manifest, several at once; what else lies in
/// their formats' directories is a problem too. `progress` counts the bytes that are read;
/// CANCELLED where it returns false. Other errors are the store's: they say nothing of the files.
[[nodiscard]] absl::StatusOr<Verification> VerifyFiles(const ObjectStore& store,
                                                       const std::vector<ManifestFile>& files,
                                                       VerifyDepth depth,
                                                       const TransferProgress& progress = {});

/// The words for a file whose bytes are not what its manifest says.
[[nodiscard]] std::string WrongDigest(const std::string& expected, const std::string& found);

}  // namespace teq::objects
