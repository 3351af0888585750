#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "client/cli/session.h"

namespace teq::cli {

struct SubmitOptions {
  std::string file;  // "-": standard input
  std::string job_id;
  std::string request_id;  // any text; empty: a new UUID
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

}  // namespace teq::cli
