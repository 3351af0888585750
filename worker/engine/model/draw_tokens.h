#pragma once

#include "torch/types.h"
#include "worker/engine/model/decoder.h"

namespace teq::model {

/// Draws a token for every row from softmax(logits), no gradient. `states`: what the head reads,
/// [..., embedding_size]; `uniform`: float32 [...] in [0, 1), where in the distribution's
/// cumulative sum the token lies. Returns int64 [...], on the states' device.
[[nodiscard]] torch::Tensor DrawTokens(const Decoder& decoder, const torch::Tensor& states,
                                       const torch::Tensor& uniform);

}  // namespace teq::model
