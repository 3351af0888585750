#include "client/cli/commands.h"

#include <algorithm>
#include <array>
#include <boost/uuid/random_generator.hpp>
#include <boost/uuid/uuid_io.hpp>
#include <chrono>
#include <limits>
#include <ostream>
#include <utility>

#include "absl/status/statusor.h"
#include "client/api/grpc_status.h"
#include "client/cli/read_job_file.h"
#include "client/cli/render.h"
#include "client/cli/text.h"
#include "client/cli/usage.h"
#include "client/cli/watch.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/resource_name.h"
#include "proto/spec/validate.h"
#include "proto/spec/yaml.h"

namespace teq::cli {
namespace {

using teq::v1::Job;
using Stub = teq::v1::JobService::StubInterface;

constexpr int kUpdateTries = 10;
constexpr std::int32_t kPageSize = 200;

absl::Status Invalid(std::string_view reason, std::string_view message) {
  return Error(absl::StatusCode::kInvalidArgument, reason, message);
}

// ---- Answers ----

std::string NameAndState(const Job& job) {
  return fmt::format("{}  {}\n", Printable(job.name()), StateName(job.state()));
}

// ---- Calls ----

template <typename Request, typename Response>
absl::StatusOr<Response> Call(const Session& session,
                              grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                           Response*),
                              const Request& request) {
  return CallService(session.stub, method, request, kCallTimeout, session.traceparent);
}

// A verb whose request holds a name and whose answer is the job.
template <typename Request>
ExitCode CallByName(const Session& session, const std::string& name,
                    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Job*),
                    std::string (*text)(const Job&)) {
  const auto full_name = FullName(session, name);
  if (!full_name.ok()) return FailLocally(session, full_name.status());
  Request request;
  request.set_name(*full_name);
  const auto job = Call(session, method, request);
  if (!job.ok()) return FailRemotely(session, job.status());
  Print(session, *job, text(*job));
  return kOk;
}

absl::StatusOr<Job> GetByName(const Session& session, const std::string& full_name) {
  teq::v1::GetJobRequest request;
  request.set_name(full_name);
  return Call(session, &Stub::GetJob, request);
}

// ---- Submit ----

absl::StatusOr<teq::v1::CreateJobRequest> MakeCreateRequest(const Session& session,
                                                            const SubmitOptions& options) {
  TEQ_ASSIGN_OR_RETURN(JobFile job_file, ReadJobFile(session.terminal, options.file));
  if (!options.job_id.empty() && !IsResourceId(options.job_id)) {
    return Invalid("INVALID_NAME",
                   fmt::format("--job-id \"{}\" is not an id; use 1 to 63 of a-z, 0-9 and '-'",
                               options.job_id));
  }
  TEQ_ASSIGN_OR_RETURN(const std::string project, ProjectOf(session, job_file.project));
  teq::v1::CreateJobRequest request;
  request.set_parent("projects/" + project);
  *request.mutable_job() = std::move(job_file.job);
  request.set_job_id(options.job_id);
  request.set_request_id(options.request_id.empty()
                             ? boost::uuids::to_string(boost::uuids::random_generator()())
                             : options.request_id);
  request.set_validate_only(options.validate_only);
  return request;
}

std::string HowToWatchAgain(const Session& session, const std::string& name) {
  const std::string server =
      session.server == kDefaultServer ? "" : fmt::format(" --server {}", session.server);
  return fmt::format("the job goes on; see it again with: teqctl watch {}{}\n", name, server);
}

ExitCode WatchToTheEnd(const Session& session, const Job& job) {
  const Terminal& terminal = session.terminal;
  // With -o json or yaml, standard output holds the job as it ended and nothing else.
  const bool to_out = session.format == Format::kTable;
  const WatchDisplay display{to_out ? terminal.out : terminal.err,
                             to_out ? terminal.out_is_terminal : terminal.err_is_terminal};
  const auto result = WatchJob(session.stub, job, terminal, display);
  if (!result.ok()) {
    const ExitCode code = FailRemotely(session, result.status());
    terminal.err << HowToWatchAgain(session, job.name());
    return code;
  }
  if (result->interrupted) {
    terminal.err << HowToWatchAgain(session, job.name());
    return kInterrupted;
  }
  Print(session, result->job, JobSummary(result->job));
  return result->job.state() == Job::STATE_SUCCEEDED ? kOk : kNotAsExpected;
}

// ---- Update ----

absl::Status ChangeLabels(const UpdateOptions& options, Job& job) {
  for (const std::string& label : options.labels) {
    const std::size_t equals = label.find('=');
    if (equals == std::string::npos) {
      return Invalid("INVALID_LABEL",
                     fmt::format("--label \"{}\" has no '='; write --label key=value", label));
    }
    (*job.mutable_labels())[label.substr(0, equals)] = label.substr(equals + 1);
  }
  for (const std::string& key : options.removed_labels) job.mutable_labels()->erase(key);
  return ValidateAttributes(job);
}

// The labels are a whole, so a change of some reads them first and insists that they are still
// those.
absl::StatusOr<Job> UpdateOnce(const Session& session, const std::string& full_name,
                               const UpdateOptions& options) {
  teq::v1::UpdateJobRequest request;
  Job& job = *request.mutable_job();
  job.set_name(full_name);
  if (options.priority) {
    job.set_priority(*options.priority);
    request.mutable_update_mask()->add_paths("priority");
  }
  if (!options.labels.empty() || !options.removed_labels.empty()) {
    TEQ_ASSIGN_OR_RETURN(const Job current, GetByName(session, full_name));
    job.set_etag(current.etag());
    *job.mutable_labels() = current.labels();
    TEQ_RETURN_IF_ERROR(ChangeLabels(options, job));
    request.mutable_update_mask()->add_paths("labels");
  }
  return Call(session, &Stub::UpdateJob, request);
}

}  // namespace

ExitCode Submit(const Session& session, const SubmitOptions& options) {
  const auto request = MakeCreateRequest(session, options);
  if (!request.ok()) return FailLocally(session, request.status());
  const auto job = Call(session, &Stub::CreateJob, *request);
  if (!job.ok()) return FailRemotely(session, job.status());
  if (options.validate_only) {
    Print(session, *job, fmt::format("{} is valid; nothing was submitted\n", options.file));
    return kOk;
  }
  if (!options.watch) {
    Print(session, *job, NameAndState(*job));
    return kOk;
  }
  return WatchToTheEnd(session, *job);
}

ExitCode Get(const Session& session, const std::string& name) {
  return CallByName(session, name, &Stub::GetJob, &JobDetails);
}

ExitCode Cancel(const Session& session, const std::string& name) {
  return CallByName(session, name, &Stub::CancelJob, &NameAndState);
}

ExitCode Retry(const Session& session, const std::string& name) {
  return CallByName(session, name, &Stub::RetryJob, &NameAndState);
}

ExitCode Delete(const Session& session, const std::string& name) {
  const auto full_name = FullName(session, name);
  if (!full_name.ok()) return FailLocally(session, full_name.status());
  teq::v1::DeleteJobRequest request;
  request.set_name(*full_name);
  const auto empty = Call(session, &Stub::DeleteJob, request);
  if (!empty.ok()) return FailRemotely(session, empty.status());
  Print(session, *empty, fmt::format("{}  deleted\n", *full_name));
  return kOk;
}

ExitCode List(const Session& session, const ListOptions& options) {
  const auto project = ProjectOf(session, "default");
  if (!project.ok()) return FailLocally(session, project.status());
  const std::int64_t limit =
      options.limit > 0 ? options.limit : std::numeric_limits<std::int64_t>::max();
  teq::v1::ListJobsRequest request;
  request.set_parent("projects/" + *project);
  request.set_filter(options.filter);
  request.set_page_size(static_cast<std::int32_t>(std::min<std::int64_t>(limit, kPageSize)));
  std::vector<Job> jobs;
  do {
    const auto page = Call(session, &Stub::ListJobs, request);
    if (!page.ok()) return FailRemotely(session, page.status());
    for (const Job& job : page->jobs()) {
      if (std::ssize(jobs) < limit) jobs.push_back(job);
    }
    request.set_page_token(page->next_page_token());
  } while (!request.page_token().empty() && std::ssize(jobs) < limit);

  if (session.format == Format::kTable) {
    session.terminal.out << JobTable(jobs);
    return kOk;
  }
  auto list = nlohmann::ordered_json::array();
  for (const Job& job : jobs) list.push_back(ToJson(job));
  PrintJson(session, list);
  return kOk;
}

ExitCode Watch(const Session& session, const std::string& name) {
  const auto full_name = FullName(session, name);
  if (!full_name.ok()) return FailLocally(session, full_name.status());
  const auto job = GetByName(session, *full_name);
  if (!job.ok()) return FailRemotely(session, job.status());
  return WatchToTheEnd(session, *job);
}

ExitCode Update(const Session& session, const UpdateOptions& options) {
  if (!options.priority && options.labels.empty() && options.removed_labels.empty()) {
    return FailLocally(session,
                       Usage("nothing to change; give --priority, --label or --remove-label"));
  }
  const auto full_name = FullName(session, options.name);
  if (!full_name.ok()) return FailLocally(session, full_name.status());
  Job probe;
  if (const absl::Status labels = ChangeLabels(options, probe); !labels.ok()) {
    return FailLocally(session, labels);
  }
  absl::StatusOr<Job> job = UpdateOnce(session, *full_name, options);
  // The etag changes with every heartbeat of a running job.
  for (int tries = 1; absl::IsAborted(job.status()) && tries < kUpdateTries; ++tries) {
    job = UpdateOnce(session, *full_name, options);
  }
  if (!job.ok()) return FailRemotely(session, job.status());
  Print(session, *job, JobTable({*job}));
  return kOk;
}

ExitCode ShowReport(const Session& session, const std::string& name) {
  const auto full_name = FullName(session, name);
  if (!full_name.ok()) return FailLocally(session, full_name.status());
  const auto job = GetByName(session, *full_name);
  if (!job.ok()) return FailRemotely(session, job.status());
  if (!job->has_report()) {
    return FailRemotely(
        session, Error(absl::StatusCode::kFailedPrecondition, "NO_REPORT",
                       fmt::format("{} is {} and has no report; one comes when its run has ended",
                                   job->name(), StateName(job->state()))));
  }
  Print(session, job->report(), ReportText(job->report()));
  return kOk;
}

}  // namespace teq::cli
