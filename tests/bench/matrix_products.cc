#include "tests/bench/matrix_products.h"

#include <map>
#include <utility>

#include "client/model_info/layout.h"
#include "torch/utils.h"

namespace teq::bench {
namespace {

using torch::Tensor;

/// How many layers have a shape [out, in].
std::map<std::pair<std::int64_t, std::int64_t>, int> LinearShapes(
    const model_info::ModelConfig& config) {
  std::map<std::pair<std::int64_t, std::int64_t>, int> shapes;
  for (const model_info::LinearLayer& layer : model_info::LinearLayers(config)) {
    ++shapes[{layer.out, layer.in}];
  }
  return shapes;
}

}  // namespace

MatrixProducts MatrixProducts::OfStep(const model_info::ModelConfig& config, std::int64_t tokens,
                                      torch::ScalarType type) {
  MatrixProducts result(tokens, type);
  for (const auto& [shape, times] : LinearShapes(config)) {
    result.AddForward(shape.first, shape.second, times);
    result.AddToInput(shape.first, shape.second, times);
    result.AddToWeight(shape.first, shape.second, times);
  }
  result.AddForward(config.vocabulary_size, config.embedding_size, 1);
  result.AddToInput(config.vocabulary_size, config.embedding_size, 1);
  return result;
}

MatrixProducts MatrixProducts::OfEvaluation(const model_info::ModelConfig& config,
                                            std::int64_t tokens, torch::ScalarType type) {
  MatrixProducts result(tokens, type);
  for (const auto& [shape, times] : LinearShapes(config)) {
    result.AddForward(shape.first, shape.second, times);
  }
  result.AddForward(config.vocabulary_size, config.embedding_size, 1);
  return result;
}

Duration MatrixProducts::Measure() const {
  const torch::NoGradGuard no_gradient;
  Duration sum;
  for (const Product& product : products_) {
    const Stopwatch stopwatch;
    const Tensor result = product.multiply();
    const Duration once = stopwatch.Elapsed();
    sum.wall += product.times * once.wall;
    sum.cpu += product.times * once.cpu;
  }
  return sum;
}

Tensor MatrixProducts::Random(std::int64_t rows, std::int64_t columns) const {
  return torch::randn({rows, columns}).to(type_);
}

void MatrixProducts::AddForward(std::int64_t out, std::int64_t in, int times) {
  const Tensor input = Random(tokens_, in);
  const Tensor weight = Random(out, in);
  products_.push_back({[=] { return torch::linear(input, weight); }, times});
}

void MatrixProducts::AddToInput(std::int64_t out, std::int64_t in, int times) {
  const Tensor gradient = Random(tokens_, out);
  const Tensor weight = Random(out, in);
  products_.push_back({[=] { return torch::mm(gradient, weight); }, times});
}

void MatrixProducts::AddToWeight(std::int64_t out, std::int64_t in, int times) {
  const Tensor gradient = Random(tokens_, out);
  const Tensor input = Random(tokens_, in);
  products_.push_back({[=] { return torch::mm(gradient.t(), input); }, times});
}

}  // namespace teq::bench
