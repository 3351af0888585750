#pragma once

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "proto/spec/uri.h"
#include "teq/v1/job.pb.h"

namespace teq::cache {

/// What an estimate (client/model_info/estimate.h) needs of a job's inputs.
struct EstimateInputs {
  model_info::ModelConfig config;
  std::int64_t evaluation_tokens =
      0;  // by the texts' sizes, or a usual text's where they are not here
};

/// Reads the model's config.json, wherever its URI says it is, and nothing else. Keeps nothing on
/// the disk.
///
/// FAILED_PRECONDITION, CONFIG_NOT_READABLE, where it cannot be had from here: says why, and what
/// else could be done. Errors as ParseModelConfig, ResolveLocation; CANCELLED once `go_on` says
/// false.
[[nodiscard]] absl::StatusOr<EstimateInputs> ReadEstimateInputs(const teq::v1::JobSpec& spec,
                                                                const UriPolicy& policy,
                                                                const std::function<bool()>& go_on);

}  // namespace teq::cache
