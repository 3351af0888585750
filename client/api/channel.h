#pragma once

#include <memory>
#include <string>

#include "grpcpp/channel.h"

namespace teq::client {

/// The most that a server and its clients take in one message. A report has a point of the loss
/// curve for every step, of every block too, and an entry for every expert's layers; the frames of
/// an engine hold as much.
inline constexpr int kMaxMessageBytes = 64 << 20;

/// Who repeats a call of JobService that ended UNAVAILABLE: the channel (5 attempts, 0.5 s doubling
/// to 10 s), or nobody but the caller.
enum class Retries { kByChannel, kByCaller };

/// A channel to a teq-server, with keepalive every 30 s. `address` is host:port or unix:PATH.
[[nodiscard]] std::shared_ptr<grpc::Channel> Connect(const std::string& address,
                                                     Retries retries = Retries::kByChannel);

}  // namespace teq::client
