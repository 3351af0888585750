#include "worker/engine/model/window_states.h"

#include "proto/spec/error.h"

namespace teq::model {

using torch::Tensor;

absl::StatusOr<WindowStates> WindowStates::Embed(const Decoder& decoder, const BlockRunner& runner,
                                                 const Tensor& ids, std::int64_t batch_size,
                                                 Scratch& scratch) {
  const torch::NoGradGuard no_gradient;
  TEQ_ASSIGN_OR_RETURN(
      Tensor states,
      scratch.Zeros({ids.size(0), ids.size(1), decoder.config.hidden_size}, torch::kFloat32));
  std::int64_t begin = 0;
  for (const Tensor& batch : ids.split(batch_size)) {
    states.narrow(0, begin, batch.size(0)).copy_(runner.Embed(batch));
    begin += batch.size(0);
  }
  return WindowStates(std::move(states), decoder.embedding.device(), batch_size);
}

absl::StatusOr<WindowStates> WindowStates::Copy(Scratch& scratch) const {
  TEQ_ASSIGN_OR_RETURN(Tensor states, scratch.Keep(states_));
  return WindowStates(std::move(states), device_, batch_size_);
}

void WindowStates::ForEach(const std::function<void(const Tensor& batch)>& visit) const {
  for (const Tensor& batch : states_.split(batch_size_)) visit(batch.to(device_));
}

void WindowStates::Advance(const std::function<Tensor(const Tensor& batch)>& run) {
  for (Tensor& batch : states_.split(batch_size_)) batch.copy_(run(batch.to(device_)));
}

Tensor WindowStates::Select(const Tensor& indices) const {
  return states_.index_select(0, indices).to(device_);
}

}  // namespace teq::model
