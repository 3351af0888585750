#pragma once

#include <cstdint>
#include <vector>

#include "client/model_info/memory_plan.h"
#include "client/model_info/model_config.h"
#include "client/model_info/plan.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/worker_service.pb.h"

namespace teq::model_info {

/// What one stage computes and moves.
struct StageCost {
  teq::v1::Stage stage = teq::v1::STAGE_UNSPECIFIED;
  double operations = 0;   // floating-point, a multiplication and an addition being two
  double moved_bytes = 0;  // through memory besides: weights to float32, elementwise passes, files
  double bfloat16_operations = 0;  // of products with bfloat16 factors
};

/// What the stages of a planned run cost, FETCH to PUBLISH, to within a factor of about two: matrix
/// products are counted, elementwise work is counted where it goes over all weights. What comes
/// from or goes to other machines is not in it. `evaluation_tokens` are those of all texts.
[[nodiscard]] std::vector<StageCost> CostOf(const teq::v1::JobSpec& spec, const ModelConfig& config,
                                            const std::vector<PlannedLayer>& plan,
                                            const MemoryPlan& memory,
                                            std::int64_t evaluation_tokens);

/// The time of a stage on a calibrated device.
[[nodiscard]] double SecondsOf(const StageCost& cost, const teq::v1::DeviceCalibration& device);

}  // namespace teq::model_info
