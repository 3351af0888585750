#include "server/api/answer.h"

#include <string>

#include "client/api/grpc_status.h"
#include "proto/spec/error.h"
#include "spdlog/spdlog.h"

namespace teq::api {

grpc::Status ToAnswer(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  absl::Status answer = status;
  if (absl::IsUnavailable(status)) {
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(1);
    AddDetail(answer, retry);
  }
  const bool fault = absl::IsUnavailable(status) || absl::IsDataLoss(status) ||
                     absl::IsInternal(status) || ErrorReason(status) == "STORE_FULL";
  if (fault && ErrorReason(status) != "SERVER_DRAINING") {
    spdlog::error("{}", ErrorText(status));
  }
  return client::ToGrpc(answer);
}

absl::Status Draining() {
  return Error(absl::StatusCode::kUnavailable, "SERVER_DRAINING",
               "the server is stopping; try again");
}

}  // namespace teq::api
