#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/terminal.h"
#include "teq/v1/job_service.grpc.pb.h"

namespace teq::cli {

/// Exit codes; scripts rely on them.
enum ExitCode : int {
  kOk = 0,
  kJobNotSucceeded = 1,  // a watched job ended FAILED, CANCELLED or EXPIRED
  kInvalid = 2,          // the command line or the job file is wrong
  kRefused = 3,          // the server said no
  kUnreachable = 4,      // no server answered
  kInterrupted = 130,    // Ctrl-C while watching; the job goes on
};

enum class Format { kTable, kJson, kYaml };

/// What every command needs.
struct Session {
  teq::v1::JobService::StubInterface& stub;
  const Terminal& terminal;
  Format format = Format::kTable;
  std::string server;
  std::optional<std::string> project;  // unset: the job file's, else "default"
};

struct SubmitOptions {
  std::string file;  // "-": standard input
  std::string job_id;
  std::string request_id;  // empty: a new UUID
  bool validate_only = false;
  bool watch = false;
};

struct ListOptions {
  std::string filter;
  std::int64_t limit = 0;  // 0: all
};

struct UpdateOptions {
  std::string name;
  std::optional<std::int32_t> priority;
  std::vector<std::string> labels;  // key=value
  std::vector<std::string> removed_labels;
};

/// The commands. Each writes its answer, or its error, to the terminal and returns the exit code.
/// `name` is a resource name or the id of a job in the session's project.
[[nodiscard]] ExitCode Submit(const Session& session, const SubmitOptions& options);
[[nodiscard]] ExitCode Get(const Session& session, const std::string& name);
[[nodiscard]] ExitCode List(const Session& session, const ListOptions& options);
[[nodiscard]] ExitCode Watch(const Session& session, const std::string& name);
[[nodiscard]] ExitCode Cancel(const Session& session, const std::string& name);
[[nodiscard]] ExitCode Retry(const Session& session, const std::string& name);
[[nodiscard]] ExitCode Delete(const Session& session, const std::string& name);
[[nodiscard]] ExitCode Update(const Session& session, const UpdateOptions& options);
[[nodiscard]] ExitCode ShowReport(const Session& session, const std::string& name);

/// Writes `teqctl: REASON: message`, or with kJson the google.rpc.Status, to standard error.
void PrintError(const Terminal& terminal, Format format, const absl::Status& status);

}  // namespace teq::cli
