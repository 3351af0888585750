#include "tests/bench/matrix_products.h"

#include <functional>
#include <map>
#include <utility>
#include <vector>

#include "client/model_info/layout.h"
#include "torch/types.h"

namespace teq::bench {
namespace {

using torch::Tensor;

// Of every product; the first is thrown away.
constexpr int kRepetitions = 8;

/// A shape [out, in], and how many layers have it.
using Shapes = std::map<std::pair<std::int64_t, std::int64_t>, int>;

Shapes LinearShapes(const model_info::ModelConfig& config) {
  Shapes shapes;
  for (const model_info::LinearLayer& layer : model_info::LinearLayers(config)) {
    ++shapes[{layer.out, layer.in}];
  }
  return shapes;
}

Duration Measure(const std::function<Tensor()>& product) {
  (void)product();
  std::vector<Duration> durations;
  for (int i = 0; i < kRepetitions; ++i) {
    const Stopwatch stopwatch;
    (void)product();
    durations.push_back(stopwatch.Elapsed());
  }
  return Median(durations);
}

/// The products of one shape.
class Products {
 public:
  Products(std::int64_t out, std::int64_t in, std::int64_t tokens, torch::ScalarType type)
      : input_(torch::randn({tokens, in}).to(type)),
        weight_(torch::randn({out, in}).to(type)),
        gradient_(torch::randn({tokens, out}).to(type)) {}

  [[nodiscard]] Duration Forward() const {
    return Measure([this] { return torch::linear(input_, weight_); });
  }
  [[nodiscard]] Duration ToInput() const {
    return Measure([this] { return torch::mm(gradient_, weight_); });
  }
  [[nodiscard]] Duration ToWeight() const {
    return Measure([this] { return torch::mm(gradient_.t(), input_); });
  }

 private:
  Tensor input_;
  Tensor weight_;
  Tensor gradient_;
};

void Add(const Duration& duration, int times, Duration& sum) {
  sum.wall += times * duration.wall;
  sum.cpu += times * duration.cpu;
}

}  // namespace

Duration StepProducts(const model_info::ModelConfig& config, std::int64_t tokens,
                      torch::ScalarType type) {
  const torch::NoGradGuard no_gradient;
  Duration sum;
  for (const auto& [shape, count] : LinearShapes(config)) {
    const Products products(shape.first, shape.second, tokens, type);
    Add(products.Forward(), count, sum);
    Add(products.ToInput(), count, sum);
    Add(products.ToWeight(), count, sum);
  }
  const Products head(config.vocabulary_size, config.embedding_size, tokens, type);
  Add(head.Forward(), 1, sum);
  Add(head.ToInput(), 1, sum);
  return sum;
}

Duration ForwardProducts(const model_info::ModelConfig& config, std::int64_t tokens,
                         torch::ScalarType type) {
  const torch::NoGradGuard no_gradient;
  Duration sum;
  for (const auto& [shape, count] : LinearShapes(config)) {
    Add(Products(shape.first, shape.second, tokens, type).Forward(), count, sum);
  }
  Add(Products(config.vocabulary_size, config.embedding_size, tokens, type).Forward(), 1, sum);
  return sum;
}

}  // namespace teq::bench
