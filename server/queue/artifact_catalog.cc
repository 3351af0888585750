#include "server/queue/artifact_catalog.h"

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/validate.h"
#include "server/queue/token.h"

namespace teq::queue {
namespace {

using store::JobRecord;
using teq::v1::Job;
using teq::v1::PublishedArtifact;

constexpr int kDefaultPageSize = 50;
constexpr int kMaxPageSize = 1000;
constexpr size_t kMaxPageBytes = size_t{3} << 20;  // gRPC clients take 4 MiB
constexpr size_t kMaxQuotedLength = 200;
constexpr std::string_view kArtifacts = "/artifacts/";
constexpr std::string_view kAllJobs = "/jobs/-";

absl::Status NotFound(std::string_view reason, std::string_view type, const std::string& name,
                      const std::string& message) {
  absl::Status status = Error(absl::StatusCode::kNotFound, reason, message, {{"name", name}});
  google::rpc::ResourceInfo info;
  info.set_resource_type(std::string(type));
  info.set_resource_name(name);
  AddDetail(status, info);
  return status;
}

std::string StateName(Job::State state) { return ShortEnumName(Job::State_descriptor(), state); }

std::string FormatId(std::string_view format) {
  std::string id(format);
  std::ranges::transform(id, id.begin(), [](unsigned char c) {
    return c == '_' ? '-' : static_cast<char>(std::tolower(c));
  });
  return id;
}

PublishedArtifact ToPublished(const JobRecord& record, const teq::v1::Artifact& artifact) {
  PublishedArtifact published;
  published.set_name(ArtifactName{record.name, artifact.format()}.ToString());
  *published.mutable_artifact() = artifact;
  published.set_manifest_sha256(record.job.manifest_sha256());
  *published.mutable_publish_time() = record.job.end_time();
  return published;
}

/// Where a page begins: at an artifact of a job, by the job's key and the artifact's place.
struct Position {
  int64_t key = std::numeric_limits<int64_t>::max();
  int index = 0;
};

std::string ListDigest(const teq::v1::ListArtifactsRequest& request) {
  teq::v1::ListArtifactsRequest arguments;
  arguments.set_parent(request.parent());
  return Digest(arguments).substr(0, 16);
}

std::string PageToken(const teq::v1::ListArtifactsRequest& request, const Position& position) {
  return EncodeToken(fmt::format("{}:{}:{}", ListDigest(request), position.key, position.index));
}

absl::StatusOr<Position> ReadPageToken(const teq::v1::ListArtifactsRequest& request) {
  Position position;
  if (request.page_token().empty()) return position;
  const std::optional<std::string> payload = DecodeToken(request.page_token());
  const std::string prefix = ListDigest(request) + ":";
  if (!payload || !payload->starts_with(prefix) ||
      std::sscanf(payload->c_str() + prefix.size(), "%ld:%d", &position.key, &position.index) !=
          2 ||
      position.index < 0) {
    return InvalidField("INVALID_PAGE_TOKEN", "page_token",
                        "not the token of a page of this list; take next_page_token of the page "
                        "before, and keep parent");
  }
  return position;
}

/// One page, filled job by job.
class Page {
 public:
  Page(const teq::v1::ListArtifactsRequest& request, int size) : request_(request), size_(size) {}

  /// Where the next page begins, unless this is the last one.
  void EndBefore(const Position& next) { response_.set_next_page_token(PageToken(request_, next)); }

  /// Whether there is room for more; otherwise the page says where the next one begins.
  bool Add(const JobRecord& record, int from) {
    const auto& artifacts = record.job.report().artifacts();
    for (int index = from; index < artifacts.size(); ++index) {
      PublishedArtifact published = ToPublished(record, artifacts[index]);
      bytes_ += published.ByteSizeLong();
      const bool full = response_.artifacts_size() == size_;
      if (full || (bytes_ > kMaxPageBytes && response_.artifacts_size() > 0)) {
        EndBefore({record.key, index});
        return false;
      }
      *response_.add_artifacts() = std::move(published);
    }
    return true;
  }

  [[nodiscard]] teq::v1::ListArtifactsResponse Take() { return std::move(response_); }

 private:
  const teq::v1::ListArtifactsRequest& request_;
  const int size_;
  size_t bytes_ = 0;
  teq::v1::ListArtifactsResponse response_;
};

}  // namespace

std::string ArtifactName::ToString() const {
  return fmt::format("{}{}{}", job.ToString(), kArtifacts, FormatId(format));
}

absl::StatusOr<ArtifactName> ParseArtifactName(std::string_view name) {
  const size_t at = name.find(kArtifacts);
  const absl::StatusOr<JobName> job = ParseJobName(name.substr(0, at));
  const std::string_view id =
      at == std::string_view::npos ? "" : name.substr(at + kArtifacts.size());
  if (!job.ok() || !IsResourceId(id)) {
    const std::string shown(name.substr(0, kMaxQuotedLength));
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_NAME",
                 fmt::format("\"{}\" is not a resource name; expected "
                             "projects/{{project}}/jobs/{{job}}/artifacts/{{format}}, such as "
                             "projects/default/jobs/a/artifacts/gptq",
                             shown),
                 {{"name", shown}});
  }
  std::string format(id);
  std::ranges::transform(format, format.begin(), [](unsigned char c) {
    return c == '-' ? '_' : static_cast<char>(std::toupper(c));
  });
  return ArtifactName{*job, std::move(format)};
}

absl::StatusOr<JobRecord> ArtifactCatalog::Find(const JobName& name) const {
  TEQ_ASSIGN_OR_RETURN(std::optional<JobRecord> record, store_->Get(name));
  if (record) return *std::move(record);
  return NotFound("JOB_NOT_FOUND", "teq.v1.Job", name.ToString(),
                  fmt::format("{}: no such job; ListJobs (teqctl list) shows those there are",
                              name.ToString()));
}

absl::StatusOr<PublishedArtifact> ArtifactCatalog::Get(std::string_view name) const {
  TEQ_ASSIGN_OR_RETURN(const ArtifactName parsed, ParseArtifactName(name));
  TEQ_ASSIGN_OR_RETURN(const JobRecord record, Find(parsed.job));
  std::string why = fmt::format("its job is {}, and publishes when it has SUCCEEDED",
                                StateName(record.job.state()));
  if (record.job.state() == Job::STATE_SUCCEEDED) {
    for (const teq::v1::Artifact& artifact : record.job.report().artifacts()) {
      if (artifact.format() == parsed.format) return ToPublished(record, artifact);
    }
    why = "its job has published other formats; ListArtifacts shows them";
  }
  const std::string full = parsed.ToString();
  return NotFound("ARTIFACT_NOT_FOUND", "teq.v1.PublishedArtifact", full,
                  fmt::format("{}: no such artifact: {}", full, why));
}

absl::StatusOr<Job> ArtifactCatalog::PublishedJob(std::string_view name) const {
  TEQ_ASSIGN_OR_RETURN(const JobName parsed, ParseJobName(name));
  TEQ_ASSIGN_OR_RETURN(JobRecord record, Find(parsed));
  if (record.job.state() == Job::STATE_SUCCEEDED) return std::move(record.job);
  const std::string message = fmt::format("{} is {}: only a job that has SUCCEEDED has a manifest",
                                          parsed.ToString(), StateName(record.job.state()));
  absl::Status status = Error(absl::StatusCode::kFailedPrecondition, "JOB_NOT_SUCCEEDED", message);
  google::rpc::PreconditionFailure failure;
  auto* violation = failure.add_violations();
  violation->set_type("JOB_NOT_SUCCEEDED");
  violation->set_subject(parsed.ToString());
  violation->set_description(message);
  AddDetail(status, failure);
  return status;
}

// Succeeded jobs from `newest_key` on to older ones.
absl::StatusOr<std::vector<JobRecord>> ArtifactCatalog::FindPublished(const std::string& parent,
                                                                      int64_t newest_key,
                                                                      int limit) const {
  if (!parent.ends_with(kAllJobs)) {
    TEQ_ASSIGN_OR_RETURN(const JobName name, ParseJobName(parent));
    TEQ_ASSIGN_OR_RETURN(JobRecord record, Find(name));
    std::vector<JobRecord> found;
    if (record.job.state() == Job::STATE_SUCCEEDED && record.key <= newest_key) {
      found.push_back(std::move(record));
    }
    return found;
  }
  store::ListQuery query;
  TEQ_ASSIGN_OR_RETURN(query.project, ParseProjectName(std::string_view(parent).substr(
                                          0, parent.size() - kAllJobs.size())));
  if (query.project == "-") query.project.clear();
  query.terms.push_back({.field = store::FilterTerm::Field::kState,
                         .op = store::FilterTerm::Operator::kEqual,
                         .value = int64_t{Job::STATE_SUCCEEDED}});
  if (newest_key < std::numeric_limits<int64_t>::max()) query.before_key = newest_key + 1;
  query.limit = limit;
  return store_->List(query);
}

absl::StatusOr<teq::v1::ListArtifactsResponse> ArtifactCatalog::List(
    const teq::v1::ListArtifactsRequest& request) const {
  if (request.page_size() < 0) {
    return InvalidField("INVALID_PAGE_SIZE", "page_size",
                        fmt::format("{} is negative; leave it out for the default of {}",
                                    request.page_size(), kDefaultPageSize));
  }
  TEQ_ASSIGN_OR_RETURN(const Position position, ReadPageToken(request));
  const int size =
      request.page_size() == 0 ? kDefaultPageSize : std::min(request.page_size(), kMaxPageSize);
  // Every succeeded job has an artifact, as a rule, so one job more than artifacts fills the page.
  TEQ_ASSIGN_OR_RETURN(const std::vector<JobRecord> records,
                       FindPublished(request.parent(), position.key, size + 1));
  Page page(request, size);
  for (const JobRecord& record : records) {
    if (!page.Add(record, record.key == position.key ? position.index : 0)) return page.Take();
  }
  if (std::ssize(records) > size) page.EndBefore({records.back().key - 1, 0});
  return page.Take();
}

}  // namespace teq::queue
