#include "worker/engine/teq/statistics.h"

#include "proto/spec/error.h"
#include "worker/engine/model/windows_tensor.h"

namespace teq::transform {
namespace {

using torch::Tensor;

constexpr int kEveryStep = -1;

/// Sums up what a block's layers read.
class Gatherer {
 public:
  Gatherer(const model::Block& block, int step) : step_(step) {
    for (const model::Linear& linear : block.linears) {
      const auto input = static_cast<std::size_t>(linear.layer.input);
      if (statistics_.size() <= input) statistics_.resize(input + 1);
      if (statistics_[input].gram.defined()) continue;
      const std::int64_t width = Gathers(linear.layer.input) ? linear.layer.in : 0;
      statistics_[input].gram = torch::zeros({width, width}, linear.weight.options());
      statistics_[input].mean_abs = torch::zeros({width}, linear.weight.options());
    }
  }

  void Add(int input, const Tensor& value) {
    if (!Gathers(input)) return;
    InputStatistics& statistics = statistics_[static_cast<std::size_t>(input)];
    const Tensor rows = value.reshape({-1, value.size(-1)});
    statistics.gram.addmm_(rows.t(), rows);
    statistics.mean_abs += rows.abs().sum(0);
    statistics.tokens += rows.size(0);
  }

  BlockStatistics Finish() && {
    for (InputStatistics& each : statistics_) {
      if (each.tokens > 0) each.mean_abs /= static_cast<double>(each.tokens);
    }
    return std::move(statistics_);
  }

 private:
  [[nodiscard]] bool Gathers(int input) const {
    return step_ == kEveryStep || model_info::StepOf(input) == step_;
  }

  int step_;
  BlockStatistics statistics_;
};

}  // namespace

BlockStatistics GatherStep(const model::BlockRunner& runner, const model::Block& block,
                           const model::WindowStates& states, int step) {
  const torch::NoGradGuard no_gradient;
  Gatherer gatherer(block, step);
  const auto observe = [&](int input, const Tensor& value) { gatherer.Add(input, value); };
  states.ForEach(
      [&](const Tensor& batch) { static_cast<void>(runner.Run(block, batch, observe)); });
  return std::move(gatherer).Finish();
}

absl::Status VisitBlockStatistics(const model::Decoder& decoder, const text::Windows& windows,
                                  std::int64_t batch_size, model::Scratch& scratch,
                                  const StatisticsVisitor& visit) {
  const torch::NoGradGuard no_gradient;
  const model::BlockRunner runner(decoder, windows.length);
  TEQ_ASSIGN_OR_RETURN(model::WindowStates states,
                       model::WindowStates::Embed(decoder, runner, model::WindowTensor(windows),
                                                  batch_size, scratch));
  for (std::size_t number = 0; number < decoder.size(); ++number) {
    TEQ_ASSIGN_OR_RETURN(const model::Block block, decoder.ReadBlock(number));
    Gatherer gatherer(block, kEveryStep);
    states.Advance([&](const Tensor& batch) {
      return runner.Run(block, batch,
                        [&](int input, const Tensor& value) { gatherer.Add(input, value); });
    });
    TEQ_RETURN_IF_ERROR(visit(block, std::move(gatherer).Finish()));
  }
  return absl::OkStatus();
}

double OutputError(const InputStatistics& input, const Tensor& error) {
  if (input.tokens == 0) return 0;
  const Tensor total = (torch::matmul(error, input.gram) * error).sum();
  return total.item<double>() /
         (static_cast<double>(input.tokens) * static_cast<double>(error.size(0)));
}

}  // namespace teq::transform
