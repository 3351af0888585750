#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/engine/model/block_runner.h"
#include "worker/engine/text/windows.h"

namespace teq::eval {

/// A model's loss on an evaluation text, as in the GPTQ paper (arXiv 2210.17323): non-overlapping
/// windows, the first token of each is context only.
struct Evaluation {
  std::vector<double> window_losses;  // mean negative log-likelihood of a window, nats per token
  std::int64_t tokens = 0;            // predicted
  double kl_divergence = 0;           // from the reference, nats per token; 0 without one
  double top1_agreement = 0;          // with the reference; 0 without one

  [[nodiscard]] double Perplexity() const;  // exp of the mean loss
};

/// Called after every batch with the windows done.
using EvaluationCallback = std::function<void(std::int64_t done, std::int64_t total)>;

/// Evaluates `decoder` in float32. With `reference`, also how far its next-token distribution is
/// from that model's. CANCELLED, CANCELLED.
[[nodiscard]] absl::StatusOr<Evaluation> Evaluate(const model::Decoder& decoder,
                                                  const model::Decoder* reference,
                                                  const text::Windows& windows,
                                                  const EvaluationCallback& on_batch,
                                                  const std::atomic<bool>& cancelled);

/// Standard error of exp(mean(losses)), by the delta method: perplexity times the standard error of
/// the mean over windows. 0 for fewer than two windows.
[[nodiscard]] double StandardError(const Evaluation& evaluation);

/// Standard error of the difference of two perplexities on the same windows, paired by window: with
/// losses a and b, of ppl_a * (a_i - mean a) - ppl_b * (b_i - mean b). 0 for fewer than two
/// windows.
[[nodiscard]] double PairedStandardError(const Evaluation& a, const Evaluation& b);

}  // namespace teq::eval
