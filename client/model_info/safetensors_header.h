#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model_info/file_source.h"

namespace teq::model_info {

/// The types of the safetensors format that teqd reads or writes.
enum class DType { kF32, kF16, kBF16, kI32, kI64, kI16, kI8, kU8, kBool, kF64 };

/// The format's name of a type ("F16"), and its size in bytes.
[[nodiscard]] std::string_view Name(DType dtype);
[[nodiscard]] std::int64_t ByteSize(DType dtype);

/// Where a tensor lies.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;
  std::filesystem::path file;
  std::uint64_t offset = 0;  // of its first byte, from the start of the file
  std::uint64_t bytes = 0;
};

/// The tensors of one file, by name. Nothing is believed before it is checked: the length field
/// against the file's size and 100 MB, the JSON, known dtypes, shapes whose product does not
/// overflow and agrees with the byte range, ranges inside the file, without overlap and without
/// holes, no duplicate names.
///
/// INVALID_ARGUMENT, reason INVALID_CHECKPOINT, naming the file, the tensor and the value;
/// NOT_FOUND, MODEL_NOT_FOUND; and what `source` answers.
[[nodiscard]] absl::StatusOr<std::map<std::string, TensorInfo>> ReadSafetensorsHeader(
    const std::filesystem::path& file);
[[nodiscard]] absl::StatusOr<std::map<std::string, TensorInfo>> ReadSafetensorsHeader(
    const std::filesystem::path& file, FileSource& source);

/// The files that a checkpoint's index names, in name order, none outside its directory.
/// INVALID_ARGUMENT, INVALID_CHECKPOINT.
[[nodiscard]] absl::StatusOr<std::vector<std::string>> ReadShardNames(
    const std::filesystem::path& index_file);

/// INVALID_ARGUMENT, INVALID_CHECKPOINT: `file` has pickled weights; says how to convert them.
[[nodiscard]] absl::Status PickledWeights(const std::filesystem::path& file);

/// All tensors of a checkpoint directory: `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names. A shard that is missing, a tensor in two shards, a tensor
/// the index names and no shard has, and a shard's path that leaves the directory are
/// INVALID_CHECKPOINT; a directory with only pickled `.bin` or `.pt` files too, with a message that
/// says how to convert.
struct CheckpointIndex {
  std::filesystem::path directory;
  std::vector<std::filesystem::path> files;  // in name order
  std::map<std::string, TensorInfo> tensors;
};
[[nodiscard]] absl::StatusOr<CheckpointIndex> ReadCheckpointIndex(
    const std::filesystem::path& directory);
[[nodiscard]] absl::StatusOr<CheckpointIndex> ReadCheckpointIndex(
    const std::filesystem::path& directory, FileSource& source);

}  // namespace teq::model_info
