// The verbs of JobService.
#include <algorithm>
#include <map>

#include "fmt/format.h"
#include "google/protobuf/util/message_differencer.h"
#include "proto/spec/json.h"
#include "proto/spec/validate.h"
#include "server/queue/filter.h"
#include "server/queue/queue.h"
#include "server/queue/queue_unit.h"
#include "server/queue/token.h"
#include "server/store/timestamps.h"

namespace teq::queue {
namespace {

using store::JobRecord;
using teq::v1::CreateJobRequest;
using teq::v1::Job;
using teq::v1::JobEvent;

constexpr int kDefaultPageSize = 50;
constexpr int kMaxPageSize = 1000;
constexpr size_t kMaxPageBytes = size_t{3} << 20;  // gRPC clients take 4 MiB
constexpr size_t kMaxRequestIdSize = 128;

std::string StateName(Job::State state) { return ShortEnumName(Job::State_descriptor(), state); }

void AddResource(absl::Status& status, const std::string& name) {
  google::rpc::ResourceInfo info;
  info.set_resource_type("teq.v1.Job");
  info.set_resource_name(name);
  AddDetail(status, info);
}

absl::Status JobNotFound(const std::string& name) {
  absl::Status status =
      Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND",
            fmt::format("{}: no such job; ListJobs (teqctl list) shows those there are", name),
            {{"name", name}});
  AddResource(status, name);
  return status;
}

absl::Status Precondition(std::string_view reason, const std::string& subject,
                          const std::string& message) {
  absl::Status status = Error(absl::StatusCode::kFailedPrecondition, reason, message);
  google::rpc::PreconditionFailure failure;
  auto* violation = failure.add_violations();
  violation->set_type(std::string(reason));
  violation->set_subject(subject);
  violation->set_description(message);
  AddDetail(status, failure);
  return status;
}

absl::StatusOr<JobRecord> FindJob(store::Transaction& transaction, const std::string& name) {
  TEQ_ASSIGN_OR_RETURN(const JobName job_name, ParseJobName(name));
  TEQ_ASSIGN_OR_RETURN(std::optional<JobRecord> record, transaction.FindByName(job_name));
  if (!record) return JobNotFound(name);
  return *std::move(record);
}

absl::Status CheckEtag(const JobRecord& record, const std::string& etag) {
  if (etag.empty() || etag == record.job.etag()) return absl::OkStatus();
  return Error(absl::StatusCode::kAborted, "ETAG_MISMATCH",
               fmt::format("{}: the etag is {}, not {}; read the job again", record.job.name(),
                           record.job.etag(), etag),
               {{"etag", record.job.etag()}});
}

absl::Status CheckOutputFree(store::Transaction& transaction, const std::string& output) {
  TEQ_ASSIGN_OR_RETURN(const std::optional<JobRecord> other,
                       transaction.FindUnfinishedByOutput(output));
  if (!other) return absl::OkStatus();
  return Precondition("OUTPUT_IN_USE", other->job.name(),
                      fmt::format("output.uri: {} is the output of {}, which is {}; choose another "
                                  "directory, or wait for that job",
                                  output, other->job.name(), StateName(other->job.state())));
}

absl::Status QueuedJobsExhausted(const std::string& project, int64_t queued, int limit) {
  const std::string message = fmt::format(
      "projects/{} has {} waiting jobs, the limit is {}; wait for some to start, or cancel some",
      project, queued, limit);
  absl::Status status =
      Error(absl::StatusCode::kResourceExhausted, "QUEUED_JOBS_EXHAUSTED", message);
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject(fmt::format("projects/{}", project));
  violation->set_description(message);
  AddDetail(status, failure);
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(60);
  AddDetail(status, retry);
  return status;
}

/// What a request_id stands for: all that CreateJob reads, with its defaults.
std::string BodyDigest(const CreateJobRequest& request, const Job& job) {
  CreateJobRequest body;
  body.set_parent(request.parent());
  body.set_job_id(request.job_id());
  *body.mutable_job()->mutable_spec() = job.spec();
  *body.mutable_job()->mutable_labels() = job.labels();
  body.mutable_job()->set_priority(job.priority());
  return Digest(body);
}

absl::StatusOr<std::string> NormalOutput(const std::string& uri) {
  TEQ_ASSIGN_OR_RETURN(const Location location, ParseUri(uri, UriUse::kOutput));
  return UriOf(location);
}

std::string ListDigest(const teq::v1::ListJobsRequest& request) {
  teq::v1::ListJobsRequest arguments;
  arguments.set_parent(request.parent());
  arguments.set_filter(request.filter());
  return Digest(arguments).substr(0, 16);
}

absl::StatusOr<std::optional<int64_t>> ReadPageToken(const teq::v1::ListJobsRequest& request) {
  if (request.page_token().empty()) return std::nullopt;
  const std::optional<std::string> payload = DecodeToken(request.page_token());
  const std::string prefix = ListDigest(request) + ":";
  int64_t key = 0;
  if (!payload || !payload->starts_with(prefix) ||
      std::sscanf(payload->c_str() + prefix.size(), "%ld", &key) != 1) {
    return InvalidField("INVALID_PAGE_TOKEN", "page_token",
                        "not the token of a page of this list; take next_page_token of the page "
                        "before, and keep parent and filter");
  }
  return key;
}

bool Updates(const teq::v1::UpdateJobRequest& request, std::string_view field) {
  const auto& paths = request.update_mask().paths();
  return paths.empty() || std::find(paths.begin(), paths.end(), field) != paths.end();
}

absl::Status CheckMask(const teq::v1::UpdateJobRequest& request) {
  for (const std::string& path : request.update_mask().paths()) {
    if (path != "priority" && path != "labels") {
      return InvalidField("INVALID_UPDATE_MASK", "update_mask",
                          fmt::format("{} cannot be changed; only priority and labels can", path));
    }
  }
  return absl::OkStatus();
}

}  // namespace

std::string WatchCursor::ResumeToken() const {
  return EncodeToken(fmt::format("{}:{}", job_uid, sequence));
}

Queue::Queue(QueueOptions options, QueueDeps deps) : options_(std::move(options)), deps_(deps) {}

void Queue::AddObserver(QueueObserver* observer) { observers_.push_back(observer); }

std::string Queue::RandomId() {
  return fmt::format("{:016x}{:016x}", deps_.random->Next(), deps_.random->Next());
}

/// Ids sort by time: 9 digits of milliseconds, then chance.
std::string Queue::NewJobId(absl::Time now) {
  constexpr std::string_view kDigits = "0123456789abcdefghjkmnpqrstvwxyz";
  const auto digits = [&](uint64_t value, int count) {
    std::string text(static_cast<size_t>(count), '0');
    for (auto digit = text.rbegin(); digit != text.rend(); ++digit, value >>= 5U) {
      *digit = kDigits[value & 31U];
    }
    return text;
  };
  return digits(static_cast<uint64_t>(absl::ToUnixMillis(now)), 9) +
         digits(deps_.random->Next(), 8);
}

absl::StatusOr<Job> Queue::CheckNewJob(const CreateJobRequest& request,
                                       const std::string& project) const {
  if (project == "-") {
    return Error(absl::StatusCode::kInvalidArgument, "INVALID_NAME",
                 "parent: projects/- stands for all projects; name one");
  }
  if (!request.job_id().empty() && !IsResourceId(request.job_id())) {
    return InvalidField("INVALID_NAME", "job_id",
                        fmt::format("{} does not match [a-z0-9-]{{1,63}}", request.job_id()));
  }
  if (request.request_id().size() > kMaxRequestIdSize) {
    return InvalidField("INVALID_REQUEST_ID", "request_id",
                        fmt::format("longer than {} bytes; use a UUID", kMaxRequestIdSize));
  }
  TEQ_RETURN_IF_ERROR(ValidateAttributes(request.job()));
  Job job;
  *job.mutable_labels() = request.job().labels();
  job.set_priority(request.job().priority());
  *job.mutable_spec() = WithDefaults(request.job().spec());
  const auto size = static_cast<int64_t>(job.spec().ByteSizeLong());
  if (size > options_.limits.spec_bytes) {
    return InvalidField("INVALID_SPEC", "spec",
                        fmt::format("{} bytes, the limit is {}; use patterns in recipe.overrides",
                                    size, options_.limits.spec_bytes));
  }
  TEQ_RETURN_IF_ERROR(ValidateSpec(job.spec()));
  TEQ_RETURN_IF_ERROR(CheckUris(job.spec(), options_.uri_policy));
  if (options_.check_inputs) TEQ_RETURN_IF_ERROR(options_.check_inputs(job.spec()));
  job.set_spec_digest(Digest(job.spec()));
  return job;
}

absl::StatusOr<std::optional<Job>> Queue::FindRepeated(Unit& unit, const CreateJobRequest& request,
                                                       const std::string& project, const Job& job,
                                                       const std::string& digest) {
  store::Transaction& transaction = unit.transaction();
  if (!request.request_id().empty()) {
    TEQ_ASSIGN_OR_RETURN(const auto known, transaction.FindRequest(project, request.request_id()));
    if (known && known->digest != digest) {
      return Error(absl::StatusCode::kInvalidArgument, "REQUEST_ID_REUSED",
                   fmt::format("request_id: {} was used for another job; use a new UUID",
                               request.request_id()),
                   {{"request_id", request.request_id()}});
    }
    if (known) {
      TEQ_ASSIGN_OR_RETURN(const auto first, transaction.FindByUid(known->job_uid));
      if (first) return first->job;
      return Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND",
                   fmt::format("request_id: the job that {} made was deleted; use a new UUID",
                               request.request_id()));
    }
  }
  if (request.job_id().empty()) return std::nullopt;
  TEQ_ASSIGN_OR_RETURN(const auto same_name, transaction.FindByName({project, request.job_id()}));
  if (!same_name) return std::nullopt;
  if (same_name->job.spec_digest() == job.spec_digest()) return same_name->job;
  absl::Status status =
      Error(absl::StatusCode::kAlreadyExists, "JOB_EXISTS",
            fmt::format("{} exists with another spec; choose another job_id, or delete that job",
                        same_name->job.name()),
            {{"name", same_name->job.name()}});
  AddResource(status, same_name->job.name());
  return status;
}

absl::Status Queue::CheckQueuedQuota(Unit& unit, const std::string& project) const {
  const int limit = options_.limits.queued_jobs_per_project;
  TEQ_ASSIGN_OR_RETURN(const int64_t queued, unit.transaction().CountQueued(project));
  if (queued < limit) return absl::OkStatus();
  for (QueueObserver* observer : observers_) observer->OnQuotaRejection(project, "queued_jobs");
  return QueuedJobsExhausted(project, queued, limit);
}

absl::StatusOr<Job> Queue::InsertJob(Unit& unit, const CreateJobRequest& request,
                                     const std::string& project,
                                     const std::optional<TraceParent>& trace, Job job) {
  const std::string digest = BodyDigest(request, job);
  TEQ_ASSIGN_OR_RETURN(std::optional<Job> repeated,
                       FindRepeated(unit, request, project, job, digest));
  if (repeated) return *std::move(repeated);
  JobRecord record;
  TEQ_ASSIGN_OR_RETURN(record.output, NormalOutput(job.spec().output().uri()));
  TEQ_RETURN_IF_ERROR(CheckOutputFree(unit.transaction(), record.output));
  TEQ_RETURN_IF_ERROR(CheckQueuedQuota(unit, project));

  record.name = {project, request.job_id()};
  if (record.name.job.empty() && !request.validate_only()) record.name.job = NewJobId(unit.now());
  if (!record.name.job.empty()) job.set_name(record.name.ToString());
  if (!request.validate_only()) job.set_uid(RandomId());
  *job.mutable_create_time() = store::ToTimestamp(unit.now());
  const TraceParent own = trace ? *trace : NewTraceParent([this] { return deps_.random->Next(); });
  job.set_traceparent(own.ToString());
  record.job = std::move(job);
  JobEdit edit = unit.Edit(std::move(record));
  TEQ_RETURN_IF_ERROR(edit.Move(Cause::kCreated, "waits for a worker"));
  if (request.validate_only()) return edit.job();
  if (!request.request_id().empty()) {
    TEQ_RETURN_IF_ERROR(
        unit.transaction().PutRequest(project, request.request_id(),
                                      {.digest = digest, .job_uid = edit.job().uid()}, unit.now()));
  }
  return unit.Insert(std::move(edit));
}

absl::StatusOr<Job> Queue::CreateJob(const CreateJobRequest& request,
                                     const std::optional<TraceParent>& trace) {
  TEQ_ASSIGN_OR_RETURN(const std::string project, ParseProjectName(request.parent()));
  TEQ_ASSIGN_OR_RETURN(const Job job, CheckNewJob(request, project));
  return Write<Job>([&](Unit& unit) { return InsertJob(unit, request, project, trace, job); });
}

absl::StatusOr<Job> Queue::GetJob(const teq::v1::GetJobRequest& request) {
  TEQ_ASSIGN_OR_RETURN(const JobName name, ParseJobName(request.name()));
  TEQ_ASSIGN_OR_RETURN(std::optional<JobRecord> record, deps_.store->Get(name));
  if (!record) return JobNotFound(request.name());
  return std::move(record->job);
}

absl::StatusOr<teq::v1::ListJobsResponse> Queue::ListJobs(const teq::v1::ListJobsRequest& request) {
  store::ListQuery query;
  TEQ_ASSIGN_OR_RETURN(query.project, ParseProjectName(request.parent()));
  if (query.project == "-") query.project.clear();
  if (request.page_size() < 0) {
    return InvalidField("INVALID_PAGE_SIZE", "page_size",
                        fmt::format("{} is negative; leave it out for the default of {}",
                                    request.page_size(), kDefaultPageSize));
  }
  TEQ_ASSIGN_OR_RETURN(query.terms, ParseFilter(request.filter()));
  TEQ_ASSIGN_OR_RETURN(query.before_key, ReadPageToken(request));
  const int size =
      request.page_size() == 0 ? kDefaultPageSize : std::min(request.page_size(), kMaxPageSize);
  query.limit = size + 1;  // one more tells whether there is another page
  TEQ_ASSIGN_OR_RETURN(std::vector<JobRecord> records, deps_.store->List(query));

  teq::v1::ListJobsResponse response;
  size_t bytes = 0;
  for (JobRecord& record : records) {
    bytes += record.job.ByteSizeLong();
    const bool full = response.jobs_size() == size;
    if (full || (bytes > kMaxPageBytes && response.jobs_size() > 0)) {
      const int64_t last = records[static_cast<size_t>(response.jobs_size()) - 1].key;
      response.set_next_page_token(EncodeToken(fmt::format("{}:{}", ListDigest(request), last)));
      break;
    }
    *response.add_jobs() = std::move(record.job);
  }
  return response;
}

absl::StatusOr<Job> Queue::UpdateJob(const teq::v1::UpdateJobRequest& request) {
  TEQ_RETURN_IF_ERROR(CheckMask(request));
  TEQ_RETURN_IF_ERROR(ValidateAttributes(request.job()));
  return Write<Job>([&](Unit& unit) -> absl::StatusOr<Job> {
    TEQ_ASSIGN_OR_RETURN(JobRecord record, FindJob(unit.transaction(), request.job().name()));
    TEQ_RETURN_IF_ERROR(CheckEtag(record, request.job().etag()));
    JobEdit edit = unit.Edit(std::move(record));
    if (Updates(request, "priority")) edit.job().set_priority(request.job().priority());
    if (Updates(request, "labels")) *edit.job().mutable_labels() = request.job().labels();
    if (google::protobuf::util::MessageDifferencer::Equals(edit.job(), edit.before().job)) {
      return edit.job();
    }
    edit.Revise();
    if (HasRoomForEvents(edit.record())) {
      JobEvent event;
      event.mutable_attribute_change()->set_priority(edit.job().priority());
      *event.mutable_attribute_change()->mutable_labels() = edit.job().labels();
      edit.Record(std::move(event));
    }
    return unit.Save(std::move(edit));
  });
}

absl::StatusOr<Job> Queue::CancelJob(const teq::v1::CancelJobRequest& request) {
  return Write<Job>([&](Unit& unit) -> absl::StatusOr<Job> {
    TEQ_ASSIGN_OR_RETURN(JobRecord record, FindJob(unit.transaction(), request.name()));
    // A repeat must be harmless, also of the call that cancelled a waiting job at once.
    const Job::State state = record.job.state();
    if (state == Job::STATE_CANCELLED || state == Job::STATE_CANCELLING) return record.job;
    TEQ_RETURN_IF_ERROR(CheckEtag(record, request.etag()));
    if (store::IsFinished(state) || state == Job::STATE_PUBLISHING) {
      return Precondition(
          store::IsFinished(state) ? "JOB_FINISHED" : "JOB_PUBLISHING", request.name(),
          fmt::format("{} is {}: it can no longer be cancelled", request.name(), StateName(state)));
    }
    JobEdit edit = unit.Edit(std::move(record));
    TEQ_RETURN_IF_ERROR(RequestCancel(edit, options_.lease_duration));
    return unit.Save(std::move(edit));
  });
}

absl::StatusOr<Job> Queue::RetryJob(const teq::v1::RetryJobRequest& request) {
  return Write<Job>([&](Unit& unit) -> absl::StatusOr<Job> {
    TEQ_ASSIGN_OR_RETURN(JobRecord record, FindJob(unit.transaction(), request.name()));
    TEQ_RETURN_IF_ERROR(CheckEtag(record, request.etag()));
    if (!NextState(record.job.state(), Cause::kRetryRequested)) {
      return Precondition("JOB_NOT_RETRYABLE", request.name(),
                          fmt::format("{} is {}: only FAILED, CANCELLED and EXPIRED jobs can be "
                                      "retried",
                                      request.name(), StateName(record.job.state())));
    }
    TEQ_RETURN_IF_ERROR(CheckOutputFree(unit.transaction(), record.output));
    TEQ_RETURN_IF_ERROR(CheckQueuedQuota(unit, record.name.project));
    JobEdit edit = unit.Edit(std::move(record));
    TEQ_RETURN_IF_ERROR(RequestRetry(edit));
    TEQ_RETURN_IF_ERROR(unit.transaction().PutReport(edit.record().key, nullptr));
    return unit.Save(std::move(edit));
  });
}

absl::Status Queue::DeleteJob(const teq::v1::DeleteJobRequest& request) {
  return Write<bool>([&](Unit& unit) -> absl::StatusOr<bool> {
           TEQ_ASSIGN_OR_RETURN(const JobRecord record,
                                FindJob(unit.transaction(), request.name()));
           TEQ_RETURN_IF_ERROR(CheckEtag(record, request.etag()));
           if (!store::IsFinished(record.job.state())) {
             return Precondition("JOB_NOT_FINISHED", request.name(),
                                 fmt::format("{} is {}; cancel it first", request.name(),
                                             StateName(record.job.state())));
           }
           TEQ_RETURN_IF_ERROR(unit.Remove(record));
           return true;
         })
      .status();
}

absl::StatusOr<WatchStart> Queue::StartWatch(const teq::v1::WatchJobRequest& request) {
  TEQ_ASSIGN_OR_RETURN(const JobName name, ParseJobName(request.name()));
  TEQ_ASSIGN_OR_RETURN(std::optional<JobRecord> record, deps_.store->Get(name));
  if (!record) return JobNotFound(request.name());
  WatchStart start;
  start.cursor = {.job_uid = record->job.uid(),
                  .key = record->key,
                  .sequence = record->last_sequence,
                  .state = record->job.state()};
  if (request.resume_token().empty()) {
    start.snapshot = std::move(record->job);
    return start;
  }
  const std::optional<std::string> payload = DecodeToken(request.resume_token());
  const std::string prefix = record->job.uid() + ":";
  int64_t sequence = -1;
  if (!payload || !payload->starts_with(prefix) ||
      std::sscanf(payload->c_str() + prefix.size(), "%ld", &sequence) != 1 || sequence < 0 ||
      sequence > record->last_sequence) {
    return InvalidField("INVALID_RESUME_TOKEN", "resume_token",
                        fmt::format("not a token of a watch of {}; leave it out to start with a "
                                    "snapshot",
                                    request.name()));
  }
  start.cursor.sequence = sequence;
  return start;
}

absl::StatusOr<std::vector<JobEvent>> Queue::ReadWatch(WatchCursor& cursor, int limit) {
  TEQ_ASSIGN_OR_RETURN(std::vector<JobEvent> events,
                       deps_.store->ReadEvents(cursor.key, cursor.sequence, limit));
  for (const JobEvent& event : events) {
    if (event.has_state_change()) cursor.state = event.state_change().to();
  }
  if (!events.empty()) cursor.sequence = events.back().sequence();
  return events;
}

}  // namespace teq::queue
