#include "worker/agent/agent.h"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <system_error>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "boost/asio/executor_work_guard.hpp"
#include "boost/asio/io_context.hpp"
#include "boost/asio/post.hpp"
#include "boost/asio/signal_set.hpp"
#include "boost/asio/steady_timer.hpp"
#include "boost/asio/thread_pool.hpp"
#include "boost/uuid/random_generator.hpp"
#include "boost/uuid/uuid_io.hpp"
#include "client/api/channel.h"
#include "client/objects/manifest.h"
#include "client/objects/object_store.h"
#include "client/objects/publication.h"
#include "fmt/format.h"
#include "google/protobuf/util/time_util.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/trace_parent.h"
#include "proto/spec/validate.h"
#include "worker/agent/crash_point.h"
#include "worker/agent/engine_process.h"
#include "worker/agent/worker_client.h"

namespace teq::agent {
namespace {

namespace asio = boost::asio;
using google::protobuf::util::TimeUtil;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration kCallTimeout = seconds(10);
constexpr Duration kShortestCallTimeout = seconds(1);
// A report may be large and the store slow.
constexpr Duration kCompleteTimeout = seconds(30);
constexpr Duration kFirstRetry = milliseconds(500);
constexpr Duration kLongestRetry = seconds(10);
// A server that answers an empty poll at once is not asked again at once.
constexpr Duration kShortestPoll = milliseconds(500);
// Between jobs whose engines say nothing; the first one doubles.
constexpr Duration kFirstPause = seconds(1);
constexpr Duration kLongestPause = seconds(60);

template <typename... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};
template <typename... Handlers>
Overloaded(Handlers...) -> Overloaded<Handlers...>;

TimePoint Now() { return std::chrono::steady_clock::now(); }

google::protobuf::Duration ToProto(Duration duration) {
  return TimeUtil::NanosecondsToDuration(
      std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

// Whether a call that ended so may succeed later.
bool MayRepeat(const absl::Status& status) {
  return IsUnreachable(status) || absl::IsInternal(status) || absl::IsResourceExhausted(status);
}

// Whether this machine sees the output's directory: only then is what it does not find there gone.
absl::Status CheckSeen(const std::string& output_uri, const UriPolicy& policy) {
  TEQ_ASSIGN_OR_RETURN(const Location output, ResolveLocation(output_uri, UriUse::kOutput, policy));
  if (output.scheme != Location::Scheme::kFile) return absl::OkStatus();
  std::error_code error;
  const std::filesystem::directory_iterator entries(output.path, error);
  if (!error) return absl::OkStatus();
  return Error(
      absl::StatusCode::kUnavailable, "READ_FAILED",
      fmt::format("{}: this machine does not see the output's directory: {}; mount it, and "
                  "let the worker's user read it",
                  output.path.string(), error.message()));
}

class Agent {
 public:
  Agent(const AgentOptions& options, const AgentDeps& deps)
      : options_(options),
        metrics_(*deps.metrics),
        log_(deps.log->About({.worker = options.worker_id})),
        boot_id_(boost::uuids::to_string(boost::uuids::random_generator()())),
        client_(io_, client::Connect(options.server, client::Retries::kByCaller)) {}

  ~Agent() {
    disk_.join();
    engine_.reset();
  }
  Agent(const Agent&) = delete;
  Agent& operator=(const Agent&) = delete;

  int Run() {
    const auto work = asio::make_work_guard(io_);
    WaitForSignal();
    Calibrate();
    io_.run();
    return exit_code_;
  }

 private:
  using DiskTask = std::function<absl::Status()>;

  void Exit(int code) {
    exit_code_ = code;
    io_.stop();
  }

  // Whether there was more than the CPU at the start. CUDA devices are counted then; an HPU is
  // offered for its plugin, and was there if it was measured.
  bool HasDevice() const {
    if (std::ranges::find(options_.devices, teq::v1::DEVICE_CUDA) != options_.devices.end()) {
      return true;
    }
    return std::ranges::any_of(calibrated_.calibrations(), [](const auto& calibration) {
      return calibration.device() != teq::v1::DEVICE_CPU;
    });
  }
  // Whether the engine measured what there is, and an HPU that was to be there is not.
  bool HpuIsMissing() const {
    const auto& measured = calibrated_.calibrations();
    return !measured.empty() &&
           std::ranges::find(options_.devices, teq::v1::DEVICE_HPU) != options_.devices.end() &&
           std::ranges::none_of(measured, [](const auto& calibration) {
             return calibration.device() == teq::v1::DEVICE_HPU;
           });
  }
  bool IsBatch() const { return options_.max_jobs > 0 || options_.exit_when_idle; }
  double Jitter() { return std::uniform_real_distribution<double>(0.0, 1.0)(random_); }

  // ---- Signals ----------------------------------------------------------------------------------

  void WaitForSignal() {
    signals_.async_wait([this](const boost::system::error_code& error, int signal) {
      if (error) return;
      OnSignal(signal);
      WaitForSignal();
    });
  }

  void OnSignal(int signal) {
    if (draining_) {
      log_->warn("signal {} again: stopping at once", signal);
      go_on_ = false;
      if (engine_) engine_->Kill();
      Exit(kExitAtOnce);
      return;
    }
    log_->info("signal {}: stopping", signal);
    draining_ = true;
    if (machine_) {
      Do(machine_->OnDrain(Now()));
    } else if (calling_) {
      // The answer may hold a lease, which has to go back.
      client_.CancelAll();
    } else {
      Exit(kExitOk);
    }
  }

  // ---- Session ----------------------------------------------------------------------------------

  // Once a process: the figures stay for later registrations.
  void Calibrate() {
    if (options_.calibration_command.empty()) return Register();
    auto started = EngineProcess::Calibrate(
        io_, options_.calibration_command,
        {.on_event =
             [this](const teq::v1::EngineEvent& event) {
               if (event.has_calibrated()) calibrated_ = event.calibrated();
             },
         .on_exit = [this](const std::string& how) { OnCalibrated(how); },
         .on_line = [log = log_](const std::string& line) { log->warn("calibration: {}", line); }});
    if (!started.ok()) {
      log_->warn("the devices were not measured: {}", ErrorText(started.status()));
      return Register();
    }
    engine_ = *std::move(started);
    Later(options_.calibration_limit, [this] {
      if (!engine_) return;
      calibration_overdue_ = true;
      engine_->Kill();
    });
  }

  void OnCalibrated(const std::string& how) {
    retry_timer_.cancel();
    engine_.reset();
    if (calibrated_.calibrations().empty()) {
      const double limit = std::chrono::duration<double>(options_.calibration_limit).count();
      log_->warn("the devices were not measured: the engine {}",
                 calibration_overdue_ ? fmt::format("did not answer within {:g} s", limit) : how);
    }
    for (const auto& calibration : calibrated_.calibrations()) {
      log_->info("{}: {:.0f} GFLOP/s, copies {:.1f} GB/s, has {} MiB",
                 ShortEnumName(teq::v1::Device_descriptor(), calibration.device()),
                 calibration.operations_per_second() / 1e9,
                 calibration.copied_bytes_per_second() / 1e9, calibration.memory_bytes() >> 20);
    }
    if (HpuIsMissing()) {
      log_->error(
          "DEVICE_NOT_AVAILABLE: the HPU that hpu_plugin is for cannot be used, see the lines of "
          "the calibration above; mend it, or start the worker without an hpu_plugin");
      return Exit(kExitError);
    }
    Register();
  }

  void Register() {
    teq::v1::RegisterWorkerRequest request;
    request.set_worker_id(options_.worker_id);
    request.set_boot_id(boot_id_);
    request.mutable_capabilities()->set_engine_version(options_.engine_version);
    for (const teq::v1::Device device : options_.devices) {
      request.mutable_capabilities()->add_devices(device);
    }
    *request.mutable_capabilities()->mutable_calibrations() = calibrated_.calibrations();
    calling_ = true;
    client_.RegisterWorker(request, kCallTimeout,
                           [this](const absl::StatusOr<teq::v1::RegisterWorkerResponse>& response) {
                             calling_ = false;
                             if (draining_) return Exit(kExitOk);
                             if (!response.ok()) return OnRegisterFailed(response.status());
                             session_ = response->worker_session();
                             log_->info("registered as {} with {}", options_.worker_id,
                                        options_.server);
                             Acquire();
                           });
  }

  void OnRegisterFailed(const absl::Status& status) {
    if (MayRepeat(status)) {
      RetryLater(status, [this] { Register(); });
      return;
    }
    log_->error("{} refuses this worker: {}", options_.server, ErrorText(status));
    Exit(kExitError);
  }

  void Acquire() {
    teq::v1::AcquireLeaseRequest request;
    request.set_worker_session(session_);
    *request.mutable_max_wait() = ToProto(options_.poll_wait);
    calling_ = true;
    client_.AcquireLease(
        request, options_.poll_wait + kCallTimeout,
        [this, sent = Now()](const absl::StatusOr<teq::v1::AcquireLeaseResponse>& response) {
          calling_ = false;
          OnAcquired(response, sent);
        });
  }

  void OnAcquired(const absl::StatusOr<teq::v1::AcquireLeaseResponse>& response, TimePoint sent) {
    if (response.ok()) Reached();
    if (draining_) {
      if (!response.ok() || !response->has_lease()) return Exit(kExitOk);
      return GiveBack(response->lease(), Now() + options_.timings.drain_limit);
    }
    if (!response.ok()) return OnAcquireFailed(response.status());
    if (response->has_lease()) return Begin(response->lease(), sent);
    if (options_.exit_when_idle) {
      log_->info("nothing to do: stopping");
      return Exit(kExitOk);
    }
    if (Now() - sent < std::min(kShortestPoll, options_.poll_wait)) {
      return Later(kShortestPoll, [this] { Acquire(); });
    }
    Acquire();
  }

  void OnAcquireFailed(const absl::Status& status) {
    if (absl::IsNotFound(status)) {
      log_->warn("the server does not know this session any more: registering again");
    }
    if (ErrorReason(status) == "SESSION_SUPERSEDED") {
      log_->error("another process works as {}; give each worker a name of its own by --id",
                  options_.worker_id);
      Exit(kExitError);
    } else {
      // A new session does no harm, and heals what a server with another store lost.
      RetryLater(status, [this] { Register(); });
    }
  }

  // A lease that arrived after the order to stop.
  void GiveBack(const teq::v1::Lease& lease, TimePoint until) {
    teq::v1::ReleaseLeaseRequest request;
    request.set_lease_token(lease.lease_token());
    request.set_fence(lease.fence());
    request.set_reason(teq::v1::ReleaseLeaseRequest::REASON_DRAIN);
    client_.ReleaseLease(
        request, kCallTimeout,
        [this, lease, until](const absl::StatusOr<teq::v1::ReleaseLeaseResponse>& response) {
          if (response.ok()) return Exit(kExitOk);
          const absl::Status& status = response.status();
          if (Now() >= until || !MayRepeat(status)) return Exit(kExitUnreachable);
          RetryLater(status, [this, lease, until] { GiveBack(lease, until); });
        });
  }

  // The server has answered a poll. To be registered by one that answers no polls is of no use.
  void Reached() {
    if (unreachable_since_) log_->info("{} answers again", options_.server);
    unreachable_since_.reset();
    retries_ = 0;
  }

  void RetryLater(const absl::Status& status, std::function<void()> task) {
    const TimePoint now = Now();
    if (!unreachable_since_) {
      unreachable_since_ = now;
      log_->warn("{} cannot be used now: {}", options_.server, ErrorText(status));
    }
    if (IsBatch() && now - *unreachable_since_ >= options_.unreachable_limit) {
      log_->error("{} could not be reached for {} s", options_.server,
                  std::chrono::duration_cast<seconds>(now - *unreachable_since_).count());
      return Exit(kExitUnreachable);
    }
    Duration delay = kFirstRetry;
    for (int i = 0; i < retries_ && delay < kLongestRetry; ++i) delay *= 2;
    ++retries_;
    delay = std::min(delay, kLongestRetry);
    Later(std::chrono::duration_cast<Duration>(delay * (0.5 + 0.5 * Jitter())), std::move(task));
  }

  void Later(Duration delay, std::function<void()> task) {
    retry_timer_.expires_after(delay);
    retry_timer_.async_wait([task = std::move(task)](const boost::system::error_code& error) {
      if (!error) task();
    });
  }

  // ---- One lease --------------------------------------------------------------------------------

  void Begin(const teq::v1::Lease& lease, TimePoint sent) {
    const auto trace = ParseTraceParent(lease.traceparent());
    job_log_ = log_->About({.worker = options_.worker_id,
                            .job = lease.job(),
                            .attempt = lease.attempt(),
                            .fence = lease.fence(),
                            .trace_id = trace ? trace->trace_id : ""});
    job_log_->info("lease {} acquired, attempt {}{}, trace {}", lease.fence(), lease.attempt(),
                   lease.has_publish_only() ? ", publication only" : "",
                   trace ? trace->trace_id : "unknown");
    metrics_.LeaseAcquired();
    metrics_.BeginRun(lease.spec());
    ++lease_number_;
    stage_ = teq::v1::STAGE_UNSPECIFIED;
    export_bytes_ = 0;
    engine_is_mute_ = false;
    machine_.emplace(
        lease, sent, options_.timings, [this] { return Jitter(); }, HasDevice());
    Do(machine_->Start(Now()));
  }

  // Carries out what the machine asks for, and looks whether the lease has ended.
  void Do(const Actions& actions) {
    for (const Action& action : actions) {
      std::visit(Overloaded{[this](const StartEngine& a) { Act(a); },
                            [this](const CancelEngine&) {
                              if (engine_) engine_->Cancel();
                            },
                            [this](const KillEngine&) {
                              if (engine_) engine_->Kill();
                            },
                            [this](const RemoveAttempt&) { ActRemoveAttempt(); },
                            [this](const Publish& a) { Act(a); },
                            [this](const SendHeartbeat& a) { Act(a); },
                            [this](const SendComplete& a) { Act(a); },
                            [this](const SendRelease& a) { Act(a); }},
                 action);
    }
    if (machine_->outcome()) {
      End(*machine_->outcome());
    } else {
      ArmTimer();
    }
  }

  void ArmTimer() {
    const TimePoint next = machine_->NextTimer();
    if (next == TimePoint::max()) {
      lease_timer_.cancel();
      return;
    }
    lease_timer_.expires_at(next);
    lease_timer_.async_wait([this, number = lease_number_](const boost::system::error_code& error) {
      if (!error && IsCurrent(number)) Do(machine_->OnTimer(Now()));
    });
  }

  bool IsCurrent(int number) const { return machine_ && number == lease_number_; }

  void End(Outcome outcome) {
    lease_timer_.cancel();
    EndEngine();
    const absl::Status device_gone = machine_->device_gone();
    machine_.reset();
    switch (outcome) {
      case Outcome::kReported:
        job_log_->info("the outcome is reported");
        ++jobs_;
        break;
      case Outcome::kReleased:
        job_log_->info("back in the queue");
        break;
      case Outcome::kLost:
        job_log_->warn("the lease is lost; the result, if any, is discarded");
        if (options_.max_jobs > 0) return Exit(kExitLeaseLost);
        break;
      case Outcome::kUnreported:
        job_log_->warn("the server does not answer; its lease will expire");
        return Exit(kExitUnreachable);
    }
    if (draining_ || (options_.max_jobs > 0 && jobs_ >= options_.max_jobs)) return Exit(kExitOk);
    if (!device_gone.ok()) {
      log_->error(
          "the device is gone: {}; stopping: started again this worker offers what there is",
          ErrorText(device_gone));
      return Exit(kExitError);
    }
    if (outcome != Outcome::kReported || !engine_is_mute_) return Acquire();
    ++mute_engines_;
    // One that ends before it says anything would end the attempts of all jobs within seconds.
    const Duration pause =
        std::min(kFirstPause * (1 << std::min(mute_engines_ - 1, 10)), kLongestPause);
    log_->warn("the engine said nothing before it ended: the next job in {} s",
               std::chrono::duration_cast<seconds>(pause).count());
    Later(pause, [this] { Acquire(); });
  }

  // ---- Actions ----------------------------------------------------------------------------------

  void Act(const StartEngine& action) {
    const int number = lease_number_;
    engine_is_mute_ = true;
    auto started = EngineProcess::Start(
        io_, options_.engine_command, action.start,
        {.on_event =
             [this, number](const teq::v1::EngineEvent& event) {
               engine_is_mute_ = false;
               mute_engines_ = 0;
               if (IsCurrent(number)) OnEngineEvent(event);
             },
         .on_exit =
             [this, number](const std::string& how) {
               if (IsCurrent(number)) OnEngineExit(how);
             },
         .on_line = [log = job_log_](const std::string& line) { log->warn("engine: {}", line); }});
    if (started.ok()) {
      engine_ = *std::move(started);
      metrics_.EngineStarted(engine_->pid());
      return;
    }
    teq::v1::EngineEvent event;
    *event.mutable_failed()->mutable_status() = teq::ToProto(started.status());
    event.mutable_failed()->set_failure_class(teq::v1::FAILURE_CLASS_INFRASTRUCTURE);
    asio::post(io_, [this, number, event] {
      if (IsCurrent(number)) OnEngineEvent(event);
      if (IsCurrent(number)) OnEngineExit("was not started");
    });
  }

  void EndEngine() {
    engine_.reset();
    metrics_.EngineEnded();
  }

  void OnEngineEvent(const teq::v1::EngineEvent& event) {
    if (event.has_sample()) metrics_.Sample(event.sample());
    if (event.has_progress() && event.progress().stage() != stage_) {
      stage_ = event.progress().stage();
      job_log_->info("stage {}", ShortEnumName(teq::v1::Stage_descriptor(), stage_));
    }
    if (event.has_finished()) {
      for (const auto& artifact : event.finished().report().artifacts()) {
        export_bytes_ += artifact.bytes();
      }
    }
    Do(machine_->OnEngineEvent(event, Now()));
  }

  void OnEngineExit(const std::string& how) {
    metrics_.EngineEnded();
    job_log_->info("the engine {}", how);
    Do(machine_->OnEngineExit(how, Now()));
  }

  absl::StatusOr<objects::Publication> FindAttempt(const teq::v1::Lease& lease, int attempt,
                                                   std::int64_t fence) const {
    return objects::Publication::Find(lease.spec().output().uri(), options_.uri_policy,
                                      {.job = lease.job(),
                                       .job_uid = lease.job_uid(),
                                       .spec_digest = Digest(lease.spec()),
                                       .attempt = attempt,
                                       .fence = fence},
                                      options_.data, [this] { return go_on_.load(); });
  }

  absl::StatusOr<objects::Manifest> ReadManifest(const std::string& output_uri) const {
    TEQ_ASSIGN_OR_RETURN(
        const std::shared_ptr<objects::ObjectStore> store,
        objects::OpenStore(output_uri, options_.uri_policy, [this] { return go_on_.load(); }));
    TEQ_ASSIGN_OR_RETURN(const std::string text,
                         objects::ReadSmallObject(*store, objects::kManifestKey));
    return objects::ParseManifest(text, store->Uri(objects::kManifestKey));
  }

  // What an output's formats hold; 0 where its manifest cannot be read.
  std::int64_t PublishedBytes(const std::string& output_uri) const {
    const absl::StatusOr<objects::Manifest> manifest = ReadManifest(output_uri);
    std::int64_t bytes = 0;
    if (!manifest.ok()) return bytes;
    for (const auto& artifact : manifest->artifacts) bytes += artifact.bytes();
    return bytes;
  }

  // Runs `task` where it may wait for a disk, then `then` on this thread if the lease still
  // matters.
  void OnDisk(DiskTask task, std::function<void(const absl::Status&)> then) {
    asio::post(disk_, [this, number = lease_number_, task = std::move(task),
                       then = std::move(then)]() mutable {
      asio::post(io_, [this, number, status = task(), then = std::move(then)] {
        if (IsCurrent(number)) then(status);
      });
    });
  }

  void ActRemoveAttempt() {
    EndEngine();
    OnDisk(
        [this, lease = machine_->lease()]() -> absl::Status {
          TEQ_ASSIGN_OR_RETURN(objects::Publication publication,
                               FindAttempt(lease, lease.attempt(), lease.fence()));
          return publication.Abandon();
        },
        [this](const absl::Status& status) {
          if (!status.ok()) {
            job_log_->warn("its files are left over: {}", ErrorText(status));
          }
          Do(machine_->OnAttemptRemoved(Now()));
        });
  }

  void Act(const Publish& action) {
    EndEngine();
    const auto bytes = std::make_shared<std::int64_t>(export_bytes_);
    OnDisk(
        [this, lease = machine_->lease(), action, bytes]() -> absl::Status {
          const std::string& output_uri = lease.spec().output().uri();
          TEQ_RETURN_IF_ERROR(CheckSeen(output_uri, options_.uri_policy));
          TEQ_ASSIGN_OR_RETURN(objects::Publication publication,
                               FindAttempt(lease, action.attempt, action.fence));
          TEQ_RETURN_IF_ERROR(publication.Publish(action.manifest_sha256, CrashPoint));
          // No report of this process tells them.
          if (lease.has_publish_only()) *bytes = PublishedBytes(output_uri);
          return absl::OkStatus();
        },
        [this, bytes](const absl::Status& status) {
          if (status.ok()) {
            metrics_.Exported(static_cast<double>(*bytes));
          } else {
            job_log_->error("publication failed: {}", ErrorText(status));
          }
          Do(machine_->OnPublished(status, Now()));
        });
  }

  Duration HeartbeatTimeout() const {
    const Duration third = std::chrono::nanoseconds(TimeUtil::DurationToNanoseconds(
                               machine_->lease().lease_duration())) /
                           3;
    return std::clamp(third, kShortestCallTimeout, kCallTimeout);
  }

  void Act(const SendHeartbeat& action) {
    client_.Heartbeat(action.request, HeartbeatTimeout(),
                      [this, number = lease_number_,
                       sent = Now()](const absl::StatusOr<teq::v1::HeartbeatResponse>& response) {
                        if (!IsCurrent(number)) return;
                        TellHeartbeat(response.status());
                        Do(machine_->OnHeartbeat(response, sent, Now()));
                      });
  }

  void TellHeartbeat(const absl::Status& status) {
    if (status.ok() && std::exchange(heartbeats_fail_, false)) {
      job_log_->info("heartbeats are answered again");
    }
    if (!status.ok() && !std::exchange(heartbeats_fail_, true)) {
      job_log_->warn("a heartbeat failed: {}", ErrorText(status));
    }
  }

  void Act(const SendComplete& action) {
    if (action.request.has_success()) CrashPoint("complete_success");
    if (action.request.has_published()) CrashPoint("complete_published");
    // Once, however often it has to be sent.
    if (action.request.has_failure() &&
        std::exchange(failed_lease_, lease_number_) != lease_number_) {
      const auto& failure = action.request.failure();
      job_log_->error("failed: {}", ErrorText(FromProto(failure.status())));
      metrics_.EngineFailed(failure.failure_class());
    }
    client_.CompleteLease(action.request, kCompleteTimeout,
                          [this, number = lease_number_](
                              const absl::StatusOr<teq::v1::CompleteLeaseResponse>& response) {
                            if (IsCurrent(number)) {
                              Do(machine_->OnComplete(response.status(), Now()));
                            }
                          });
  }

  void Act(const SendRelease& action) {
    client_.ReleaseLease(action.request, kCallTimeout,
                         [this, number = lease_number_](
                             const absl::StatusOr<teq::v1::ReleaseLeaseResponse>& response) {
                           if (IsCurrent(number)) {
                             Do(machine_->OnRelease(response.status(), Now()));
                           }
                         });
  }

  const AgentOptions& options_;
  WorkerMetrics& metrics_;
  const std::shared_ptr<logs::Logger> log_;
  std::shared_ptr<logs::Logger> job_log_;  // for lines about the lease that is held
  const std::string boot_id_;
  std::mt19937_64 random_{std::random_device{}()};

  std::atomic<bool> go_on_ = true;  // false: what runs on `disk_` ends soon
  asio::io_context io_{1};
  asio::thread_pool disk_{1};
  asio::signal_set signals_{io_, SIGTERM, SIGINT};
  asio::steady_timer retry_timer_{io_};
  asio::steady_timer lease_timer_{io_};
  WorkerClient client_;

  teq::v1::DevicesCalibrated calibrated_;
  bool calibration_overdue_ = false;
  std::string session_;
  bool calling_ = false;  // RegisterWorker or AcquireLease
  bool draining_ = false;
  std::optional<TimePoint> unreachable_since_;
  int retries_ = 0;
  int jobs_ = 0;
  int mute_engines_ = 0;         // the last ones, that ended without an event
  bool engine_is_mute_ = false;  // so far, the lease's
  int exit_code_ = kExitOk;

  std::optional<LeaseMachine> machine_;
  std::unique_ptr<EngineProcess> engine_;
  int lease_number_ = 0;
  int failed_lease_ = 0;
  teq::v1::Stage stage_ = teq::v1::STAGE_UNSPECIFIED;
  std::int64_t export_bytes_ = 0;
  bool heartbeats_fail_ = false;
};

}  // namespace

int RunAgent(const AgentOptions& options, const AgentDeps& deps) {
  return Agent(options, deps).Run();
}

}  // namespace teq::agent
