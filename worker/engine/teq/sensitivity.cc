#include "worker/engine/teq/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "client/model_info/run_sizes.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/recipe.h"
#include "worker/engine/cancellation.h"
#include "worker/engine/model/windows_tensor.h"
#include "worker/engine/quant/grid.h"

namespace teq::transform {
namespace {

using torch::Tensor;

constexpr std::int64_t kMaxWindows = 8;
constexpr std::int64_t kMaxTokens = 2048;
// Tokens whose distributions are compared at once, and their logits, whose copies take three times
// as much as in an evaluation.
constexpr std::int64_t kMaxRows = 256;
constexpr std::int64_t kLogits = model_info::kComparedLogits / 3;

Tensor FirstWindows(const text::Windows& windows) {
  const std::int64_t fitting = std::max<std::int64_t>(1, kMaxTokens / windows.length);
  return model::WindowTensor(windows).slice(0, 0, std::min(kMaxWindows, fitting));
}

/// The mean divergence of the tokens' distributions from those of a reference, both by what the
/// head reads, [batch, sequence, embedding_size]. Normalized in float64: the divergence is of
/// second order in the logits' change, and at 8 bits less than float32's error in a logarithm.
double Divergence(const model::Decoder& head, const Tensor& reference, const Tensor& states) {
  const std::int64_t size = std::clamp<std::int64_t>(kLogits / head.head.size(0), 1, kMaxRows);
  const std::vector<Tensor> expected = reference.flatten(0, 1).split(size);
  const std::vector<Tensor> actual = states.flatten(0, 1).split(size);
  const auto log_probability = [&](const Tensor& rows) {
    return torch::log_softmax(model::HeadLogits(head, rows).to(torch::kFloat64), -1);
  };
  double sum = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const Tensor target = log_probability(expected[i]);
    const Tensor found = log_probability(actual[i]);
    sum += torch::kl_div(found, target, at::Reduction::Sum, /*log_target=*/true).item<double>();
  }
  const double mean = sum / static_cast<double>(states.size(0) * states.size(1));
  return mean < 0 ? 0 : mean;
}

/// What the head of a decoder reads whose block `number` is `block`, from the states before it.
absl::StatusOr<Tensor> StatesFrom(const model::BlockRunner& runner, const model::Decoder& decoder,
                                  std::size_t number, const model::Block& block, Tensor states) {
  states = runner.Run(block, states);
  for (std::size_t later = number + 1; later < decoder.size(); ++later) {
    TEQ_ASSIGN_OR_RETURN(const model::Block next, decoder.ReadBlock(later));
    states = runner.Run(next, states);
  }
  return runner.Finish(states);
}

/// Names the layer that is to blame, or the first of all that are rounded.
absl::Status NotFinite(const model::Block& rounded, const LayerSet& layers, int bits) {
  const auto culprit = std::ranges::find_if(layers, [&](std::size_t layer) {
    return !torch::isfinite(rounded.linears[layer].weight).all().item<bool>();
  });
  const bool found = culprit != layers.end();
  const std::string& name = rounded.linears[found ? *culprit : layers.front()].layer.name;
  const std::string others =
      found || layers.size() == 1
          ? ""
          : fmt::format(" and {} others that get the same bits", layers.size() - 1);
  return Error(absl::StatusCode::kInvalidArgument, "MODEL_NOT_FINITE",
               fmt::format("layer {}{}: with it at {} bits the model's outputs on the calibration "
                           "text are not finite; leave the layer float by overrides: "
                           "[{{match: \"{}\", skip: true}}]",
                           name, others, bits, name));
}

std::int64_t Count(const std::vector<std::vector<LayerSet>>& open) {
  std::int64_t count = 0;
  for (const std::vector<LayerSet>& block : open) count += std::ssize(block);
  return count;
}

model::Block Rounded(model::Block block, const LayerSet& layers, const BlockGrids& grids,
                     int bits) {
  for (const std::size_t layer : layers) {
    LayerGrid grid = grids[layer];
    grid.bits = bits;
    Tensor& weight = block.linears[layer].weight;
    weight = quant::Dequantize(quant::QuantizeToNearest(weight, grid));
  }
  return block;
}

}  // namespace

absl::StatusOr<std::vector<BlockSensitivities>> MeasureSensitivities(
    const model::Decoder& decoder, const std::vector<BlockGrids>& grids,
    const std::vector<std::vector<LayerSet>>& open, const text::Windows& windows,
    const SetCallback& on_set, const std::atomic<bool>& cancelled) {
  const torch::NoGradGuard no_gradient;
  const std::int64_t total = Count(open);
  std::int64_t done = 0;
  const model::BlockRunner runner(decoder, windows.length);
  const Tensor ids = FirstWindows(windows);
  const model::Decoder head = model::WithFloat32Head(decoder);
  TEQ_ASSIGN_OR_RETURN(const Tensor reference, model::HiddenStates(decoder, ids));
  Tensor states = runner.Embed(ids);
  std::vector<BlockSensitivities> sensitivities(decoder.size());
  for (std::size_t number = 0; number < decoder.size(); ++number) {
    TEQ_ASSIGN_OR_RETURN(const model::Block block, decoder.ReadBlock(number));
    for (const LayerSet& layers : open[number]) {
      std::vector<quant::Candidate>& candidates = sensitivities[number].emplace_back();
      for (const int bits : kCodeWidths) {
        TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled));
        const model::Block rounded = Rounded(block, layers, grids[number], bits);
        TEQ_ASSIGN_OR_RETURN(const Tensor found,
                             StatesFrom(runner, decoder, number, rounded, states));
        const double divergence = Divergence(head, reference, found);
        if (!std::isfinite(divergence)) return NotFinite(rounded, layers, bits);
        candidates.push_back({bits, divergence});
      }
      on_set(++done, total);
    }
    states = runner.Run(block, states);
  }
  return sensitivities;
}

}  // namespace teq::transform
