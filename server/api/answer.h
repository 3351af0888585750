#pragma once

#include <utility>

#include "absl/status/statusor.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/server_callback.h"

namespace teq::api {

/// A status as a call returns it: with RetryInfo where trying again may help. Faults of this server
/// are logged.
[[nodiscard]] grpc::Status ToAnswer(const absl::Status& status);

/// UNAVAILABLE, reason SERVER_DRAINING: this server is about to stop.
[[nodiscard]] absl::Status Draining();

/// Ends a unary call with `result`.
template <typename T>
grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, absl::StatusOr<T> result,
                                 T* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const absl::Status status = result.status();
  if (status.ok()) *response = *std::move(result);
  reactor->Finish(ToAnswer(status));
  return reactor;
}

}  // namespace teq::api
