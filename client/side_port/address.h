#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace teq::http {

/// An address to listen on.
struct HostPort {
  std::string host;  // a name or a number, without brackets
  uint16_t port = 0;

  /// host:port, an IPv6 number in brackets.
  [[nodiscard]] std::string ToString() const;
  /// Whether only this machine can reach it. A name other than localhost counts as reachable.
  [[nodiscard]] bool IsLoopback() const;
};

/// Reads host:port or [IPv6]:port. INVALID_ARGUMENT, reason INVALID_ADDRESS.
[[nodiscard]] absl::StatusOr<HostPort> ParseHostPort(std::string_view address);

}  // namespace teq::http
