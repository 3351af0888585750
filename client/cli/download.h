#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "client/objects/http.h"
#include "client/objects/object_store.h"
#include "client/objects/retry.h"

namespace teq::cli {

/// What a download needs of the world.
struct DownloadDeps {
  objects::HttpTransport& transport;
  objects::RetryPolicy retries;
  objects::RetryWorld world;
};

/// The `bytes` that a presigned URL gives, to a file: written beside it, synced, renamed; a
/// connection that breaks is taken up where it broke. PERMISSION_DENIED, DOWNLOAD_REFUSED: the URL
/// has expired or was never good. UNAVAILABLE, DOWNLOAD_FAILED. DATA_LOSS, DOWNLOAD_FAILED: another
/// number of bytes. CANCELLED. Messages do not hold the URL, which is a secret.
[[nodiscard]] absl::Status DownloadUrl(const DownloadDeps& deps, const std::string& url,
                                       std::uint64_t bytes, const std::filesystem::path& to,
                                       const objects::TransferProgress& progress);

}  // namespace teq::cli
