#include "worker/engine/pipeline/weights_digest.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string_view>
#include <vector>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::pipeline {
namespace {

// How far ahead of the digest a tensor may lie: a large block, its tensors in any order.
constexpr std::uint64_t kAhead = std::uint64_t{1} << 30;
constexpr std::size_t kPart = 1 << 20;

absl::Status Unreadable(const std::filesystem::path& path) {
  return Error(
      absl::StatusCode::kInternal, "READ_FAILED",
      fmt::format("{}: cannot be read to its end; the disk may be failing", path.string()));
}

}  // namespace

absl::StatusOr<std::string> DigestOfFiles(
    const model_info::CheckpointIndex& index,
    const std::function<absl::StatusOr<std::string>(const std::filesystem::path& file)>&
        digest_of) {
  std::string names_and_digests;
  for (const std::filesystem::path& file : index.files) {
    TEQ_ASSIGN_OR_RETURN(const std::string digest, digest_of(file));
    names_and_digests += fmt::format("{} {}\n", digest, file.filename().string());
  }
  return objects::Sha256(names_and_digests);
}

absl::StatusOr<WeightsDigest> WeightsDigest::Open(const model_info::CheckpointIndex& index) {
  WeightsDigest digest;
  for (const std::filesystem::path& path : index.files) {
    File& file = digest.files_[path];
    file.descriptor = objects::Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    const std::optional<model_info::FileVersion> version =
        model_info::VersionOf(file.descriptor.get());
    if (!version) return Unreadable(path);
    file.version = *version;
  }
  return digest;
}

absl::Status WeightsDigest::CheckUnchanged(const std::filesystem::path& path, const File& file) {
  return model_info::CheckVersion(path, file.version, model_info::VersionOf(file.descriptor.get()));
}

absl::Status WeightsDigest::CheckUnchanged() const {
  for (const auto& [path, file] : files_) TEQ_RETURN_IF_ERROR(CheckUnchanged(path, file));
  return absl::OkStatus();
}

absl::Status WeightsDigest::Advance(const std::filesystem::path& path, std::uint64_t end,
                                    File& file) {
  if (file.hashed >= end) return absl::OkStatus();
  std::vector<char> part(kPart);
  while (file.hashed < end) {
    const std::uint64_t size = std::min<std::uint64_t>(kPart, end - file.hashed);
    const ssize_t count = ::read(file.descriptor.get(), part.data(), size);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      TEQ_RETURN_IF_ERROR(CheckUnchanged(path, file));
      return Unreadable(path);
    }
    file.digest.Add(std::string_view(part.data(), static_cast<std::size_t>(count)));
    file.hashed += static_cast<std::uint64_t>(count);
  }
  return absl::OkStatus();
}

absl::Status WeightsDigest::Follow(const model_info::TensorInfo& tensor) {
  File& file = files_.at(tensor.file);
  if (tensor.offset > file.hashed + kAhead) return absl::OkStatus();
  return Advance(tensor.file, tensor.offset + tensor.bytes, file);
}

absl::StatusOr<std::string> WeightsDigest::Finish(const model_info::CheckpointIndex& index) {
  return DigestOfFiles(index,
                       [this](const std::filesystem::path& path) -> absl::StatusOr<std::string> {
                         File& file = files_.at(path);
                         TEQ_RETURN_IF_ERROR(Advance(path, file.version.bytes, file));
                         return file.digest.Hex();
                       });
}

}  // namespace teq::pipeline
