#pragma once

#include <cstdint>
#include <vector>

#include "client/model_info/model_config.h"
#include "client/model_info/plan.h"
#include "client/model_info/run_sizes.h"
#include "teq/v1/job.pb.h"

namespace teq::model_info {

/// What of a block memory and time depend on, in values.
struct BlockSize {
  std::int64_t parameters = 0;     // of its linear layers and norms
  std::int64_t active = 0;         // weights that one token meets: not those of other experts
  std::int64_t quantized = 0;      // weights that are rounded
  std::int64_t groups = 0;         // of those, what shares a scale
  std::int64_t largest_layer = 0;  // weights of its largest layer
  std::int64_t widest_input = 0;   // of a layer that is rounded
  std::int64_t grams = 0;          // Gram matrices of all different inputs
  std::int64_t step_grams = 0;     // the same of the inputs of one StepOf, at most
  double gram_products = 0;        // sum of out * in^2 over the layers that are rounded
  double cubes = 0;                // sum of in^3 over them
  double group_products = 0;       // sum of out * in * group over them
};

/// A job as numbers: what memory_plan.h and cost.h count with.
struct Workload {
  BlockSize largest;  // field by field the largest of all blocks
  BlockSize total;    // their sum; but for largest_layer and widest_input
  std::int64_t blocks = 0;
  std::int64_t hidden = 0;      // of a state
  std::int64_t embedding = 0;   // of what the head reads
  std::int64_t vocabulary = 0;  // of the head's rows
  std::int64_t mlp = 0;         // of the MLP that one token passes
  std::int64_t heads = 0;
  std::int64_t head_size = 0;
  bool softcap = false;           // attention's weights are kept for the gradient
  bool tied = false;              // embedding and head are one matrix
  std::int64_t stored_bytes = 2;  // of a weight, as config.json says
  std::int64_t parameters = 0;

  std::int64_t window = 0;              // tokens of a calibration window
  std::int64_t calibration_tokens = 0;  // at most: a short text has fewer
  std::int64_t evaluation_window = 0;   // 0: nothing is evaluated
};

/// `plan` is PlanLayers' for the spec, which has its defaults.
[[nodiscard]] Workload WorkloadOf(const teq::v1::JobSpec& spec, const ModelConfig& config,
                                  const std::vector<PlannedLayer>& plan);

/// Tokens that run through the blocks at once where nothing is trained.
[[nodiscard]] constexpr std::int64_t BatchTokens(std::int64_t window) {
  return window > kBatchTokens ? window : kBatchTokens / window * window;
}

}  // namespace teq::model_info
