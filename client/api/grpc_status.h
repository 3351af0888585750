#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace teq::client {

/// Both ways between absl::Status and grpc::Status. Details travel as a serialized
/// google.rpc.Status in grpc-status-details-bin.
[[nodiscard]] grpc::Status ToGrpc(const absl::Status& status);
[[nodiscard]] absl::Status FromGrpc(const grpc::Status& status);

}  // namespace teq::client
