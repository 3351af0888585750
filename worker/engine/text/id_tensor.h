#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/model_info/safetensors_header.h"
#include "worker/engine/text/data_file.h"

namespace teq::text {

/// The one tensor `input_ids` of a .safetensors file, I32 or I64: [windows, tokens], of which each
/// row is a window, cut to `length`; or [tokens], which are cut into windows. Read as asked; memory
/// does not grow with the file.
///
/// NOT_FOUND, TEXT_NOT_FOUND. INVALID_ARGUMENT: INVALID_TEXT, TEXT_TOO_SHORT.
class IdTensor {
 public:
  [[nodiscard]] static absl::StatusOr<IdTensor> Open(const std::filesystem::path& file,
                                                     std::int64_t length);

  /// How many windows there are, at least 1.
  [[nodiscard]] std::int64_t count() const { return count_; }

  /// Appends the ids of a window, all below `vocabulary_size`.
  [[nodiscard]] absl::Status Read(std::int64_t window, std::int64_t vocabulary_size,
                                  std::vector<std::int32_t>& ids) const;

 private:
  IdTensor(DataFile file, model_info::TensorInfo tensor, std::int64_t length);

  DataFile file_;
  model_info::TensorInfo tensor_;
  std::int64_t length_;
  std::int64_t count_;
  std::int64_t stride_;  // tokens from a window to the next
};

}  // namespace teq::text
