#pragma once

#include <cstdint>
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

  /// Takes what was read out of this process's memory; it comes back from the kernel's cache, or
  /// the disk, when a tensor is used again.
  void Release() const;

 private:
  struct Mapping;
  explicit Checkpoint(std::shared_ptr<const Mapping> mapping) : mapping_(std::move(mapping)) {}
  std::shared_ptr<const Mapping> mapping_;
};

/// What a safetensors file says of a tensor before its data.
struct TensorEntry {
  std::string name;
  torch::ScalarType type = torch::kFloat32;
  std::vector<std::int64_t> shape;
};
[[nodiscard]] TensorEntry EntryOf(const std::string& name, const torch::Tensor& tensor);
[[nodiscard]] std::uint64_t ByteSizeOf(const TensorEntry& entry);

/// Writes one safetensors file tensor by tensor, with `metadata` {"format": "pt"}, and digests it
/// on the way. Data starts at a multiple of 8 bytes. Used once, from one thread.
class SafetensorsWriter {
 public:
  /// Makes the file for tensors that will come in this order. RESOURCE_EXHAUSTED, DISK_FULL.
  [[nodiscard]] static absl::StatusOr<SafetensorsWriter> Create(
      const std::filesystem::path& file, const std::vector<TensorEntry>& entries);
  SafetensorsWriter(SafetensorsWriter&&) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&&) noexcept;
  ~SafetensorsWriter();

  /// The next tensor, contiguous or not, on any device; it must be as its entry says. INTERNAL,
  /// WRITE_FAILED, if it is not; RESOURCE_EXHAUSTED, DISK_FULL.
  [[nodiscard]] absl::Status Add(const torch::Tensor& tensor);

  /// After the last one; the sha256 of all bytes that were to be written, hexadecimal.
  [[nodiscard]] absl::StatusOr<std::string> Finish();

 private:
  struct File;
  explicit SafetensorsWriter(std::unique_ptr<File> file);
  std::unique_ptr<File> file_;
};

/// Writes tensors to one safetensors file in the given order.
[[nodiscard]] absl::Status WriteSafetensors(
    const std::filesystem::path& file,
    const std::vector<std::pair<std::string, torch::Tensor>>& tensors);

}  // namespace teq::checkpoint
