#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "client/cli/terminal.h"
#include "proto/spec/job_file.h"

namespace teq::cli {

/// Reads and checks a job file before any call; "-" is standard input. INVALID_ARGUMENT,
/// FILE_NOT_READABLE, and as ParseJobFile, ValidateSpec and ValidateAttributes.
[[nodiscard]] absl::StatusOr<JobFile> ReadJobFile(const Terminal& terminal,
                                                  const std::string& file);

}  // namespace teq::cli
