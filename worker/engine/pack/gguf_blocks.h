#pragma once

#include "absl/status/statusor.h"
#include "proto/spec/validate.h"
#include "torch/types.h"
#include "worker/engine/pack/gguf_container.h"
#include "worker/engine/quant/grid.h"

namespace teq::pack {

/// The type that holds a layer's codes: Q4_0 and Q4_1 for 4 bits, symmetric and not; Q8_0 for
/// symmetric codes of 8 bits; of 2 bits, TQ1_0 where all values are -1, 0 or 1 times the scale, and
/// TQ2_0 where some are -2. FORMAT_CANNOT_HOLD for other grids.
[[nodiscard]] absl::StatusOr<GgufType> TypeOf(const LayerGrid& grid,
                                              const quant::Quantized& quantized);

/// The blocks of a layer's rows: uint8 [out, bytes of a row]. A group is a multiple of a block; its
/// scale repeats in each of its blocks.
///
/// All values are exact but Q4_1's, whose offset -zero * scale is rounded to float16, and must stay
/// within it: NOT_REPRESENTABLE.
[[nodiscard]] absl::StatusOr<torch::Tensor> EncodeBlocks(GgufType type,
                                                         const quant::Quantized& quantized);

/// The bytes of a tensor as kF32, kF16 or kBF16: uint8 [bytes].
[[nodiscard]] torch::Tensor EncodeFloats(GgufType type, const torch::Tensor& values);

}  // namespace teq::pack
