#include "worker/engine/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "proto/spec/error.h"
#include "worker/engine/cancellation.h"
#include "worker/engine/model/head_loss.h"
#include "worker/engine/model/windows_tensor.h"

namespace teq::eval {
namespace {

using torch::Tensor;

// Tokens that run through the blocks at once.
constexpr std::int64_t kBatchTokens = 2048;
// Logits that are held at once where two models are compared.
constexpr std::int64_t kComparedLogits = 1 << 23;

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

/// What the windows' predictions say: states and next tokens, [tokens, embedding_size] and
/// [tokens].
struct Predictions {
  Tensor states;
  Tensor next;
};

/// How far two models' predictions of the same tokens are apart, and the first one's losses.
struct Comparison {
  Tensor losses;  // [tokens]
  double divergence_sum = 0;
  std::int64_t agreements = 0;
};

Comparison Compare(const model::Decoder& decoder, const Predictions& predictions,
                   const model::Decoder& reference, const Tensor& reference_states) {
  const std::int64_t rows =
      std::max<std::int64_t>(1, kComparedLogits / std::max<std::int64_t>(1, decoder.head.size(0)));
  Comparison result;
  std::vector<Tensor> losses;
  for (std::int64_t begin = 0; begin < predictions.next.size(0); begin += rows) {
    const std::int64_t size = std::min(rows, predictions.next.size(0) - begin);
    const Tensor logits = model::HeadLogits(decoder, predictions.states.narrow(0, begin, size));
    const Tensor log_probability = torch::log_softmax(logits, -1);
    const Tensor next = predictions.next.narrow(0, begin, size);
    losses.push_back(-log_probability.gather(-1, next.unsqueeze(-1)).squeeze(-1));
    const Tensor target = torch::log_softmax(
        model::HeadLogits(reference, reference_states.narrow(0, begin, size)), -1);
    result.divergence_sum +=
        (target.exp() * (target - log_probability)).sum(torch::kFloat64).item<double>();
    result.agreements += (target.argmax(-1) == logits.argmax(-1)).sum().item<std::int64_t>();
  }
  result.losses = torch::cat(losses);
  return result;
}

/// What the head reads of all but each window's last token.
Tensor PredictingStates(const model::Decoder& decoder, const Tensor& ids) {
  return model::HiddenStates(decoder, ids).slice(1, 0, -1).flatten(0, 1);
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
    const Predictions predictions{PredictingStates(decoder, ids),
                                  ids.slice(1, 1).flatten().to(decoder.head.device())};
    Tensor losses;
    if (reference == nullptr) {
      losses = model::HeadTokenLosses(decoder, predictions.states, predictions.next);
    } else {
      const Comparison comparison =
          Compare(decoder, predictions, *reference, PredictingStates(*reference, ids));
      losses = comparison.losses;
      kl_sum += comparison.divergence_sum;
      agreements += comparison.agreements;
    }
    const Tensor by_window = losses.view({ids.size(0), -1}).to(torch::kFloat64).mean(1).cpu();
    for (std::int64_t i = 0; i < by_window.size(0); ++i) {
      result.window_losses.push_back(by_window[i].item<double>());
    }
    result.tokens += predictions.next.numel();
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
