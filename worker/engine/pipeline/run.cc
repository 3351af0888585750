#include "worker/engine/pipeline/run.h"

#include <new>

#include "c10/util/Exception.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "worker/engine/model/host_memory.h"
#include "worker/engine/model/threads.h"
#include "worker/engine/pipeline/job_run.h"

namespace teq::pipeline {
namespace {

using teq::v1::EngineEvent;
using teq::v1::FailureClass;

FailureClass ClassOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kPermissionDenied:
      return teq::v1::FAILURE_CLASS_USER_ERROR;
    case absl::StatusCode::kAborted:
      // Of a lease, nothing is the job's fault: the server decides which attempt goes on.
      return ErrorReason(status) == "LEASE_LOST" ? teq::v1::FAILURE_CLASS_INFRASTRUCTURE
                                                 : teq::v1::FAILURE_CLASS_USER_ERROR;
    case absl::StatusCode::kResourceExhausted:
      return ErrorReason(status) == "OUT_OF_MEMORY" ? teq::v1::FAILURE_CLASS_OUT_OF_MEMORY
                                                    : teq::v1::FAILURE_CLASS_TRANSIENT;
    case absl::StatusCode::kUnavailable:
      return teq::v1::FAILURE_CLASS_TRANSIENT;
    default:
      return teq::v1::FAILURE_CLASS_INFRASTRUCTURE;
  }
}

absl::Status OutOfMemory(std::string_view what) {
  return Error(
      absl::StatusCode::kResourceExhausted, "OUT_OF_MEMORY",
      fmt::format("the engine ran out of memory: {}; lower batch_size or sequence_length, or "
                  "use a larger worker",
                  what));
}

/// LibTorch speaks in exceptions; this is the one place where they become a status.
absl::Status RunStages(JobRun& run) {
  try {
    return run.ToSealedContent();
  } catch (const std::bad_alloc& error) {
    return OutOfMemory(error.what());
  } catch (const c10::Error& error) {
    const std::string what = error.what_without_backtrace();
    if (what.find("out of memory") != std::string::npos ||
        what.find("can't allocate memory") != std::string::npos) {
      return OutOfMemory(what);
    }
    return Error(absl::StatusCode::kInternal, "ENGINE_ERROR", what);
  } catch (const std::exception& error) {
    return Error(absl::StatusCode::kInternal, "ENGINE_ERROR", error.what());
  }
}

}  // namespace

EngineEvent Run(const teq::v1::StartRun& start, const Options& options, const EventSink& sink,
                const std::atomic<bool>& cancelled) {
  model::SetThreads(options.threads);
  model::KeepFreedMemory();
  JobRun run(start, options, sink, cancelled);
  const absl::Status status = RunStages(run);
  EngineEvent last;
  if (status.ok()) {
    last.mutable_finished()->set_manifest_sha256(run.manifest_sha256());
    *last.mutable_finished()->mutable_report() = run.report();
  } else {
    run.Abandon();
    *last.mutable_failed()->mutable_status() = ToProto(status);
    last.mutable_failed()->set_failure_class(ClassOf(status));
    *last.mutable_failed()->mutable_report() = run.report();
  }
  sink(last);
  return last;
}

}  // namespace teq::pipeline
