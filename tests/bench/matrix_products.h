#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "client/model_info/model_config.h"
#include "tests/bench/stopwatch.h"
#include "torch/types.h"

namespace teq::bench {

/// The matrix products that something over `tokens` tokens cannot do without, as LibTorch
/// multiplies them. Attention's are not among them. Each shape is measured once and counted as
/// often as it occurs.
class MatrixProducts {
 public:
  /// A training step's: every linear layer of the blocks forward, and backward to its input and to
  /// its weight; the head forward and backward to its input, since it is frozen.
  static MatrixProducts OfStep(const model_info::ModelConfig& config, std::int64_t tokens,
                               torch::ScalarType type);
  /// An evaluation's: all forward.
  static MatrixProducts OfEvaluation(const model_info::ModelConfig& config, std::int64_t tokens,
                                     torch::ScalarType type);

  [[nodiscard]] Duration Measure() const;

 private:
  struct Product {
    std::function<torch::Tensor()> multiply;
    int times;
  };

  void AddForward(std::int64_t out, std::int64_t in, int times);
  void AddToInput(std::int64_t out, std::int64_t in, int times);
  void AddToWeight(std::int64_t out, std::int64_t in, int times);
  [[nodiscard]] torch::Tensor Random(std::int64_t rows, std::int64_t columns) const;

  MatrixProducts(std::int64_t tokens, torch::ScalarType type) : tokens_(tokens), type_(type) {}

  std::int64_t tokens_;
  torch::ScalarType type_;
  std::vector<Product> products_;
};

}  // namespace teq::bench
