#include "worker/engine/pipeline/weights_digest.h"

#include <algorithm>
#include <string_view>
#include <system_error>
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
  return Error(absl::StatusCode::kInternal, "READ_FAILED",
               fmt::format("{}: cannot be read to its end; it became shorter while it was used, or "
                           "the disk fails",
                           path.string()));
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

absl::StatusOr<WeightsDigest::File*> WeightsDigest::Opened(const std::filesystem::path& path) {
  const auto [found, is_new] = files_.try_emplace(path);
  if (is_new) found->second.stream.open(path, std::ios::binary);
  if (!found->second.stream) return Unreadable(path);
  return &found->second;
}

absl::Status WeightsDigest::Advance(File& file, const std::filesystem::path& path,
                                    std::uint64_t end) {
  std::vector<char> part(kPart);
  while (file.hashed < end) {
    const std::uint64_t size = std::min<std::uint64_t>(kPart, end - file.hashed);
    if (!file.stream.read(part.data(), static_cast<std::streamsize>(size))) {
      return Unreadable(path);
    }
    file.digest.Add(std::string_view(part.data(), size));
    file.hashed += size;
  }
  return absl::OkStatus();
}

absl::Status WeightsDigest::Follow(const model_info::TensorInfo& tensor) {
  TEQ_ASSIGN_OR_RETURN(File* const file, Opened(tensor.file));
  if (tensor.offset > file->hashed + kAhead) return absl::OkStatus();
  return Advance(*file, tensor.file, tensor.offset + tensor.bytes);
}

absl::StatusOr<std::string> WeightsDigest::Finish(const model_info::CheckpointIndex& index) {
  return DigestOfFiles(index,
                       [this](const std::filesystem::path& path) -> absl::StatusOr<std::string> {
                         TEQ_ASSIGN_OR_RETURN(File* const file, Opened(path));
                         std::error_code error;
                         const std::uint64_t size = std::filesystem::file_size(path, error);
                         if (error) return Unreadable(path);
                         TEQ_RETURN_IF_ERROR(Advance(*file, path, size));
                         return file->digest.Hex();
                       });
}

}  // namespace teq::pipeline
