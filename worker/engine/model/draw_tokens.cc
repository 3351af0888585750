#include "worker/engine/model/draw_tokens.h"

#include <algorithm>
#include <vector>

#include "client/model_info/run_sizes.h"
#include "worker/engine/model/block_runner.h"

namespace teq::model {

using torch::Tensor;

Tensor DrawTokens(const Decoder& decoder, const Tensor& states, const Tensor& uniform) {
  const torch::NoGradGuard no_gradient;
  const std::int64_t vocabulary = decoder.head.size(0);
  const std::int64_t rows = std::max<std::int64_t>(1, model_info::kDrawnLogits / vocabulary);
  const std::vector<Tensor> parts = states.flatten(0, -2).split(rows);
  const std::vector<Tensor> places = uniform.to(states.device()).reshape({-1, 1}).split(rows);
  const Decoder head = WithFloat32Head(decoder);
  std::vector<Tensor> drawn;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const Tensor sums = HeadLogits(head, parts[i]).softmax(-1).cumsum(-1);
    // Sums of float32 end near 1, not at it.
    const Tensor place = places[i] * sums.narrow(1, vocabulary - 1, 1);
    drawn.push_back(torch::searchsorted(sums, place, /*out_int32=*/false, /*right=*/true));
  }
  return torch::cat(drawn).clamp_max(vocabulary - 1).view(uniform.sizes());
}

}  // namespace teq::model
