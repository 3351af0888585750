#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/status.h"
#include "client/objects/object_store.h"
#include "client/objects/s3_client.h"

namespace teq::objects {

/// A file on its way to S3.
struct FileUpload {
  std::filesystem::path file;
  std::uint64_t bytes = 0;
  std::string sha256;  // hexadecimal; what the file's bytes must have
  std::string key;     // in the bucket
  std::string uri;
};

/// Sends a file in one request, read into memory first. DATA_LOSS, OBJECT_CORRUPT, before anything
/// is sent, where its bytes have another sha256.
[[nodiscard]] absl::Status UploadWhole(const S3Client& client, const FileUpload& upload,
                                       const TransferProgress& progress);

/// Sends a file in parts, a few at once, and completes it only where the bytes sent had the sha256;
/// else, and after any other error, the upload is aborted.
[[nodiscard]] absl::Status UploadByParts(const S3Client& client, const FileUpload& upload,
                                         const TransferProgress& progress);

/// The ETag that S3 gives an object of these parts: md5 of their md5s, "-", their number. Empty
/// where a part's ETag is no md5, as with some kinds of encryption.
[[nodiscard]] std::string ComposedEtag(const std::vector<std::string>& part_etags);

}  // namespace teq::objects
