#include "worker/engine/eval/perplexity.h"

#include <cmath>
#include <numeric>

#include "proto/spec/error.h"
#include "worker/engine/cancellation.h"
#include "worker/engine/model/windows_tensor.h"

namespace teq::eval {
namespace {

using torch::Tensor;

// Tokens evaluated at once; bounds the memory of the logits.
constexpr std::int64_t kBatchTokens = 2048;

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double StandardErrorOfMean(const std::vector<double>& values) {
  if (values.size() < 2) return 0;
  const double mean = Mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  const auto count = static_cast<double>(values.size());
  return std::sqrt(sum / (count - 1) / count);
}

}  // namespace

double Evaluation::Perplexity() const { return std::exp(Mean(window_losses)); }

absl::StatusOr<Evaluation> Evaluate(const model::Decoder& decoder, const model::Decoder* reference,
                                    const text::Windows& windows,
                                    const EvaluationCallback& on_batch,
                                    const std::atomic<bool>& cancelled) {
  const torch::NoGradGuard no_gradient;
  Evaluation result;
  double kl_sum = 0;
  std::int64_t agreements = 0;
  const std::int64_t batch_size = std::max<std::int64_t>(1, kBatchTokens / windows.length);
  for (const Tensor& ids : model::WindowTensor(windows).split(batch_size)) {
    TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled));
    const Tensor logits = model::Logits(decoder, ids).slice(1, 0, -1);
    const Tensor log_probability = torch::log_softmax(logits, -1);
    const Tensor next = ids.slice(1, 1).to(logits.device());
    const Tensor losses =
        -log_probability.gather(-1, next.unsqueeze(-1)).squeeze(-1).to(torch::kFloat64).mean(1);
    for (std::int64_t i = 0; i < losses.size(0); ++i) {
      result.window_losses.push_back(losses[i].item<double>());
    }
    result.tokens += next.numel();
    if (reference != nullptr) {
      const Tensor target = torch::log_softmax(model::Logits(*reference, ids).slice(1, 0, -1), -1);
      kl_sum += (target.exp() * (target - log_probability)).sum(torch::kFloat64).item<double>();
      agreements += (target.argmax(-1) == logits.argmax(-1)).sum().item<std::int64_t>();
    }
    on_batch(static_cast<std::int64_t>(result.window_losses.size()), windows.count);
  }
  if (reference != nullptr) {
    result.kl_divergence = kl_sum / static_cast<double>(result.tokens);
    result.top1_agreement = static_cast<double>(agreements) / static_cast<double>(result.tokens);
  }
  return result;
}

double StandardError(const Evaluation& evaluation) {
  return evaluation.Perplexity() * StandardErrorOfMean(evaluation.window_losses);
}

double PairedStandardError(const Evaluation& a, const Evaluation& b) {
  const double ppl_a = a.Perplexity();
  const double ppl_b = b.Perplexity();
  std::vector<double> differences(a.window_losses.size());
  for (std::size_t i = 0; i < differences.size(); ++i) {
    differences[i] = ppl_a * a.window_losses[i] - ppl_b * b.window_losses[i];
  }
  return StandardErrorOfMean(differences);
}

}  // namespace teq::eval
