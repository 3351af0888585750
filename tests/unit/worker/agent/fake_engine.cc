// An engine for the agent's tests. Its first argument says how it behaves:
//   finish   one sample, content sealed, `finished`
//   wait     one sample, then waits to be cancelled, cleans up and answers `failed`
//   file F   as `wait`, but finishes when the file F exists
//   deaf     one sample, leaves a part of its content, and never ends
//   die      one sample, leaves a part of its content, and kills itself
//   grumble  as `finish`, and prints lines before and after
//   hang     does nothing, and never ends
//   exit     ends with code 7 before any event
//   fail     `failed` with class USER_ERROR and a report
//   bare     `failed`, as there is no device
//   linger   as `finish`, and never ends
//   stuck    as `fail`, and never ends
//   garbage  bytes that are no message
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "client/objects/publication.h"
#include "proto/spec/error.h"
#include "proto/spec/validate.h"
#include "worker/agent/engine_host.h"

namespace {

using teq::objects::Publication;
using teq::v1::EngineEvent;
using Sink = std::function<void(const EngineEvent&)>;

void SendSample(const Sink& sink) {
  EngineEvent event;
  event.mutable_progress()->set_stage(teq::v1::STAGE_TRANSFORM);
  sink(event);
  event.mutable_sample()->set_step(1);
  event.mutable_sample()->set_total_steps(2);
  event.mutable_sample()->set_loss(0.5);
  sink(event);
  event.mutable_perplexity()->set_dataset("file:///text");
  event.mutable_perplexity()->set_phase(teq::v1::PerplexitySample::PHASE_FULL_PRECISION);
  event.mutable_perplexity()->set_value(12.5);
  sink(event);
}

void SendFailure(const Sink& sink, const absl::Status& status) {
  EngineEvent event;
  *event.mutable_failed()->mutable_status() = teq::ToProto(status);
  event.mutable_failed()->set_failure_class(teq::v1::FAILURE_CLASS_USER_ERROR);
  event.mutable_failed()->mutable_report()->add_perplexity()->set_full_precision(12.5);
  sink(event);
}

absl::StatusOr<Publication> Begin(const teq::v1::StartRun& start) {
  TEQ_ASSIGN_OR_RETURN(Publication publication,
                       Publication::Begin(start.spec().output().uri(), {},
                                          {.job = start.job(),
                                           .job_uid = start.job_uid(),
                                           .spec_digest = teq::Digest(start.spec()),
                                           .attempt = start.attempt(),
                                           .fence = start.fence()},
                                          {"gptq"}));
  TEQ_RETURN_IF_ERROR(teq::objects::WriteFileAtomically(
      publication.StagingDirectory("gptq") / "model.safetensors", "weights"));
  return publication;
}

absl::Status Finish(Publication& publication, const Sink& sink) {
  EngineEvent event;
  teq::v1::Report& report = *event.mutable_finished()->mutable_report();
  teq::v1::Perplexity& perplexity = *report.add_perplexity();
  perplexity.set_dataset("file:///text");
  perplexity.set_full_precision(12.5);
  perplexity.set_quantized(13);
  TEQ_ASSIGN_OR_RETURN(std::string sha256, publication.Seal(report));
  event.mutable_finished()->set_manifest_sha256(sha256);
  sink(event);
  return absl::OkStatus();
}

void WaitFor(const std::function<bool()>& condition) {
  while (!condition()) std::this_thread::sleep_for(std::chrono::milliseconds(2));
}

absl::Status Behave(const std::string& how, const std::string& file, const teq::v1::StartRun& start,
                    const Sink& sink, const std::atomic<bool>& cancelled) {
  TEQ_ASSIGN_OR_RETURN(Publication publication, Begin(start));
  SendSample(sink);
  if (how == "die") ::raise(SIGKILL);
  if (how == "deaf") WaitFor([] { return false; });
  if (how == "wait" || how == "file") {
    WaitFor([&] { return cancelled || (!file.empty() && std::filesystem::exists(file)); });
    if (cancelled) {
      TEQ_RETURN_IF_ERROR(publication.Abandon());
      return teq::Error(absl::StatusCode::kCancelled, "CANCELLED", "cancelled");
    }
  }
  return Finish(publication, sink);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string how = argc > 1 ? argv[1] : "";
  const std::string file = argc > 2 ? argv[2] : "";
  if (how == "exit") return 7;
  if (how == "hang") WaitFor([] { return false; });
  if (how == "grumble") {
    std::fputs("to standard output\n", stdout);
    std::fflush(stdout);
    std::fputs("to standard error\n", stderr);
  }
  if (how == "garbage") {
    const std::string_view garbage("\xff\xff\xff\xff garbage");
    return ::send(teq::agent::kEngineDescriptor, garbage.data(), garbage.size(), 0) > 0 ? 0 : 1;
  }
  const int code = teq::agent::ServeEngine(
      teq::agent::kEngineDescriptor,
      [&](const teq::v1::StartRun& start, const Sink& sink, const std::atomic<bool>& cancelled) {
        if (how == "fail" || how == "stuck") {
          SendFailure(sink, teq::Error(absl::StatusCode::kInvalidArgument, "TEXT_TOO_SHORT",
                                       "the text has 3 tokens"));
          return;
        }
        if (how == "bare") {
          SendFailure(sink, teq::Error(absl::StatusCode::kFailedPrecondition,
                                       "DEVICE_NOT_AVAILABLE", "no CUDA device"));
          return;
        }
        const absl::Status status = Behave(how, file, start, sink, cancelled);
        if (!status.ok()) SendFailure(sink, status);
      },
      [] {
        teq::v1::DeviceCalibration calibration;
        calibration.set_device(teq::v1::DEVICE_CPU);
        calibration.set_operations_per_second(2e11);
        return std::vector{calibration};
      });
  if (how == "grumble") std::fputs("last words", stderr);
  if (how == "linger" || how == "stuck") WaitFor([] { return false; });
  return code;
}
