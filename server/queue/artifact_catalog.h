#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "proto/spec/resource_name.h"
#include "server/store/job_store.h"
#include "teq/v1/artifact_service.pb.h"

namespace teq::queue {

/// `projects/{project}/jobs/{job}/artifacts/{format}`.
struct ArtifactName {
  JobName job;
  std::string format;  // as artifacts have it: "COMPRESSED_TENSORS"

  [[nodiscard]] std::string ToString() const;
};

/// INVALID_ARGUMENT, reason INVALID_NAME, names the value and the pattern.
[[nodiscard]] absl::StatusOr<ArtifactName> ParseArtifactName(std::string_view name);

/// Published checkpoints, as far as the job store knows them. Thread-safe.
class ArtifactCatalog {
 public:
  /// `store` outlives it.
  explicit ArtifactCatalog(store::JobStore* store) : store_(store) {}

  /// NOT_FOUND, reason ARTIFACT_NOT_FOUND, also where its job has not succeeded yet; JOB_NOT_FOUND.
  [[nodiscard]] absl::StatusOr<teq::v1::PublishedArtifact> Get(std::string_view name) const;
  [[nodiscard]] absl::StatusOr<teq::v1::ListArtifactsResponse> List(
      const teq::v1::ListArtifactsRequest& request) const;

  /// A job whose output is published. NOT_FOUND, reason JOB_NOT_FOUND; FAILED_PRECONDITION, reason
  /// JOB_NOT_SUCCEEDED.
  [[nodiscard]] absl::StatusOr<teq::v1::Job> PublishedJob(std::string_view name) const;

 private:
  [[nodiscard]] absl::StatusOr<store::JobRecord> Find(const JobName& name) const;
  [[nodiscard]] absl::StatusOr<std::vector<store::JobRecord>> FindPublished(
      const std::string& parent, int64_t newest_key, int limit) const;

  store::JobStore* const store_;
};

}  // namespace teq::queue
