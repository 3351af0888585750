#pragma once

#include "server/api/estimates.h"
#include "server/api/lease_polls.h"
#include "server/api/watch_hub.h"
#include "server/queue/queue.h"
#include "teq/v1/job_service.grpc.pb.h"
#include "teq/v1/worker_service.grpc.pb.h"

namespace teq::api {

/// teq.v1.JobService: hands every call to the queue, or to what answers it. Thread-safe; what it is
/// given outlives it.
class JobService final : public teq::v1::JobService::CallbackService {
 public:
  JobService(queue::Queue* queue, WatchHub* watches, Estimates* estimates)
      : queue_(queue), watches_(watches), estimates_(estimates) {}

  grpc::ServerUnaryReactor* CreateJob(grpc::CallbackServerContext* context,
                                      const teq::v1::CreateJobRequest* request,
                                      teq::v1::Job* response) override;
  grpc::ServerUnaryReactor* EstimateJob(grpc::CallbackServerContext* context,
                                        const teq::v1::EstimateJobRequest* request,
                                        teq::v1::JobEstimate* response) override;
  grpc::ServerUnaryReactor* GetJob(grpc::CallbackServerContext* context,
                                   const teq::v1::GetJobRequest* request,
                                   teq::v1::Job* response) override;
  grpc::ServerUnaryReactor* ListJobs(grpc::CallbackServerContext* context,
                                     const teq::v1::ListJobsRequest* request,
                                     teq::v1::ListJobsResponse* response) override;
  grpc::ServerUnaryReactor* UpdateJob(grpc::CallbackServerContext* context,
                                      const teq::v1::UpdateJobRequest* request,
                                      teq::v1::Job* response) override;
  grpc::ServerUnaryReactor* CancelJob(grpc::CallbackServerContext* context,
                                      const teq::v1::CancelJobRequest* request,
                                      teq::v1::Job* response) override;
  grpc::ServerUnaryReactor* RetryJob(grpc::CallbackServerContext* context,
                                     const teq::v1::RetryJobRequest* request,
                                     teq::v1::Job* response) override;
  grpc::ServerUnaryReactor* DeleteJob(grpc::CallbackServerContext* context,
                                      const teq::v1::DeleteJobRequest* request,
                                      google::protobuf::Empty* response) override;
  grpc::ServerWriteReactor<teq::v1::WatchJobResponse>* WatchJob(
      grpc::CallbackServerContext* context, const teq::v1::WatchJobRequest* request) override;

 private:
  queue::Queue* const queue_;
  WatchHub* const watches_;
  Estimates* const estimates_;
};

/// teq.v1.WorkerService: the same for workers.
class WorkerService final : public teq::v1::WorkerService::CallbackService {
 public:
  WorkerService(queue::Queue* queue, LeasePolls* polls) : queue_(queue), polls_(polls) {}

  grpc::ServerUnaryReactor* RegisterWorker(grpc::CallbackServerContext* context,
                                           const teq::v1::RegisterWorkerRequest* request,
                                           teq::v1::RegisterWorkerResponse* response) override;
  grpc::ServerUnaryReactor* AcquireLease(grpc::CallbackServerContext* context,
                                         const teq::v1::AcquireLeaseRequest* request,
                                         teq::v1::AcquireLeaseResponse* response) override;
  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context,
                                      const teq::v1::HeartbeatRequest* request,
                                      teq::v1::HeartbeatResponse* response) override;
  grpc::ServerUnaryReactor* CompleteLease(grpc::CallbackServerContext* context,
                                          const teq::v1::CompleteLeaseRequest* request,
                                          teq::v1::CompleteLeaseResponse* response) override;
  grpc::ServerUnaryReactor* ReleaseLease(grpc::CallbackServerContext* context,
                                         const teq::v1::ReleaseLeaseRequest* request,
                                         teq::v1::ReleaseLeaseResponse* response) override;

 private:
  queue::Queue* const queue_;
  LeasePolls* const polls_;
};

}  // namespace teq::api
