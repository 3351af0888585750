#include "worker/agent/run_job.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/uri.h"
#include "spdlog/sinks/ostream_sink.h"

namespace teq::agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class RunJobTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-run-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    output_ = directory_ / "out";
    report_ = directory_ / "report.json";
  }
  void TearDown() override { fs::remove_all(directory_); }

  int Run(const std::vector<std::string>& engine_arguments, const std::string& extra = "") {
    const std::string job = fmt::format(
        "model: {{uri: \"file:///models/m\"}}\n"
        "recipe:\n  weights: {{bits: 4}}\n"
        "calibration: {{uri: \"file:///data/c.txt\"}}\n"
        "output: {{uri: \"{}\"}}\n{}",
        FileUri(output_), extra);
    EXPECT_TRUE(objects::WriteFileAtomically(directory_ / "job.yaml", job).ok());
    std::vector<std::string> command = {TEQ_FAKE_ENGINE};
    command.insert(command.end(), engine_arguments.begin(), engine_arguments.end());
    char* out_text = nullptr;
    char* progress_text = nullptr;
    std::size_t out_size = 0;
    std::size_t progress_size = 0;
    std::FILE* out = ::open_memstream(&out_text, &out_size);
    std::FILE* progress = ::open_memstream(&progress_text, &progress_size);
    const int code = RunJob({.job_file = directory_ / "job.yaml",
                             .report_file = report_,
                             .engine_command = command,
                             .uri_policy = policy_,
                             .cancel_grace = cancel_grace_,
                             .exit_grace = exit_grace_,
                             .out = out,
                             .progress = progress,
                             .log = log_});
    std::fclose(out);
    std::fclose(progress);
    out_ = std::string(out_text, out_size);
    progress_ = std::string(progress_text, progress_size);
    std::free(out_text);
    std::free(progress_text);
    return code;
  }

  fs::path directory_;
  fs::path output_;
  fs::path report_;
  UriPolicy policy_;
  Duration cancel_grace_ = std::chrono::seconds(10);
  Duration exit_grace_ = std::chrono::seconds(10);
  std::string out_;
  std::string progress_;
  std::shared_ptr<logs::Logger> log_;
};

TEST_F(RunJobTest, PublishesAndPrintsPerplexitiesAndWhereTheResultLies) {
  EXPECT_EQ(Run({"finish"}), kRunOk);
  EXPECT_THAT(out_, HasSubstr("12.5000 full precision"));
  EXPECT_THAT(out_, HasSubstr("13.0000 quantized"));
  EXPECT_THAT(out_, HasSubstr("GPTQ: " + (output_ / "gptq").string()));
  EXPECT_THAT(progress_, HasSubstr("step 1/2, loss 0.5"));
  EXPECT_TRUE(fs::exists(output_ / "manifest.json"));
  EXPECT_FALSE(fs::exists(output_ / "1-1"));
  EXPECT_EQ(nlohmann::json::parse(objects::ReadFile(directory_ / "report.json").value()),
            nlohmann::json::parse(objects::ReadFile(output_ / "report.json").value()));
}

TEST_F(RunJobTest, WhatTheEngineSaysStandsAmongTheProgress) {
  EXPECT_EQ(Run({"grumble"}), kRunOk);
  EXPECT_THAT(progress_, HasSubstr("engine: to standard output\nengine: to standard error\n"));
  EXPECT_THAT(progress_, HasSubstr("engine: last words\n"));
}

TEST_F(RunJobTest, ProgressAndErrorsGoToTheLogWhereThereIsOne) {
  std::ostringstream lines;
  log_ = std::make_shared<logs::Logger>("teq-worker", logs::Format::kJson,
                                        std::make_shared<spdlog::sinks::ostream_sink_mt>(lines));
  EXPECT_EQ(Run({"fail"}), kRunFailed);
  EXPECT_EQ(progress_, "");
  const auto line = nlohmann::json::parse(lines.str());
  EXPECT_EQ(line["level"], "error");
  EXPECT_EQ(line["msg"], "TEXT_TOO_SHORT: the text has 3 tokens");
}

TEST_F(RunJobTest, SecondRunIntoTheSameOutputIsRefused) {
  ASSERT_EQ(Run({"finish"}), kRunOk);
  const std::string manifest = objects::ReadFile(output_ / "manifest.json").value();
  EXPECT_EQ(Run({"finish"}), kRunFailed);
  EXPECT_THAT(progress_, HasSubstr("teq-worker: OUTPUT_IN_USE: "));
  EXPECT_EQ(objects::ReadFile(output_ / "manifest.json").value(), manifest);
}

TEST_F(RunJobTest, UnknownFieldIsNamedWithItsLineAndNothingStarts) {
  EXPECT_EQ(Run({"finish"}, "recipee: {}\n"), kRunInvalid);
  EXPECT_THAT(progress_, HasSubstr("job.yaml:6: recipee: unknown field"));
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(RunJobTest, InvalidSpecIsRefused) {
  EXPECT_EQ(Run({"finish"}, "evaluation: {max_perplexity_delta: 0.5}\n"), kRunInvalid);
  EXPECT_THAT(progress_, HasSubstr("teq-worker: INVALID_SPEC: "));
}

TEST_F(RunJobTest, AReportThatCannotBeWrittenIsToldBeforeAnythingRuns) {
  report_ = directory_ / "missing" / "report.json";
  EXPECT_EQ(Run({"finish"}), kRunInvalid);
  EXPECT_THAT(progress_, HasSubstr("missing/report.json: its directory is missing"));
  report_ = directory_;
  EXPECT_EQ(Run({"finish"}), kRunInvalid);
  EXPECT_THAT(progress_, HasSubstr("is a directory"));
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(RunJobTest, UriOutsideTheAllowedPrefixesIsRefused) {
  policy_.allowed_prefixes = {"file:///elsewhere/"};
  EXPECT_EQ(Run({"finish"}), kRunInvalid);
  EXPECT_THAT(progress_, HasSubstr("URI_NOT_ALLOWED"));
}

TEST_F(RunJobTest, MissingJobFileIsNamed) {
  const fs::path log = directory_ / "log";
  std::FILE* progress = std::fopen(log.c_str(), "w");
  EXPECT_EQ(RunJob({.job_file = directory_ / "none.yaml", .progress = progress}), kRunInvalid);
  std::fclose(progress);
  EXPECT_THAT(objects::ReadFile(log).value(),
              HasSubstr("FILE_NOT_FOUND: " + (directory_ / "none.yaml").string()));
}

TEST_F(RunJobTest, FailureOfTheRunIsPrintedWithItsReason) {
  EXPECT_EQ(Run({"fail"}), kRunFailed);
  EXPECT_THAT(progress_, HasSubstr("teq-worker: TEXT_TOO_SHORT: the text has 3 tokens"));
  EXPECT_TRUE(out_.empty());
}

// To sync a directory that a symbolic link names is refused.
TEST_F(RunJobTest, FilesThatAreLeftOverHideNeitherTheFailureNorItsReport) {
  const fs::path attempt = directory_ / "elsewhere" / "1-1";
  fs::create_directories(attempt);
  fs::create_directory_symlink(directory_ / "elsewhere", output_);
  ASSERT_TRUE(
      objects::WriteFileAtomically(attempt / "owner.json", R"({"job_uid": "", "fence": 1})").ok());
  EXPECT_EQ(Run({"fail"}), kRunFailed);
  EXPECT_THAT(progress_, HasSubstr("the run's files are left over: WRITE_FAILED: "));
  EXPECT_THAT(progress_, HasSubstr("teq-worker: TEXT_TOO_SHORT: the text has 3 tokens"));
  EXPECT_TRUE(fs::exists(report_));
}

TEST_F(RunJobTest, EngineThatDoesNotEndAfterItsLastEventIsKilled) {
  exit_grace_ = std::chrono::milliseconds(50);
  EXPECT_EQ(Run({"linger"}), kRunOk);
  EXPECT_TRUE(fs::exists(output_ / "manifest.json"));
}

TEST_F(RunJobTest, FailureThatCameBeforeTheLimitOfTimeIsTold) {
  cancel_grace_ = std::chrono::milliseconds(50);
  EXPECT_EQ(Run({"stuck"}, "limits: {max_runtime: 3s}\n"), kRunFailed);
  EXPECT_THAT(progress_, HasSubstr("teq-worker: TEXT_TOO_SHORT: the text has 3 tokens"));
}

TEST_F(RunJobTest, RunThatIsStoppedByTheLimitOfTimeSaysSo) {
  EXPECT_EQ(Run({"wait"}, "limits: {max_runtime: 1s}\n"), kRunFailed);
  EXPECT_THAT(progress_, HasSubstr("teq-worker: MAX_RUNTIME_EXCEEDED: "));
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(RunJobTest, DeadEngineLeavesNothing) {
  EXPECT_EQ(Run({"die"}), kRunFailed);
  EXPECT_THAT(progress_, HasSubstr("teq-worker: ENGINE_DIED: "));
  EXPECT_THAT(progress_, HasSubstr("signal 9"));
  EXPECT_FALSE(fs::exists(output_));
}

}  // namespace
}  // namespace teq::agent
