#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model_info/safetensors_header.h"
#include "client/objects/digest.h"

namespace teq::pipeline {

/// The sha256 of a model's weights: of a line "digest name" for each file.
[[nodiscard]] absl::StatusOr<std::string> DigestOfFiles(
    const model_info::CheckpointIndex& index,
    const std::function<absl::StatusOr<std::string>(const std::filesystem::path& file)>& digest_of);

/// DigestOfFiles of weights that lie on this disk. Files are hashed as the model is read, so that
/// the disk is read once even where memory does not hold the model until its second use. Used from
/// one thread.
class WeightsDigest {
 public:
  /// A tensor is about to be read: hashes its file up to the tensor's end, if the digest has come
  /// near it; a tensor far ahead has to wait for Finish. INTERNAL, READ_FAILED, as Finish.
  [[nodiscard]] absl::Status Follow(const model_info::TensorInfo& tensor);

  /// Hashes the rest of all files.
  [[nodiscard]] absl::StatusOr<std::string> Finish(const model_info::CheckpointIndex& index);

 private:
  struct File {
    std::ifstream stream;
    objects::Sha256Digest digest;
    std::uint64_t hashed = 0;  // bytes
  };
  absl::StatusOr<File*> Opened(const std::filesystem::path& path);
  static absl::Status Advance(File& file, const std::filesystem::path& path, std::uint64_t end);

  std::map<std::filesystem::path, File> files_;
};

}  // namespace teq::pipeline
