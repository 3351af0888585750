#pragma once

#include <random>

#include "absl/status/statusor.h"
#include "torch/types.h"
#include "worker/engine/model/decoder.h"

namespace teq::transform {

/// Windows some of whose tokens are not the text's.
struct RedrawnWindows {
  torch::Tensor ids;    // int64 [count, length]
  torch::Tensor drawn;  // bool, the same shape
};

/// Draws a share of the tokens again, each from what the decoder predicts in its place after the
/// text as it is: one run of the model, where a generated window would take one for each token. A
/// window's first token stays. `ids`: int64 [count, length]. No gradient. Errors as
/// Decoder::ReadBlock.
[[nodiscard]] absl::StatusOr<RedrawnWindows> Redraw(const model::Decoder& decoder,
                                                    const torch::Tensor& ids, double share,
                                                    std::mt19937_64& generator);

}  // namespace teq::transform
