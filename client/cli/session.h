#pragma once

#include <chrono>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/api/grpc_status.h"
#include "client/cli/terminal.h"
#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"
#include "proto/spec/trace_parent.h"
#include "teq/v1/artifact_service.grpc.pb.h"
#include "teq/v1/job_service.grpc.pb.h"

namespace teq::cli {

/// Exit codes; scripts rely on them.
enum ExitCode : int {
  kOk = 0,
  // A watched job did not succeed, a published file is not as it should be, or the output cannot be
  // written.
  kNotAsExpected = 1,
  kInvalid = 2,        // the command line or the job file is wrong
  kRefused = 3,        // the server or the store said no
  kUnreachable = 4,    // no server or store answered
  kInterrupted = 130,  // Ctrl-C; a watched job goes on, a pull can be resumed
};

enum class Format { kTable, kJson, kYaml };

/// What every command needs.
struct Session {
  teq::v1::JobService::StubInterface& stub;
  teq::v1::ArtifactService::StubInterface& artifacts;
  const Terminal& terminal;
  Format format = Format::kTable;
  std::string server;
  std::optional<std::string> project;  // unset: the job file's, else "default"
  std::string traceparent;             // the trace that the calls belong to
};

inline constexpr const char* kDefaultServer = "127.0.0.1:8470";
inline constexpr auto kCallTimeout = std::chrono::seconds(30);

/// Writes `teqctl: REASON: message`, or with kJson the google.rpc.Status, to standard error.
void PrintError(const Terminal& terminal, Format format, const absl::Status& status);

/// Writes JSON, or the same as YAML, to standard output.
void PrintJson(const Session& session, const nlohmann::ordered_json& json);

/// Writes the message itself, or for people `text`.
void Print(const Session& session, const google::protobuf::Message& message,
           const std::string& text);

/// Tells an error of what the user wrote, or of a call, and returns the exit code.
[[nodiscard]] ExitCode FailLocally(const Session& session, const absl::Status& status);
[[nodiscard]] ExitCode FailRemotely(const Session& session, const absl::Status& status);

/// The session's project, or `otherwise`. INVALID_ARGUMENT, reason INVALID_NAME.
[[nodiscard]] absl::StatusOr<std::string> ProjectOf(const Session& session,
                                                    const std::string& otherwise);

/// The resource name of a job that is given by it or by its id. INVALID_ARGUMENT, reason
/// INVALID_NAME.
[[nodiscard]] absl::StatusOr<std::string> FullName(const Session& session, const std::string& name);

/// One call of a service, as a part of the trace `traceparent` where that is not empty.
template <typename Stub, typename Request, typename Response>
absl::StatusOr<Response> CallService(
    Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
    const Request& request, std::chrono::seconds timeout = kCallTimeout,
    const std::string& traceparent = "") {
  grpc::ClientContext context;
  if (!traceparent.empty()) context.AddMetadata(kTraceParentKey, traceparent);
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  Response response;
  absl::Status status = client::FromGrpc((stub.*method)(&context, request, &response));
  if (!status.ok()) return status;
  return response;
}

}  // namespace teq::cli
