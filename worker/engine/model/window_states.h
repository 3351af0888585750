#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "torch/types.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/model/scratch.h"

namespace teq::model {

/// A hidden state for every token of all windows, as they run through a decoder block by block. On
/// the host, where `scratch` has room; batches are moved to the decoder's device.
class WindowStates {
 public:
  /// The states before the first block. `ids`: int64 [count, length]. Errors as Scratch::Zeros.
  [[nodiscard]] static absl::StatusOr<WindowStates> Embed(const Decoder& decoder,
                                                          const BlockRunner& runner,
                                                          const torch::Tensor& ids,
                                                          std::int64_t batch_size,
                                                          Scratch& scratch);

  /// A copy of its own.
  [[nodiscard]] absl::StatusOr<WindowStates> Copy(Scratch& scratch) const;

  /// Takes the values of others of the same windows.
  void Assign(const WindowStates& others) { states_.copy_(others.states_); }

  /// Shows all batches, [batch, length, hidden], in their order.
  void ForEach(const std::function<void(const torch::Tensor& batch)>& visit) const;

  /// Puts what `run` makes of a batch in its place.
  void Advance(const std::function<torch::Tensor(const torch::Tensor& batch)>& run);

  /// Some windows' states, on the decoder's device. `indices`: int64, on the CPU.
  [[nodiscard]] torch::Tensor Select(const torch::Tensor& indices) const;

 private:
  WindowStates(torch::Tensor states, torch::Device device, std::int64_t batch_size)
      : states_(std::move(states)), device_(device), batch_size_(batch_size) {}

  torch::Tensor states_;  // float32 [count, length, hidden]
  torch::Device device_;
  std::int64_t batch_size_;
};

}  // namespace teq::model
