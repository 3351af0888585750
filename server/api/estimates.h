#pragma once

#include "absl/time/time.h"
#include "grpcpp/support/server_callback.h"
#include "proto/spec/uri.h"
#include "server/api/blocking_calls.h"
#include "server/queue/clock.h"
#include "server/store/job_store.h"
#include "teq/v1/job_service.pb.h"

namespace teq::api {

struct EstimateOptions {
  UriPolicy uri_policy;
  /// Calls at once: each may read a config.json that lies elsewhere.
  int max_calls = 8;
  /// A worker that holds no lease and was not heard of for longer is not there. Waiting ones are
  /// noted once a minute or two.
  absl::Duration worker_silence = absl::Minutes(3);
};

/// EstimateJob: the plan of client/model_info/estimate.h for the workers that the store knows.
/// Thread-safe.
class Estimates {
 public:
  /// `store` and `clock` outlive it.
  Estimates(EstimateOptions options, store::JobStore* store, const queue::Clock* clock);

  /// Answers one call; the reactor owns itself.
  [[nodiscard]] grpc::ServerUnaryReactor* Run(const teq::v1::EstimateJobRequest* request,
                                              teq::v1::JobEstimate* response);

  /// Ends calls that wait for a model's place with SERVER_DRAINING.
  void Drain() { calls_.Drain(); }

 private:
  const EstimateOptions options_;
  store::JobStore* const store_;
  const queue::Clock* const clock_;
  BlockingCalls calls_;
};

}  // namespace teq::api
