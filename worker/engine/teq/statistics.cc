#include "worker/engine/teq/statistics.h"

#include "proto/spec/error.h"
#include "worker/engine/model/windows_tensor.h"

namespace teq::transform {

using model_info::Role;
using torch::Tensor;

namespace {

void Add(InputStatistics& statistics, const Tensor& input) {
  const Tensor rows = input.reshape({-1, input.size(-1)});
  if (!statistics.gram.defined()) {
    statistics.gram = torch::zeros({rows.size(1), rows.size(1)}, rows.options());
    statistics.mean_abs = torch::zeros({rows.size(1)}, rows.options());
  }
  statistics.gram.addmm_(rows.t(), rows);
  statistics.mean_abs += rows.abs().sum(0);
  statistics.tokens += rows.size(0);
}

void Finish(BlockStatistics& statistics) {
  for (std::size_t role = 0; role < statistics.size(); ++role) {
    const std::size_t shared = SharedInput(static_cast<Role>(role));
    if (shared == role) {
      statistics[role].mean_abs /= static_cast<double>(statistics[role].tokens);
    } else {
      statistics[role] = statistics[shared];
    }
  }
}

}  // namespace

std::size_t SharedInput(Role role) {
  switch (role) {
    case Role::kKey:
    case Role::kValue:
      return static_cast<std::size_t>(Role::kQuery);
    case Role::kUp:
      return static_cast<std::size_t>(Role::kGate);
    default:
      return static_cast<std::size_t>(role);
  }
}

InputStatistics GatherInput(const model::BlockRunner& runner, const model::Block& block,
                            const std::vector<Tensor>& states, Role role) {
  const torch::NoGradGuard no_gradient;
  InputStatistics statistics;
  for (const Tensor& batch : states) {
    static_cast<void>(runner.Run(block, batch, [&](Role seen, const Tensor& input) {
      if (seen == role) Add(statistics, input);
    }));
  }
  statistics.mean_abs /= static_cast<double>(statistics.tokens);
  return statistics;
}

absl::Status VisitBlockStatistics(
    const model::Decoder& decoder, const text::Windows& windows, std::int64_t batch_size,
    const std::function<absl::Status(std::size_t block, const BlockStatistics&)>& visit) {
  const torch::NoGradGuard no_gradient;
  model::BlockRunner runner(decoder, windows.length);
  std::vector<Tensor> states;
  for (const Tensor& ids : model::WindowTensor(windows).split(batch_size)) {
    states.push_back(runner.Embed(ids));
  }
  for (std::size_t block = 0; block < decoder.blocks.size(); ++block) {
    BlockStatistics statistics;
    for (Tensor& batch : states) {
      batch = runner.Run(decoder.blocks[block], batch, [&](Role role, const Tensor& input) {
        const std::size_t index = static_cast<std::size_t>(role);
        if (SharedInput(role) == index) Add(statistics[index], input);
      });
    }
    Finish(statistics);
    TEQ_RETURN_IF_ERROR(visit(block, statistics));
  }
  return absl::OkStatus();
}

double OutputError(const InputStatistics& input, const Tensor& error) {
  const Tensor total = (torch::matmul(error, input.gram) * error).sum();
  return total.item<double>() /
         (static_cast<double>(input.tokens) * static_cast<double>(error.size(0)));
}

}  // namespace teq::transform
