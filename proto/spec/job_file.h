#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "teq/v1/job.pb.h"

namespace teq {

/// What a job file says.
struct JobFile {
  std::string project = "default";
  teq::v1::Job job;  // spec, labels and priority
};

/// Reads a job file: YAML whose top level holds `project`, `priority`, `labels` and the fields of
/// JobSpec. `file` is its name for messages.
///
/// INVALID_ARGUMENT, reason INVALID_JOB_FILE, with BadRequest: "job.yaml:7: recipe.weigths: unknown
/// field; known: ...". A duplicate key, an alias bomb, several documents, broken YAML and text that
/// is not UTF-8 too. It does not validate the values; see validate.h.
[[nodiscard]] absl::StatusOr<JobFile> ParseJobFile(std::string_view yaml, std::string_view file);

}  // namespace teq
