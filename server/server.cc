#include "server/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <thread>
#include <utility>

#include "client/api/channel.h"
#include "client/model_info/plan.h"
#include "client/side_port/address.h"
#include "client/side_port/http_server.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "server/api/answer.h"
#include "server/api/artifact_service.h"
#include "server/api/estimates.h"
#include "server/api/lease_polls.h"
#include "server/api/services.h"
#include "server/api/watch_hub.h"
#include "server/call_metrics.h"
#include "server/http/metrics.h"
#include "server/job_log.h"
#include "server/queue/artifact_catalog.h"
#include "server/queue/queue.h"
#include "server/store/data_directory.h"
#include "server/store/sqlite_store.h"
#include "spdlog/spdlog.h"

namespace teq::server {
namespace {

constexpr auto kReapInterval = std::chrono::milliseconds(500);

/// What the model's headers tell at submission. A model that this machine does not see, or that
/// would have to be fetched, is the worker's to check.
absl::Status CheckInputs(const teq::v1::JobSpec& spec, const UriPolicy& policy) {
  TEQ_ASSIGN_OR_RETURN(const Location model,
                       ResolveLocation(spec.model().uri(), UriUse::kModel, policy));
  if (model.scheme != Location::Scheme::kFile) return absl::OkStatus();
  std::error_code unseen;
  if (!std::filesystem::exists(model.path / "config.json", unseen)) return absl::OkStatus();
  return model_info::CheckModel(spec, model.path);
}

queue::QueueOptions QueueOptionsOf(const Config& config) {
  queue::QueueOptions options;
  options.lease_duration = config.lease_duration;
  options.uri_policy.allowed_prefixes = config.uri_prefixes;
  options.check_inputs = [policy = options.uri_policy](const teq::v1::JobSpec& spec) {
    return CheckInputs(spec, policy);
  };
  options.limits.queued_jobs_per_project = config.limits.queued_jobs_per_project;
  options.limits.spec_bytes = config.limits.spec_bytes;
  options.limits.events_per_job = config.limits.events_per_job;
  return options;
}

void SetChannelArguments(grpc::ServerBuilder& builder) {
  // Two servers on one port would share its calls; the second has to fail instead.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Clients keep idle connections alive every 30 s; gRPC's own limit would cut them.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Connections move to other servers behind a balancer; watches resume by their token.
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, 30 * 60 * 1000);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS, 60 * 1000);
}

}  // namespace

class Server::Impl {
 public:
  Impl(const Config& config, store::DataDirectory directory,
       std::unique_ptr<store::SqliteStore> store, std::shared_ptr<const logs::Logger> log)
      : config_(config),
        directory_(std::move(directory)),
        store_(std::move(store)),
        queue_(QueueOptionsOf(config),
               {.store = store_.get(), .clock = &clock_, .random = &random_}),
        watches_({.max_streams = config.limits.watch_streams}, &queue_),
        polls_({.max_waiting = config.limits.waiting_workers}, &queue_),
        metrics_({.max_jobs = config.limits.metrics_jobs,
                  .max_projects = config.limits.metrics_projects},
                 {.store = store_.get(),
                  .clock = &clock_,
                  .watch_streams = [this] { return watches_.StreamCount(); },
                  .coalesced_events = [this] { return watches_.CoalescedEvents(); },
                  .data = config.data}),
        job_log_(std::move(log)),
        estimates_({.uri_policy = {.allowed_prefixes = config.uri_prefixes}}, store_.get(),
                   &clock_),
        jobs_(&queue_, &watches_, &estimates_),
        workers_(&queue_, &polls_),
        catalog_(store_.get()),
        artifacts_({.uri_policy = {.allowed_prefixes = config.uri_prefixes}}, &catalog_) {
    store_->ReportOperations([this](std::string_view operation, absl::Duration duration) {
      metrics_.OnStoreOperation(operation, duration);
    });
    queue_.AddObserver(&metrics_);
    queue_.AddObserver(&watches_);
    queue_.AddObserver(&polls_);
    queue_.AddObserver(&job_log_);
  }
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  ~Impl() { Drain(); }

  absl::Status Start() {
    TEQ_RETURN_IF_ERROR(metrics_.Restore());
    TEQ_RETURN_IF_ERROR(queue_.Start());
    TEQ_ASSIGN_OR_RETURN(http_, http::HttpServer::Start({.address = config_.http},
                                                        {.metrics = [this] { return Render(); },
                                                         .ready = [this] { return Ready(); }}));
    TEQ_RETURN_IF_ERROR(StartGrpc());
    reaper_ = std::thread([this] { Reap(); });
    return absl::OkStatus();
  }

  void Drain() {
    if (draining_.exchange(true)) return;
    StopReaper();
    if (grpc_ == nullptr) return;
    grpc_->GetHealthCheckService()->SetServingStatus(false);
    watches_.Drain();
    polls_.Drain();
    estimates_.Drain();
    artifacts_.Drain();
    grpc_->Shutdown(std::chrono::system_clock::now() +
                    absl::ToChronoMilliseconds(config_.drain_timeout));
    grpc_->Wait();
  }

  [[nodiscard]] const std::string& grpc_address() const { return grpc_address_; }
  [[nodiscard]] const std::string& http_address() const { return http_->address(); }

 private:
  absl::Status StartGrpc() {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    TEQ_ASSIGN_OR_RETURN(http::HostPort address, http::ParseHostPort(config_.listen));
    grpc::ServerBuilder builder;
    SetChannelArguments(builder);
    // What jobs may ask for is bounded by limits.spec_bytes.
    builder.SetMaxReceiveMessageSize(client::kMaxMessageBytes);
    int port = 0;
    builder.AddListeningPort(address.ToString(), grpc::InsecureServerCredentials(), &port);
    std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> creators;
    creators.push_back(CountCalls([this](const http::CallRecord& call) { metrics_.OnCall(call); }));
    builder.experimental().SetInterceptorCreators(std::move(creators));
    builder.RegisterService(&jobs_);
    builder.RegisterService(&workers_);
    builder.RegisterService(&artifacts_);
    grpc_ = builder.BuildAndStart();
    if (grpc_ == nullptr || port == 0) {
      return Error(
          absl::StatusCode::kUnavailable, "ADDRESS_UNAVAILABLE",
          fmt::format("{}: cannot listen: the address is in use, or is not this machine's; "
                      "stop the program that uses it, or choose another by --listen",
                      config_.listen));
    }
    address.port = static_cast<uint16_t>(port);
    grpc_address_ = address.ToString();
    // A probe that names a service gets NOT_FOUND until its status was set.
    for (const char* service :
         {teq::v1::JobService::service_full_name(), teq::v1::WorkerService::service_full_name(),
          teq::v1::ArtifactService::service_full_name()}) {
      grpc_->GetHealthCheckService()->SetServingStatus(service, true);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Render() { return metrics_.Render(); }

  absl::Status Ready() {
    if (draining_) return api::Draining();
    return store_->ReadStatistics().status();
  }

  /// Workers cannot reach a server that stops: their silence must not count.
  void StopReaper() {
    {
      const std::lock_guard lock(reaper_mutex_);
      stop_ = true;
    }
    reaper_wake_.notify_all();
    if (reaper_.joinable()) reaper_.join();
  }

  void Reap() {
    while (true) {
      {
        std::unique_lock lock(reaper_mutex_);
        if (reaper_wake_.wait_for(lock, kReapInterval, [this] { return stop_; })) return;
      }
      if (const absl::Status status = queue_.Reap(); !status.ok()) {
        spdlog::error("reaper: {}", ErrorText(status));
      }
    }
  }

  const Config config_;
  const store::DataDirectory directory_;
  const queue::SystemClock clock_;
  queue::SystemRandom random_;
  const std::unique_ptr<store::SqliteStore> store_;
  queue::Queue queue_;
  api::WatchHub watches_;
  api::LeasePolls polls_;
  http::Metrics metrics_;
  JobLog job_log_;
  api::Estimates estimates_;
  api::JobService jobs_;
  api::WorkerService workers_;
  queue::ArtifactCatalog catalog_;
  api::ArtifactService artifacts_;

  std::atomic<bool> draining_ = false;
  std::unique_ptr<http::HttpServer> http_;
  std::unique_ptr<grpc::Server> grpc_;
  std::string grpc_address_;

  std::mutex reaper_mutex_;
  std::condition_variable reaper_wake_;
  bool stop_ = false;
  std::thread reaper_;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Config& config,
                                                      std::shared_ptr<const logs::Logger> log) {
  TEQ_RETURN_IF_ERROR(CheckConfig(config));
  TEQ_ASSIGN_OR_RETURN(store::DataDirectory directory, store::DataDirectory::Open(config.data));
  TEQ_ASSIGN_OR_RETURN(std::unique_ptr<store::SqliteStore> store,
                       store::SqliteStore::Open(directory.DatabaseFile()));
  auto impl =
      std::make_unique<Impl>(config, std::move(directory), std::move(store), std::move(log));
  TEQ_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

const std::string& Server::grpc_address() const { return impl_->grpc_address(); }
const std::string& Server::http_address() const { return impl_->http_address(); }
void Server::Drain() { impl_->Drain(); }

}  // namespace teq::server
