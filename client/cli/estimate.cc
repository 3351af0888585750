#include "client/cli/estimate.h"

#include "client/cache/estimate_inputs.h"
#include "client/cli/read_job_file.h"
#include "client/cli/render.h"
#include "client/model_info/estimate.h"
#include "proto/spec/error.h"
#include "proto/spec/validate.h"

namespace teq::cli {
namespace {

using teq::v1::JobEstimate;
using Stub = teq::v1::JobService::StubInterface;

absl::StatusOr<JobEstimate> EstimateHere(const Session& session, const teq::v1::JobSpec& asked) {
  const teq::v1::JobSpec spec = WithDefaults(asked);
  TEQ_ASSIGN_OR_RETURN(
      const cache::EstimateInputs inputs,
      cache::ReadEstimateInputs(spec, {}, [&session] { return !session.terminal.interrupted(); }));
  return model_info::EstimateJob(spec, inputs.config, inputs.evaluation_tokens, {});
}

}  // namespace

ExitCode Estimate(const Session& session, const EstimateOptions& options) {
  const auto job_file = ReadJobFile(session.terminal, options.file);
  if (!job_file.ok()) return FailLocally(session, job_file.status());
  const auto project = ProjectOf(session, job_file->project);
  if (!project.ok()) return FailLocally(session, project.status());
  absl::StatusOr<JobEstimate> estimate;
  if (options.local) {
    estimate = EstimateHere(session, job_file->job.spec());
  } else {
    teq::v1::EstimateJobRequest request;
    request.set_parent("projects/" + *project);
    *request.mutable_spec() = job_file->job.spec();
    estimate =
        CallService(session.stub, &Stub::EstimateJob, request, kCallTimeout, session.traceparent);
  }
  if (!estimate.ok()) return FailRemotely(session, estimate.status());
  Print(session, *estimate, EstimateText(*estimate));
  return kOk;
}

}  // namespace teq::cli
