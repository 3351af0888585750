#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace teq {

/// `projects/{project}/jobs/{job}`; both parts match [a-z0-9-]{1,63}, and the project is not `-`.
struct JobName {
  std::string project;
  std::string job;

  [[nodiscard]] std::string ToString() const;
};

/// INVALID_ARGUMENT, reason INVALID_NAME, names the value and the pattern.
[[nodiscard]] absl::StatusOr<JobName> ParseJobName(std::string_view name);

/// The project of `projects/{project}`; `-` stands for all projects.
[[nodiscard]] absl::StatusOr<std::string> ParseProjectName(std::string_view name);

/// Whether `id` matches [a-z0-9-]{1,63}.
[[nodiscard]] bool IsResourceId(std::string_view id);

}  // namespace teq
