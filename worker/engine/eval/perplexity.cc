#include "worker/engine/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "client/model_info/run_sizes.h"
#include "proto/spec/error.h"
#include "worker/engine/cancellation.h"
#include "worker/engine/model/head_loss.h"
#include "worker/engine/model/windows_tensor.h"

namespace teq::eval {
namespace {

using model_info::kBatchTokens;
using model_info::kChunkTokens;
using model_info::kComparedLogits;
using torch::Tensor;

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

/// Published heads are the source's.
bool HaveOneHead(const model::Decoder& decoder, const model::Decoder& reference) {
  return decoder.head.is_alias_of(reference.head) ||
         (decoder.head.scalar_type() == reference.head.scalar_type() &&
          torch::equal(decoder.head, reference.head));
}

Comparison Compare(model::Decoder decoder, const Predictions& predictions, model::Decoder reference,
                   const Tensor& reference_states) {
  // Converted once, not for every slice of rows; one matrix where they have the same.
  const bool same = decoder.head.is_alias_of(reference.head);
  decoder = model::WithFloat32Head(std::move(decoder));
  reference.head = same ? decoder.head : reference.head.to(torch::kFloat32);
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

/// What the head reads of windows, [windows, length, embedding_size], block by block, for the
/// windows of each batch.
absl::StatusOr<std::vector<Tensor>> HeadInputs(const model::Decoder& decoder,
                                               const std::vector<Tensor>& batches,
                                               const std::atomic<bool>& cancelled) {
  const model::BlockRunner runner(decoder, batches.front().size(1));
  std::vector<Tensor> states;
  for (const Tensor& ids : batches) states.push_back(runner.Embed(ids));
  for (std::size_t number = 0; number < decoder.size(); ++number) {
    TEQ_RETURN_IF_ERROR(CheckCancelled(cancelled));
    TEQ_ASSIGN_OR_RETURN(const model::Block block, decoder.ReadBlock(number));
    for (Tensor& batch : states) batch = runner.Run(block, batch);
  }
  for (Tensor& batch : states) batch = runner.Finish(batch);
  return states;
}

/// What predicts: all but each window's last token.
Tensor Predicting(const Tensor& states) { return states.slice(1, 0, -1).flatten(0, 1); }

}  // namespace

double Evaluation::Perplexity() const { return std::exp(Mean(window_losses)); }

absl::StatusOr<Evaluation> Evaluate(const model::Decoder& decoder, const model::Decoder* reference,
                                    const text::Windows& windows,
                                    const EvaluationCallback& on_batch,
                                    const std::atomic<bool>& cancelled) {
  const torch::NoGradGuard no_gradient;
  std::optional<model::Decoder> of_one_head;
  if (reference != nullptr && HaveOneHead(decoder, *reference)) {
    of_one_head = *reference;
    of_one_head->head = decoder.head;
    reference = &*of_one_head;
  }
  Evaluation result;
  double kl_sum = 0;
  std::int64_t agreements = 0;
  const auto windows_of = [&](std::int64_t tokens) {
    return std::max<std::int64_t>(1, tokens / windows.length);
  };
  for (const Tensor& chunk : model::WindowTensor(windows).split(windows_of(kChunkTokens))) {
    const std::vector<Tensor> batches = chunk.split(windows_of(kBatchTokens));
    TEQ_ASSIGN_OR_RETURN(const std::vector<Tensor> states, HeadInputs(decoder, batches, cancelled));
    std::vector<Tensor> reference_states;
    if (reference != nullptr) {
      TEQ_ASSIGN_OR_RETURN(reference_states, HeadInputs(*reference, batches, cancelled));
    }
    for (std::size_t i = 0; i < batches.size(); ++i) {
      const Tensor& ids = batches[i];
      const Predictions predictions{Predicting(states[i]),
                                    ids.slice(1, 1).flatten().to(decoder.head.device())};
      Tensor losses;
      if (reference == nullptr) {
        losses = model::HeadTokenLosses(decoder, predictions.states, predictions.next);
      } else {
        const Comparison comparison =
            Compare(decoder, predictions, *reference, Predicting(reference_states[i]));
        losses = comparison.losses;
        kl_sum += comparison.divergence_sum;
        agreements += comparison.agreements;
      }
      const Tensor by_window = losses.view({ids.size(0), -1}).to(torch::kFloat64).mean(1).cpu();
      for (std::int64_t window = 0; window < by_window.size(0); ++window) {
        result.window_losses.push_back(by_window[window].item<double>());
      }
      result.tokens += predictions.next.numel();
      on_batch(static_cast<std::int64_t>(result.window_losses.size()), windows.count);
    }
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
