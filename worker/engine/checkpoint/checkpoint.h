#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model_info/file_source.h"
#include "client/model_info/safetensors_header.h"
#include "torch/types.h"

namespace teq::checkpoint {

/// A checkpoint's tensors, memory-mapped; bytes are read when a tensor is used. Copies share the
/// mapping. Thread-safe.
class Checkpoint {
 public:
  [[nodiscard]] static absl::StatusOr<Checkpoint> Open(const std::filesystem::path& directory);
  /// The same for files whose bytes come when `source` is asked for them.
  [[nodiscard]] static absl::StatusOr<Checkpoint> Open(
      const std::filesystem::path& directory, std::shared_ptr<model_info::FileSource> source);

  [[nodiscard]] const model_info::CheckpointIndex& index() const;
  [[nodiscard]] bool Has(const std::string& name) const;

  /// The tensor on the CPU in its stored type, a view of the mapping that keeps it alive. Must not
  /// be written to. NOT_FOUND, reason INVALID_CHECKPOINT, for a name that is not there; and what
  /// the source answers.
  [[nodiscard]] absl::StatusOr<torch::Tensor> Read(const std::string& name) const;

 private:
  struct Mapping;
  explicit Checkpoint(std::shared_ptr<const Mapping> mapping) : mapping_(std::move(mapping)) {}
  std::shared_ptr<const Mapping> mapping_;
};

/// Writes tensors (CPU, contiguous or not) to one safetensors file, in the given order, with
/// `metadata` {"format": "pt"}. Data starts at a multiple of 8 bytes. RESOURCE_EXHAUSTED,
/// DISK_FULL.
[[nodiscard]] absl::Status WriteSafetensors(
    const std::filesystem::path& file,
    const std::vector<std::pair<std::string, torch::Tensor>>& tensors);

}  // namespace teq::checkpoint
