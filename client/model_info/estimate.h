#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "teq/v1/estimate.pb.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/worker_service.pb.h"

namespace teq::model_info {

/// A worker that is there.
struct KnownWorker {
  std::string id;
  teq::v1::Capabilities capabilities;
};

/// What a job whose spec has its defaults would take, and which of the workers how long.
/// `evaluation_tokens` are those of all texts. Without a worker that fits, it is planned for the
/// job's own limit, or for none.
///
/// INVALID_ARGUMENT as PlanLayers; FAILED_PRECONDITION, MEMORY_LIMIT, where the job's own limit is
/// too small.
[[nodiscard]] absl::StatusOr<teq::v1::JobEstimate> EstimateJob(
    const teq::v1::JobSpec& spec, const ModelConfig& config, std::int64_t evaluation_tokens,
    const std::vector<KnownWorker>& workers);

}  // namespace teq::model_info
