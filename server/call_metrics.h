#pragma once

#include <functional>
#include <memory>

#include "grpcpp/support/server_interceptor.h"
#include "server/http/metrics.h"

namespace teq::server {

/// Tells `sink` of every call when it ends, in gRPC's threads: with the status that it was answered
/// by, or Canceled where its caller went first.
[[nodiscard]] std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> CountCalls(
    std::function<void(const http::CallRecord&)> sink);

}  // namespace teq::server
