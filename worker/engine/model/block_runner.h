#pragma once

#include <functional>
#include <map>

#include "absl/status/statusor.h"
#include "torch/types.h"
#include "worker/engine/model/decoder.h"
#include "worker/engine/model/positions.h"

namespace teq::model {

/// Sees what the linear layers of a block read, by model_info's input number, as it runs:
/// [batch, sequence, in]; for an expert its tokens alone, [tokens, in].
using InputObserver = std::function<void(int input, const torch::Tensor& value)>;

/// Runs a decoder block by block over windows of one length. Borrows the decoder.
class BlockRunner {
 public:
  BlockRunner(const Decoder& decoder, std::int64_t length);

  /// `ids`: int64 [batch, length]. The states before the first block, [batch, length, hidden].
  [[nodiscard]] torch::Tensor Embed(const torch::Tensor& ids) const;
  /// The states after a block of this decoder. Differentiable.
  [[nodiscard]] torch::Tensor Run(const Block& block, const torch::Tensor& states,
                                  const InputObserver& observer = nullptr) const;
  /// What the head reads: the final norm, and the projection to the vocabulary's size.
  [[nodiscard]] torch::Tensor Finish(const torch::Tensor& states) const;

 private:
  [[nodiscard]] torch::Tensor Attend(const Block& block, const torch::Tensor& input,
                                     const InputObserver& observer) const;

  const Decoder& decoder_;
  RotaryTable rotary_;
  RotaryTable local_rotary_;                    // of blocks with a window, where they have one
  std::map<std::int64_t, torch::Tensor> mask_;  // of attention's scores, by window
  torch::Tensor alibi_;                         // added to them; or undefined
};

/// What the head reads, [batch, sequence, embedding_size]. `ids`: int64 [batch, sequence], each
/// below the vocabulary. Differentiable. Errors as Decoder::ReadBlock, as Logits'.
[[nodiscard]] absl::StatusOr<torch::Tensor> HiddenStates(const Decoder& decoder,
                                                         const torch::Tensor& ids);

/// The decoder with its head converted to float32 once, for those who ask for logits in parts.
[[nodiscard]] Decoder WithFloat32Head(Decoder decoder);

/// The logits of the next token from what the head reads, [..., vocabulary].
[[nodiscard]] torch::Tensor HeadLogits(const Decoder& decoder, const torch::Tensor& states);

/// The logits of the next token, [batch, sequence, vocabulary].
[[nodiscard]] absl::StatusOr<torch::Tensor> Logits(const Decoder& decoder,
                                                   const torch::Tensor& ids);

}  // namespace teq::model
