#include "worker/agent/run_job.h"

#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "boost/asio/io_context.hpp"
#include "boost/asio/signal_set.hpp"
#include "boost/asio/steady_timer.hpp"
#include "client/objects/publication.h"
#include "fmt/format.h"
#include "google/protobuf/util/time_util.h"
#include "proto/spec/error.h"
#include "proto/spec/job_file.h"
#include "proto/spec/json.h"
#include "proto/spec/validate.h"
#include "worker/agent/engine_process.h"

namespace teq::agent {
namespace {

namespace asio = boost::asio;
using google::protobuf::util::TimeUtil;

absl::StatusOr<teq::v1::JobSpec> ReadSpec(const RunJobOptions& options) {
  TEQ_ASSIGN_OR_RETURN(const std::string text, objects::ReadFile(options.job_file));
  TEQ_ASSIGN_OR_RETURN(JobFile file, ParseJobFile(text, options.job_file.string()));
  teq::v1::JobSpec spec = WithDefaults(std::move(*file.job.mutable_spec()));
  TEQ_RETURN_IF_ERROR(ValidateSpec(spec));
  TEQ_RETURN_IF_ERROR(CheckUris(spec, options.uri_policy));
  return spec;
}

void Tell(const RunJobOptions& options, spdlog::level::level_enum level, const std::string& line) {
  if (options.log != nullptr) {
    options.log->log(level, "{}", line);
  } else {
    fmt::print(options.progress, "{}\n", line);
    std::fflush(options.progress);
  }
}

void TellError(const RunJobOptions& options, const absl::Status& status) {
  const std::string why = ErrorText(status);
  Tell(options, spdlog::level::err, options.log == nullptr ? "teq-worker: " + why : why);
}

// Lines about a run.
class ProgressPrinter {
 public:
  explicit ProgressPrinter(const RunJobOptions& options) : options_(options) {}

  void Print(const teq::v1::EngineEvent& event) {
    if (event.has_progress()) Print(event.progress());
    if (event.has_sample()) Print(event.sample());
    if (event.has_perplexity()) {
      const auto& sample = event.perplexity();
      Say(fmt::format(
          "{}: perplexity {:.4f} ({})", sample.dataset(), sample.value(),
          ShortEnumName(teq::v1::PerplexitySample::Phase_descriptor(), sample.phase())));
    }
  }

 private:
  static constexpr auto kInterval = std::chrono::seconds(2);

  void Say(const std::string& line) const { Tell(options_, spdlog::level::info, line); }

  void Print(const teq::v1::Progress& progress) {
    const bool is_new = std::exchange(stage_, progress.stage()) != progress.stage();
    if (!is_new && !IsDue(last_progress_, progress.done() == progress.total())) return;
    std::string line = ShortEnumName(teq::v1::Stage_descriptor(), progress.stage());
    if (progress.total() > 0) {
      line += fmt::format(" {}/{} {}", progress.done(), progress.total(), progress.unit());
    }
    if (progress.has_remaining_seconds()) {
      line += fmt::format(", {:.0f} s left", progress.remaining_seconds());
    }
    Say(line);
  }

  void Print(const teq::v1::MetricSample& sample) {
    if (!IsDue(last_sample_, sample.step() == 1 || sample.step() == sample.total_steps())) return;
    Say(fmt::format("step {}/{}, loss {:.6g}, {:.0f} tokens/s", sample.step(), sample.total_steps(),
                    sample.loss(), sample.tokens_per_second()));
  }

  static bool IsDue(TimePoint& last, bool is_notable) {
    const TimePoint now = std::chrono::steady_clock::now();
    if (!is_notable && now - last < kInterval) return false;
    last = now;
    return true;
  }

  const RunJobOptions& options_;
  teq::v1::Stage stage_ = teq::v1::STAGE_UNSPECIFIED;
  TimePoint last_progress_;
  TimePoint last_sample_;
};

// The engine process from its start to its end; at the end either `finished` or `failed` is set.
class Run {
 public:
  Run(const RunJobOptions& options, teq::v1::JobSpec spec) : options_(options), printer_(options) {
    *start_.mutable_spec() = std::move(spec);
    start_.set_attempt(1);
    start_.set_fence(1);
  }

  void Wait() {
    auto started = EngineProcess::Start(
        io_, options_.engine_command, start_,
        {.on_event = [this](const teq::v1::EngineEvent& event) { OnEvent(event); },
         .on_exit = [this](const std::string& how) { OnExit(how); },
         .on_line =
             [this](const std::string& line) {
               Tell(options_, spdlog::level::warn, "engine: " + line);
             }});
    if (!started.ok()) {
      SetFailed(started.status(), teq::v1::FAILURE_CLASS_INFRASTRUCTURE);
      return;
    }
    engine_ = *std::move(started);
    WaitForSignal();
    const std::int64_t limit =
        TimeUtil::DurationToMilliseconds(start_.spec().limits().max_runtime());
    if (limit > 0) Arm(overdue_timer_, std::chrono::milliseconds(limit), [this] { OnOverdue(); });
    io_.run();
    engine_.reset();
  }

  [[nodiscard]] const std::optional<teq::v1::RunFinished>& finished() const { return finished_; }
  [[nodiscard]] const teq::v1::RunFailed& failed() const { return *failed_; }

 private:
  template <typename Task>
  void Arm(asio::steady_timer& timer, Duration delay, Task task) {
    timer.expires_after(delay);
    timer.async_wait([task](const boost::system::error_code& error) {
      if (!error) task();
    });
  }

  void SetFailed(const absl::Status& status, teq::v1::FailureClass failure_class) {
    failed_.emplace();
    *failed_->mutable_status() = ToProto(status);
    failed_->set_failure_class(failure_class);
  }

  void OnEvent(const teq::v1::EngineEvent& event) {
    printer_.Print(event);
    if (event.has_finished()) finished_ = event.finished();
    if (event.has_failed()) failed_ = event.failed();
    if (finished_ || failed_) Arm(kill_timer_, options_.exit_grace, [this] { engine_->Kill(); });
  }

  // Whether the engine told an outcome of its own, not that it was stopped.
  [[nodiscard]] bool HasOutcome() const {
    return finished_ || (failed_ && !absl::IsCancelled(FromProto(failed_->status())));
  }

  void OnExit(const std::string& how) {
    if (overdue_ && !HasOutcome()) {
      SetFailed(
          Error(absl::StatusCode::kDeadlineExceeded, "MAX_RUNTIME_EXCEEDED",
                "the run took longer than limits.max_runtime; raise it, or ask for less work"),
          teq::v1::FAILURE_CLASS_USER_ERROR);
    } else if (cancelled_ && !HasOutcome()) {
      SetFailed(Error(absl::StatusCode::kCancelled, "CANCELLED", "cancelled by a signal"),
                teq::v1::FAILURE_CLASS_USER_ERROR);
    } else if (!finished_ && !failed_) {
      SetFailed(Error(absl::StatusCode::kUnavailable, "ENGINE_DIED",
                      fmt::format("the engine process {}", how)),
                teq::v1::FAILURE_CLASS_INFRASTRUCTURE);
    }
    io_.stop();
  }

  void WaitForSignal() {
    signals_.async_wait([this](const boost::system::error_code& error, int) {
      if (error) return;
      if (cancelled_) {
        engine_->Kill();
      } else {
        cancelled_ = true;
        Stop();
      }
      WaitForSignal();
    });
  }

  void OnOverdue() {
    overdue_ = true;
    Stop();
  }

  void Stop() {
    engine_->Cancel();
    Arm(kill_timer_, options_.cancel_grace, [this] { engine_->Kill(); });
  }

  const RunJobOptions& options_;
  ProgressPrinter printer_;
  teq::v1::StartRun start_;
  asio::io_context io_{1};
  asio::signal_set signals_{io_, SIGTERM, SIGINT};
  asio::steady_timer kill_timer_{io_};
  asio::steady_timer overdue_timer_{io_};
  std::unique_ptr<EngineProcess> engine_;
  std::optional<teq::v1::RunFinished> finished_;
  std::optional<teq::v1::RunFailed> failed_;
  bool cancelled_ = false;
  bool overdue_ = false;
};

/// A mistake in --report must not show after hours.
absl::Status CheckReportFile(const RunJobOptions& options) {
  if (options.report_file.empty()) return absl::OkStatus();
  const std::filesystem::path file = options.report_file;
  const std::filesystem::path parent = file.has_parent_path() ? file.parent_path() : ".";
  std::error_code error;
  const char* wrong = std::filesystem::is_directory(file, error)      ? "is a directory"
                      : !std::filesystem::is_directory(parent, error) ? "its directory is missing"
                      : access(parent.c_str(), W_OK | X_OK) != 0
                          ? "its directory cannot be written to"
                          : nullptr;
  if (wrong == nullptr) return absl::OkStatus();
  return Error(
      absl::StatusCode::kInvalidArgument, "USAGE",
      fmt::format("--report {}: {}; name a file that can be written", file.string(), wrong));
}

absl::Status WriteReport(const RunJobOptions& options, const teq::v1::Report& report) {
  if (options.report_file.empty()) return absl::OkStatus();
  return objects::WriteFileAtomically(options.report_file, ToJson(report).dump(2) + "\n");
}

void PrintResult(std::FILE* out, const teq::v1::Report& report) {
  for (const teq::v1::Perplexity& perplexity : report.perplexity()) {
    fmt::print(out,
               "{}: perplexity {:.4f} full precision, {:.4f} round to nearest, {:.4f} quantized "
               "(delta {:+.4f})\n",
               perplexity.dataset(), perplexity.full_precision(), perplexity.round_to_nearest(),
               perplexity.quantized(), perplexity.delta());
  }
  for (const teq::v1::TaskResult& task : report.tasks()) {
    fmt::print(out, "{}: accuracy {:.4f} full precision, {:.4f} quantized (± {:.4f})\n",
               task.task(), task.full_precision_accuracy(), task.quantized_accuracy(),
               task.difference_standard_error());
  }
  for (const teq::v1::Artifact& artifact : report.artifacts()) {
    fmt::print(out, "{}: {}\n", artifact.format(), artifact.path());
  }
}

absl::Status FinishRun(const RunJobOptions& options, const Run& run,
                       objects::Publication& publication) {
  if (!run.finished()) {
    if (const absl::Status left = publication.Abandon(); !left.ok()) {
      Tell(options, spdlog::level::warn, "the run's files are left over: " + ErrorText(left));
    }
    const absl::Status failure = FromProto(run.failed().status());
    if (!run.failed().has_report()) return failure;
    const absl::Status written = WriteReport(options, run.failed().report());
    if (!written.ok()) TellError(options, written);
    return failure;
  }
  TEQ_RETURN_IF_ERROR(publication.Publish(run.finished()->manifest_sha256()));
  PrintResult(options.out, run.finished()->report());
  return WriteReport(options, run.finished()->report());
}

}  // namespace

int RunJob(const RunJobOptions& options) {
  absl::StatusOr<teq::v1::JobSpec> spec = ReadSpec(options);
  if (spec.ok()) {
    if (absl::Status report = CheckReportFile(options); !report.ok()) spec = std::move(report);
  }
  if (!spec.ok()) {
    TellError(options, spec.status());
    return kRunInvalid;
  }
  absl::StatusOr<objects::Publication> publication = objects::Publication::Find(
      spec->output().uri(), options.uri_policy, {.spec_digest = Digest(*spec)}, options.data);
  if (!publication.ok()) {
    TellError(options, publication.status());
    return kRunInvalid;
  }
  Run run(options, *std::move(spec));
  run.Wait();
  const absl::Status status = FinishRun(options, run, *publication);
  if (status.ok()) return kRunOk;
  TellError(options, status);
  return absl::IsCancelled(status) ? kRunCancelled : kRunFailed;
}

}  // namespace teq::agent
