#pragma once

#include "absl/status/statusor.h"
#include "torch/types.h"
#include "worker/engine/verify/gguf_file.h"
#include "worker/engine/verify/packed_model.h"

namespace teq::verify {

/// Whether the tensor holds codes in blocks, not plain values.
[[nodiscard]] bool HoldsCodes(const GgufFile::Tensor& tensor);

/// The codes of a matrix, a scale for each block: Q4_0, Q4_1 (which has no zero points but
/// offsets; `zeros` is undefined), Q8_0, TQ1_0, TQ2_0. DATA_LOSS, VERIFY_FAILED: a scale that is
/// not finite, or that is no matrix.
[[nodiscard]] absl::StatusOr<UnpackedLayer> DecodeBlocks(const GgufFile::Tensor& tensor);

/// A copy of plain values: F32, F16 or BF16.
[[nodiscard]] torch::Tensor CopyFloats(const GgufFile::Tensor& tensor);

}  // namespace teq::verify
