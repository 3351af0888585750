#pragma once

#include <memory>
#include <string>

#include "grpcpp/channel.h"

namespace teq::client {

/// A channel to a teq-server: keepalive every 30 s, and retries of UNAVAILABLE (5 attempts, 0.5 s
/// doubling to 10 s) for calls that are safe to repeat. `address` is host:port or unix:PATH.
[[nodiscard]] std::shared_ptr<grpc::Channel> Connect(const std::string& address);

}  // namespace teq::client
