#pragma once

#include <cstdint>
#include <vector>

namespace teq::model::cpu {

/// Rows of one head, by position: `data` + position * `stride`, floats.
struct HeadRows {
  float* data = nullptr;
  std::int64_t stride = 0;
};

/// Causal attention of the query heads that share one key-value head, for one window.
struct AttentionProblem {
  std::int64_t length = 0;
  std::int64_t size = 0;    // of a head
  std::int64_t window = 0;  // positions that one sees, itself included; 0: all before it
  float scale = 1;          // of the scores
  // Queries and keys are turned by their position first: pairs of their first dimensions, by
  // [length, dimensions / 2] cosines and sines. 0: they are not.
  std::int64_t rotary_dimensions = 0;
  bool interleaved = false;  // neighbours form a pair; otherwise halves do
  const float* cosine = nullptr;
  const float* sine = nullptr;
};

/// One query head.
struct AttentionHead {
  HeadRows query;
  HeadRows output;                  // written forward; its gradient is read backward
  HeadRows query_gradient;          // backward
  float* log_sum = nullptr;         // [length], of exp(scores): written forward, read backward
  const float* key_bias = nullptr;  // [length], added to the scores of each key; or null
};

/// softmax(scale * q k^T + bias) v of every head, a block of queries at a time; what a block cannot
/// see is neither computed nor kept.
void Attend(const AttentionProblem& problem, const HeadRows& key, const HeadRows& value,
            const std::vector<AttentionHead>& heads);

/// Its gradients; the weights are computed once more from `log_sum`.
void AttendGradient(const AttentionProblem& problem, const HeadRows& key, const HeadRows& value,
                    const std::vector<AttentionHead>& heads, const HeadRows& key_gradient,
                    const HeadRows& value_gradient);

}  // namespace teq::model::cpu
