#include "server/api/estimates.h"

#include <functional>
#include <utility>
#include <vector>

#include "client/cache/estimate_inputs.h"
#include "client/model_info/estimate.h"
#include "proto/spec/error.h"
#include "proto/spec/resource_name.h"
#include "proto/spec/validate.h"

namespace teq::api {
namespace {

absl::StatusOr<std::vector<model_info::KnownWorker>> WorkersThere(store::JobStore& store,
                                                                  absl::Time since) {
  TEQ_ASSIGN_OR_RETURN(const std::vector<store::WorkerRecord> records, store.ReadWorkers(since));
  std::vector<model_info::KnownWorker> workers;
  workers.reserve(records.size());
  for (const store::WorkerRecord& record : records) {
    workers.push_back({record.worker_id, record.capabilities});
  }
  return workers;
}

}  // namespace

Estimates::Estimates(EstimateOptions options, store::JobStore* store, const queue::Clock* clock)
    : options_(std::move(options)),
      store_(store),
      clock_(clock),
      calls_("estimates", options_.max_calls) {}

grpc::ServerUnaryReactor* Estimates::Run(const teq::v1::EstimateJobRequest* request,
                                         teq::v1::JobEstimate* response) {
  return calls_.Run([this, request, response](const std::function<bool()>& go_on) -> absl::Status {
    TEQ_RETURN_IF_ERROR(ParseProjectName(request->parent()).status());
    const teq::v1::JobSpec spec = WithDefaults(request->spec());
    TEQ_RETURN_IF_ERROR(ValidateSpec(spec));
    TEQ_RETURN_IF_ERROR(CheckUris(spec, options_.uri_policy));
    TEQ_ASSIGN_OR_RETURN(const cache::EstimateInputs inputs,
                         cache::ReadEstimateInputs(spec, options_.uri_policy, go_on));
    TEQ_ASSIGN_OR_RETURN(const std::vector<model_info::KnownWorker> workers,
                         WorkersThere(*store_, clock_->Now() - options_.worker_silence));
    TEQ_ASSIGN_OR_RETURN(
        *response, model_info::EstimateJob(spec, inputs.config, inputs.evaluation_tokens, workers));
    return absl::OkStatus();
  });
}

}  // namespace teq::api
