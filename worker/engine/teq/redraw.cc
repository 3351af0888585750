#include "worker/engine/teq/redraw.h"

#include <algorithm>

#include "proto/spec/error.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/model/draw_tokens.h"

namespace teq::transform {
namespace {

using torch::Tensor;

/// Of [0, 1), by the generator alone and not by a library's distribution.
Tensor Uniform(torch::IntArrayRef shape, std::mt19937_64& generator) {
  Tensor values = torch::empty(shape, torch::kFloat32);
  std::generate_n(values.data_ptr<float>(), values.numel(), [&] {
    return static_cast<float>(generator() >> 40) / static_cast<float>(1 << 24);
  });
  return values;
}

}  // namespace

absl::StatusOr<RedrawnWindows> Redraw(const model::Decoder& decoder, const Tensor& ids,
                                      double share, std::mt19937_64& generator) {
  const torch::NoGradGuard no_gradient;
  Tensor drawn = Uniform(ids.sizes(), generator) < share;
  drawn.select(1, 0).fill_(false);
  TEQ_ASSIGN_OR_RETURN(const Tensor states, model::HiddenStates(decoder, ids));
  // A token is predicted by the state before it.
  const Tensor predicting = states.slice(1, 0, -1).index({drawn.slice(1, 1).to(states.device())});
  const Tensor tokens =
      model::DrawTokens(decoder, predicting, Uniform({predicting.size(0)}, generator));
  return RedrawnWindows{ids.masked_scatter(drawn, tokens.to(ids.device())), drawn};
}

}  // namespace teq::transform
