#pragma once

#include <string>
#include <vector>

#include "teq/v1/artifact_service.pb.h"
#include "teq/v1/estimate.pb.h"
#include "teq/v1/job.pb.h"
#include "teq/v1/report.pb.h"

/// Jobs and reports as text for people. Pure; every text ends with a newline.
namespace teq::cli {

/// A state's name, such as "RUNNING".
[[nodiscard]] std::string StateName(teq::v1::Job::State state);

/// Whether a job in this state stays in it until somebody asks for more.
[[nodiscard]] bool IsFinal(teq::v1::Job::State state);

/// One line for each job, below a line of headings.
[[nodiscard]] std::string JobTable(const std::vector<teq::v1::Job>& jobs);

/// One job, a line for each thing to know about it.
[[nodiscard]] std::string JobDetails(const teq::v1::Job& job);

/// How a job ended: its state, its perplexities, its files, or why it failed.
[[nodiscard]] std::string JobSummary(const teq::v1::Job& job);

/// Published checkpoints, one line for each, below a line of headings.
[[nodiscard]] std::string PublishedTable(const std::vector<teq::v1::PublishedArtifact>& artifacts);

/// Memory, files and time by stage, sizes of the output, workers, notes.
[[nodiscard]] std::string EstimateText(const teq::v1::JobEstimate& estimate);

/// Perplexities, training, the layers with the largest output error, files, notes.
[[nodiscard]] std::string ReportText(const teq::v1::Report& report);

}  // namespace teq::cli
