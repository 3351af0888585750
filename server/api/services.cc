#include "server/api/services.h"

#include <iterator>
#include <optional>
#include <utility>

#include "proto/spec/trace_parent.h"
#include "server/api/answer.h"

namespace teq::api {
namespace {

using grpc::CallbackServerContext;
using grpc::ServerUnaryReactor;

/// The caller's trace. Nothing where the call has none, a malformed one or several: as W3C Trace
/// Context has it, a trace begins here then.
std::optional<TraceParent> TraceOf(const CallbackServerContext& context) {
  const auto [first, last] = context.client_metadata().equal_range(kTraceParentKey);
  if (first == last || std::next(first) != last) return std::nullopt;
  return ParseTraceParent({first->second.data(), first->second.size()});
}

/// For answers that hold the job and nothing else.
template <typename Response>
ServerUnaryReactor* AnswerWithJob(CallbackServerContext* context, absl::StatusOr<teq::v1::Job> job,
                                  Response* response) {
  return Answer(context, std::move(job), response->mutable_job());
}

}  // namespace

ServerUnaryReactor* JobService::CreateJob(CallbackServerContext* context,
                                          const teq::v1::CreateJobRequest* request,
                                          teq::v1::Job* response) {
  return Answer(context, queue_->CreateJob(*request, TraceOf(*context)), response);
}

ServerUnaryReactor* JobService::EstimateJob(CallbackServerContext* /*context*/,
                                            const teq::v1::EstimateJobRequest* request,
                                            teq::v1::JobEstimate* response) {
  return estimates_->Run(request, response);
}

ServerUnaryReactor* JobService::GetJob(CallbackServerContext* context,
                                       const teq::v1::GetJobRequest* request,
                                       teq::v1::Job* response) {
  return Answer(context, queue_->GetJob(*request), response);
}

ServerUnaryReactor* JobService::ListJobs(CallbackServerContext* context,
                                         const teq::v1::ListJobsRequest* request,
                                         teq::v1::ListJobsResponse* response) {
  return Answer(context, queue_->ListJobs(*request), response);
}

ServerUnaryReactor* JobService::UpdateJob(CallbackServerContext* context,
                                          const teq::v1::UpdateJobRequest* request,
                                          teq::v1::Job* response) {
  return Answer(context, queue_->UpdateJob(*request), response);
}

ServerUnaryReactor* JobService::CancelJob(CallbackServerContext* context,
                                          const teq::v1::CancelJobRequest* request,
                                          teq::v1::Job* response) {
  return Answer(context, queue_->CancelJob(*request), response);
}

ServerUnaryReactor* JobService::RetryJob(CallbackServerContext* context,
                                         const teq::v1::RetryJobRequest* request,
                                         teq::v1::Job* response) {
  return Answer(context, queue_->RetryJob(*request), response);
}

ServerUnaryReactor* JobService::DeleteJob(CallbackServerContext* context,
                                          const teq::v1::DeleteJobRequest* request,
                                          google::protobuf::Empty* /*response*/) {
  ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToAnswer(queue_->DeleteJob(*request)));
  return reactor;
}

grpc::ServerWriteReactor<teq::v1::WatchJobResponse>* JobService::WatchJob(
    CallbackServerContext* /*context*/, const teq::v1::WatchJobRequest* request) {
  return watches_->Open(*request);
}

ServerUnaryReactor* WorkerService::RegisterWorker(CallbackServerContext* context,
                                                  const teq::v1::RegisterWorkerRequest* request,
                                                  teq::v1::RegisterWorkerResponse* response) {
  return Answer(context, queue_->RegisterWorker(*request), response);
}

ServerUnaryReactor* WorkerService::AcquireLease(CallbackServerContext* context,
                                                const teq::v1::AcquireLeaseRequest* request,
                                                teq::v1::AcquireLeaseResponse* response) {
  return polls_->Acquire(context, *request, response);
}

ServerUnaryReactor* WorkerService::Heartbeat(CallbackServerContext* context,
                                             const teq::v1::HeartbeatRequest* request,
                                             teq::v1::HeartbeatResponse* response) {
  return Answer(context, queue_->Heartbeat(*request), response);
}

ServerUnaryReactor* WorkerService::CompleteLease(CallbackServerContext* context,
                                                 const teq::v1::CompleteLeaseRequest* request,
                                                 teq::v1::CompleteLeaseResponse* response) {
  return AnswerWithJob(context, queue_->CompleteLease(*request), response);
}

ServerUnaryReactor* WorkerService::ReleaseLease(CallbackServerContext* context,
                                                const teq::v1::ReleaseLeaseRequest* request,
                                                teq::v1::ReleaseLeaseResponse* response) {
  return AnswerWithJob(context, queue_->ReleaseLease(*request), response);
}

}  // namespace teq::api
