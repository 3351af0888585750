#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model_info/architecture.h"
#include "client/model_info/model_config.h"
#include "torch/types.h"

namespace teq::model {

/// A linear layer: y = x W^T + b.
struct Linear {
  std::string name;
  torch::Tensor weight;  // [out, in]
  torch::Tensor bias;    // [out], or undefined
};

/// An RMS norm.
struct Norm {
  std::string name;
  torch::Tensor weight;  // [width]
};

/// One block of a decoder. Copies share their tensors, so a changed block is a copy with some
/// handles replaced.
struct Block {
  Norm attention_norm;
  Norm mlp_norm;
  std::array<Linear, model_info::kRoles> linears;  // by Role

  [[nodiscard]] const Linear& at(model_info::Role role) const {
    return linears[static_cast<std::size_t>(role)];
  }
  [[nodiscard]] Linear& at(model_info::Role role) {
    return linears[static_cast<std::size_t>(role)];
  }
};

/// A decoder of any family in the architecture table. All tensors are float32 on one device.
struct Decoder {
  model_info::ModelConfig config;
  torch::Tensor embedding;  // [vocabulary, hidden]
  std::vector<Block> blocks;
  Norm final_norm;
  torch::Tensor head;  // [vocabulary, hidden]
};

/// Gives a tensor of a checkpoint by name, in its stored type, on the CPU.
using TensorSource = std::function<absl::StatusOr<torch::Tensor>(const std::string& name)>;

/// Builds the decoder from tensors whose names and shapes were checked (CheckTensors).
[[nodiscard]] absl::StatusOr<Decoder> LoadDecoder(const model_info::Architecture& architecture,
                                                  const model_info::ModelConfig& config,
                                                  const model_info::VocabularyTensors& vocabulary,
                                                  const TensorSource& source,
                                                  const torch::Device& device);

/// Sees the input of every linear layer, [batch, sequence, in], as it runs.
using LinearObserver = std::function<void(model_info::Role role, const torch::Tensor& input)>;

/// Runs a decoder block by block over windows of one length. Borrows the decoder.
class BlockRunner {
 public:
  BlockRunner(const Decoder& decoder, std::int64_t length);

  /// `ids`: int64 [batch, length]. The states before the first block, [batch, length, hidden].
  [[nodiscard]] torch::Tensor Embed(const torch::Tensor& ids) const;
  /// The states after a block of this decoder's shape. Differentiable.
  [[nodiscard]] torch::Tensor Run(const Block& block, const torch::Tensor& states,
                                  const LinearObserver& observer = nullptr) const;
  /// The final norm.
  [[nodiscard]] torch::Tensor Finish(const torch::Tensor& states) const;

 private:
  const Decoder& decoder_;
  torch::Tensor cosine_;  // of every position's rotary angles, [length, head_size / 2]
  torch::Tensor sine_;
  torch::Tensor mask_;  // 0 where position i sees position j, minus infinity elsewhere
};

/// The hidden states after the last block and the final norm, [batch, sequence, hidden].
/// `ids`: int64 [batch, sequence], each below the vocabulary. Differentiable.
[[nodiscard]] torch::Tensor HiddenStates(const Decoder& decoder, const torch::Tensor& ids);

/// The logits of the next token, [batch, sequence, vocabulary].
[[nodiscard]] torch::Tensor Logits(const Decoder& decoder, const torch::Tensor& ids);

}  // namespace teq::model
