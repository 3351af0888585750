#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model_info/file_version.h"
#include "client/model_info/safetensors_header.h"
#include "client/objects/digest.h"
#include "client/objects/temporary_file.h"

namespace teq::pipeline {

/// The sha256 of a model's weights: of a line "digest name" for each file.
[[nodiscard]] absl::StatusOr<std::string> DigestOfFiles(
    const model_info::CheckpointIndex& index,
    const std::function<absl::StatusOr<std::string>(const std::filesystem::path& file)>& digest_of);

/// DigestOfFiles of weights that lie on this disk. Files are hashed as the model is read, so that
/// the disk is read once even where memory does not hold the model until its second use. All are
/// open from the beginning, as they are mapped: another file that takes the name of one later is
/// neither hashed nor used. Used from one thread.
class WeightsDigest {
 public:
  /// For files that were mapped just now. INTERNAL, READ_FAILED.
  [[nodiscard]] static absl::StatusOr<WeightsDigest> Open(const model_info::CheckpointIndex& index);
  WeightsDigest(WeightsDigest&&) noexcept = default;
  WeightsDigest& operator=(WeightsDigest&&) noexcept = default;

  /// A tensor is about to be read: hashes its file up to the tensor's end, if the digest has come
  /// near it; a tensor far ahead has to wait for Finish. INTERNAL, READ_FAILED, and as
  /// CheckUnchanged where a file ends too early; as Finish.
  [[nodiscard]] absl::Status Follow(const model_info::TensorInfo& tensor);

  /// Whether no file was written to since it was opened; else as model_info::CheckVersion. What a
  /// file's name stands for by now does not count.
  [[nodiscard]] absl::Status CheckUnchanged() const;

  /// Hashes the rest of all files.
  [[nodiscard]] absl::StatusOr<std::string> Finish(const model_info::CheckpointIndex& index);

 private:
  struct File {
    objects::Descriptor descriptor;
    model_info::FileVersion version;  // when it was opened
    objects::Sha256Digest digest;
    std::uint64_t hashed = 0;  // bytes
  };
  WeightsDigest() = default;
  static absl::Status CheckUnchanged(const std::filesystem::path& path, const File& file);
  static absl::Status Advance(const std::filesystem::path& path, std::uint64_t end, File& file);

  std::map<std::filesystem::path, File> files_;
};

}  // namespace teq::pipeline
