#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "server/store/job_store.h"

namespace teq::queue {

/// Reads the filter of ListJobs, whose grammar job_service.proto gives. An empty filter has no
/// terms.
///
/// INVALID_ARGUMENT, reason INVALID_FILTER, with a violation of field `filter` that names the
/// column and what is expected there.
[[nodiscard]] absl::StatusOr<std::vector<store::FilterTerm>> ParseFilter(std::string_view filter);

}  // namespace teq::queue
