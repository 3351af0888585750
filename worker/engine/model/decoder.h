#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model_info/layout.h"
#include "client/model_info/model_config.h"
#include "torch/types.h"

namespace teq::model {

/// A linear layer: y = x W^T + b.
struct Linear {
  model_info::LinearLayer layer;
  torch::Tensor weight;                          // [out, in]
  torch::Tensor bias;                            // [out], or undefined
  torch::ScalarType products = torch::kFloat32;  // see LinearProduct
};

/// A norm; see ModelConfig::norm. Undefined where the model has none.
struct Norm {
  std::string name;
  torch::Tensor weight;  // [width]; of heads with norms of their own, [heads, head_size]
  torch::Tensor bias;    // [width], or undefined
};

/// One block of a decoder. Copies share their tensors, so a changed block is a copy with some
/// handles replaced.
struct Block {
  std::int64_t number = 0;
  std::array<Norm, model_info::kNormPlaces> norms;  // by NormPlace
  std::vector<Linear> linears;                      // by LinearLayer::index

  [[nodiscard]] const Norm& at(model_info::NormPlace place) const {
    return norms[static_cast<std::size_t>(place)];
  }
  [[nodiscard]] Norm& at(model_info::NormPlace place) {
    return norms[static_cast<std::size_t>(place)];
  }
  /// Null where the block has no such layer.
  [[nodiscard]] const Linear* Find(model_info::Role role, int expert = -1) const;
};

/// Gives a block by its number, float32 on the decoder's device.
using BlockReader = std::function<absl::StatusOr<Block>(std::size_t number)>;

/// A decoder of any family, on one device: the vocabulary's matrices in their stored type, other
/// tensors float32. Its blocks are held, or read each time that they are run, so that the memory
/// of a pass over the model is one block's.
struct Decoder {
  model_info::ModelConfig config;
  torch::Tensor embedding;  // [vocabulary, embedding_size]
  torch::Tensor positions;  // [offset + positions, hidden], or undefined
  Norm embedding_norm;
  torch::Tensor project_in;   // [hidden, embedding_size], or undefined
  std::vector<Block> blocks;  // all or none of them
  BlockReader read_block;     // where none are held
  Norm final_norm;
  torch::Tensor project_out;  // [embedding_size, hidden], or undefined
  torch::Tensor head;         // [vocabulary, embedding_size]
  torch::Tensor head_bias;    // [vocabulary], or undefined
  // Of the head's products in HeadCrossEntropy; see LinearProduct.
  torch::ScalarType head_products = torch::kFloat32;

  /// The held block, or one that is read now. Errors as the reader's.
  [[nodiscard]] absl::StatusOr<Block> ReadBlock(std::size_t number) const;
  /// How many blocks there are.
  [[nodiscard]] std::size_t size() const {
    return blocks.empty() ? static_cast<std::size_t>(config.layers) : blocks.size();
  }
};

/// Gives a tensor of a checkpoint by name, in its stored type, on the CPU.
using TensorSource = std::function<absl::StatusOr<torch::Tensor>(const std::string& name)>;

/// A decoder over tensors whose names and shapes were checked (CheckTensors). What is outside of
/// its blocks is read now, a block whenever it is asked for; the decoder keeps the source.
[[nodiscard]] absl::StatusOr<Decoder> OpenDecoder(const model_info::ModelConfig& config,
                                                  const model_info::VocabularyTensors& vocabulary,
                                                  const TensorSource& source,
                                                  const torch::Device& device);

/// Reads all blocks and holds them.
[[nodiscard]] absl::Status HoldBlocks(Decoder& decoder);

/// The decoder of a checkpoint directory, with its blocks. Errors as ReadModelConfig,
/// Checkpoint::Open, CheckTensors.
[[nodiscard]] absl::StatusOr<Decoder> ReadDecoder(const std::filesystem::path& directory,
                                                  const torch::Device& device);

}  // namespace teq::model
