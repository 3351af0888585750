#include "client/api/channel.h"

#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace teq::client {
namespace {

// CreateJob is safe to repeat because every client sends a request_id. Only UNAVAILABLE is repeated
// (AIP-194), and streams resume by their own tokens.
constexpr const char* kServiceConfig = R"({
  "methodConfig": [{
    "name": [
      {"service": "teq.v1.JobService", "method": "CreateJob"},
      {"service": "teq.v1.JobService", "method": "GetJob"},
      {"service": "teq.v1.JobService", "method": "ListJobs"},
      {"service": "teq.v1.JobService", "method": "UpdateJob"},
      {"service": "teq.v1.JobService", "method": "CancelJob"},
      {"service": "teq.v1.JobService", "method": "RetryJob"},
      {"service": "teq.v1.JobService", "method": "DeleteJob"}
    ],
    "retryPolicy": {
      "maxAttempts": 5,
      "initialBackoff": "0.5s",
      "maxBackoff": "10s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
})";

}  // namespace

std::shared_ptr<grpc::Channel> Connect(const std::string& address, Retries retries) {
  grpc::ChannelArguments arguments;
  if (retries == Retries::kByChannel) {
    arguments.SetServiceConfigJSON(kServiceConfig);
  } else {
    // gRPC 1.51 can fail an assertion of its own when a call is cancelled between two attempts.
    arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  }
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // A server that restarts is found again within seconds.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 5'000);
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // Plaintext is for loopback and sockets; a proxy of the environment must not see it.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace teq::client
