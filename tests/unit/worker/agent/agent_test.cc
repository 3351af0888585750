#include "worker/agent/agent.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "boost/asio/io_context.hpp"
#include "boost/asio/ip/tcp.hpp"
#include "client/objects/publication.h"
#include "fake_server.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/uri.h"
#include "proto/spec/validate.h"
#include "spdlog/sinks/ostream_sink.h"

namespace teq::agent {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using ::testing::UnorderedElementsAre;
using Seen = FakeServer::Seen;

// A real agent with a fake engine and a fake server.
class AgentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-agent-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    output_ = directory_ / "out";
  }
  void TearDown() override { fs::remove_all(directory_); }

  AgentOptions Options(std::vector<std::string> engine_arguments) const {
    engine_arguments.insert(engine_arguments.begin(), TEQ_FAKE_ENGINE);
    return {.server = server_->address(),
            .worker_id = "w",
            .engine_command = std::move(engine_arguments),
            .engine_version = "1",
            .max_jobs = 1,
            .poll_wait = milliseconds(200),
            .unreachable_limit = std::chrono::minutes(1)};
  }

  v1::Lease MakeLease(std::int64_t fence = 1) const {
    v1::Lease lease;
    lease.set_lease_token("token");
    lease.set_fence(fence);
    lease.set_attempt(1);
    lease.set_job("projects/p/jobs/j");
    lease.set_job_uid("uid");
    lease.mutable_spec()->mutable_output()->set_uri(FileUri(output_));
    return lease;
  }

  void StartAgent(const AgentOptions& options) {
    metrics_ = std::make_unique<WorkerMetrics>("1", directory_);
    exit_code_ = std::async(std::launch::async, [this, options] {
      return RunAgent(options, {.metrics = metrics_.get(),
                                .log = std::make_shared<logs::Logger>("teq-worker",
                                                                      logs::Format::kJson, log_)});
    });
  }

  int ExitCode() { return exit_code_.get(); }

  std::set<std::string> Published() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(output_)) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }

  static bool HasHeartbeat(const Seen& seen) { return !seen.heartbeats.empty(); }
  static bool HasSample(const Seen& seen) {
    return std::ranges::any_of(seen.heartbeats,
                               [](const auto& request) { return request.samples_size() > 0; });
  }

  fs::path directory_;
  fs::path output_;
  std::unique_ptr<FakeServer> server_ = std::make_unique<FakeServer>();
  // What the agent wrote. After its end.
  std::vector<nlohmann::json> Lines() const {
    std::istringstream text(lines_.str());
    std::vector<nlohmann::json> lines;
    for (std::string line; std::getline(text, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  std::ostringstream lines_;
  std::shared_ptr<spdlog::sinks::ostream_sink_mt> log_ =
      std::make_shared<spdlog::sinks::ostream_sink_mt>(lines_);
  std::unique_ptr<WorkerMetrics> metrics_;
  std::future<int> exit_code_;
};

TEST_F(AgentTest, JobIsRunCommittedPublishedAndConfirmed) {
  server_->Offer(MakeLease());
  StartAgent(Options({"finish"}));
  EXPECT_EQ(ExitCode(), kExitOk);
  const Seen seen = server_->seen();
  ASSERT_EQ(seen.registrations.size(), 1);
  EXPECT_EQ(seen.registrations[0].worker_id(), "w");
  EXPECT_FALSE(seen.registrations[0].boot_id().empty());
  EXPECT_EQ(seen.registrations[0].capabilities().devices(0), v1::DEVICE_CPU);
  ASSERT_EQ(seen.completions.size(), 2);
  ASSERT_TRUE(seen.completions[0].has_success());
  EXPECT_EQ(seen.completions[0].success().report().artifacts(0).path(),
            (output_ / "gptq").string());
  EXPECT_EQ(seen.completions[1].published().manifest_sha256(),
            seen.completions[0].success().manifest_sha256());
  EXPECT_THAT(Published(), UnorderedElementsAre("gptq", "manifest.json", "report.json"));
  EXPECT_EQ(objects::FileSha256(output_ / "manifest.json").value(),
            seen.completions[0].success().manifest_sha256());
}

TEST_F(AgentTest, SpeedsAreMeasuredOnceAndToldAtEveryRegistration) {
  AgentOptions options = Options({"finish"});
  options.calibration_command = options.engine_command;
  server_->ForgetSession();  // so that it registers again
  server_->Offer(MakeLease());
  StartAgent(options);
  EXPECT_EQ(ExitCode(), kExitOk);
  const Seen seen = server_->seen();
  ASSERT_EQ(seen.registrations.size(), 2);
  for (const auto& registration : seen.registrations) {
    ASSERT_EQ(registration.capabilities().calibrations_size(), 1);
    EXPECT_EQ(registration.capabilities().calibrations(0).operations_per_second(), 2e11);
  }
  EXPECT_EQ(std::ranges::count_if(Lines(),
                                  [](const nlohmann::json& line) {
                                    return line["msg"].get<std::string>().starts_with("CPU: 200 ");
                                  }),
            1);
}

TEST_F(AgentTest, WorkerWhoseHpuCannotBeUsedEndsBeforeItTakesJobs) {
  AgentOptions options = Options({"finish"});
  options.calibration_command = options.engine_command;
  options.devices = {v1::DEVICE_HPU, v1::DEVICE_CPU};  // of which the fake engine measures the CPU
  server_->Offer(MakeLease());
  StartAgent(options);
  EXPECT_EQ(ExitCode(), kExitError);
  EXPECT_TRUE(server_->seen().registrations.empty());
  EXPECT_TRUE(std::ranges::any_of(Lines(), [](const nlohmann::json& line) {
    return line["msg"].get<std::string>().starts_with("DEVICE_NOT_AVAILABLE: the HPU");
  }));
}

TEST_F(AgentTest, AnEngineThatCannotMeasureKeepsNoWorkerFromWorking) {
  AgentOptions options = Options({"finish"});
  for (const std::vector<std::string>& command : {std::vector<std::string>{TEQ_FAKE_ENGINE, "exit"},
                                                  {TEQ_FAKE_ENGINE, "garbage"},
                                                  {"/nonexistent"},
                                                  {TEQ_FAKE_ENGINE, "hang"}}) {
    options.calibration_command = command;
    options.calibration_limit = milliseconds(command.back() == "hang" ? 50 : 60'000);
    server_->Offer(MakeLease());
    StartAgent(options);
    EXPECT_EQ(ExitCode(), kExitOk) << command.back();
    const Seen seen = server_->seen();
    EXPECT_EQ(seen.registrations.back().capabilities().calibrations_size(), 0);
    EXPECT_EQ(seen.completions.back().published().manifest_sha256().size(), 64);
    fs::remove_all(output_);
  }
  EXPECT_EQ(server_->seen().registrations.size(), 4);
  EXPECT_EQ(std::ranges::count_if(Lines(),
                                  [](const nlohmann::json& line) {
                                    return line["msg"].get<std::string>().ends_with(
                                        "the engine did not answer within 0.05 s");
                                  }),
            1);
}

TEST_F(AgentTest, LinesAboutALeaseTellJobAttemptFenceWorkerAndTrace) {
  v1::Lease lease = MakeLease(5);
  lease.set_attempt(2);
  lease.set_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  server_->Offer(lease);
  StartAgent(Options({"finish"}));
  EXPECT_EQ(ExitCode(), kExitOk);
  const std::vector<nlohmann::json> lines = Lines();
  ASSERT_GE(lines.size(), 4U);
  EXPECT_THAT(lines[0]["msg"].get<std::string>(), ::testing::StartsWith("registered"));
  EXPECT_FALSE(lines[0].contains("job"));
  for (std::size_t i = 1; i < lines.size(); ++i) {
    EXPECT_EQ(lines[i]["job"], "projects/p/jobs/j") << lines[i];
    EXPECT_EQ(lines[i]["attempt"], 2);
    EXPECT_EQ(lines[i]["fence"], 5);
    EXPECT_EQ(lines[i]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
  }
  for (const nlohmann::json& line : lines) EXPECT_EQ(line["worker"], "w");
}

TEST_F(AgentTest, WhatTheEngineSaysIsOnLinesOfItsJob) {
  v1::Lease lease = MakeLease();
  lease.set_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
  server_->Offer(lease);
  StartAgent(Options({"grumble"}));
  EXPECT_EQ(ExitCode(), kExitOk);
  std::vector<std::string> said;
  for (const nlohmann::json& line : Lines()) {
    const auto message = line["msg"].get<std::string>();
    if (!message.starts_with("engine: ")) continue;
    said.push_back(message);
    EXPECT_EQ(line["job"], "projects/p/jobs/j");
    EXPECT_EQ(line["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
  }
  EXPECT_THAT(said, ::testing::ElementsAre("engine: to standard output",
                                           "engine: to standard error", "engine: last words"));
}

TEST_F(AgentTest, SampleAndPerplexityReachTheServer) {
  server_->Offer(MakeLease());
  StartAgent(Options({"file", directory_ / "go"}));
  ASSERT_TRUE(server_->WaitFor([](const Seen& seen) {
    return std::ranges::any_of(seen.heartbeats, [](const auto& request) {
      return request.perplexities_size() > 0 && request.perplexities(0).value() == 12.5;
    });
  }));
  EXPECT_TRUE(HasSample(server_->seen()));
  ASSERT_TRUE(objects::WriteFileAtomically(directory_ / "go", "").ok());
  EXPECT_EQ(ExitCode(), kExitOk);
}

TEST_F(AgentTest, CancelledJobLeavesNothingAndIsReported) {
  server_->Offer(MakeLease());
  StartAgent(Options({"wait"}));
  ASSERT_TRUE(server_->WaitFor(HasSample));
  server_->SetDirective(v1::DIRECTIVE_CANCEL);
  EXPECT_EQ(ExitCode(), kExitOk);
  const Seen seen = server_->seen();
  ASSERT_EQ(seen.completions.size(), 1);
  EXPECT_TRUE(seen.completions[0].has_cancelled());
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(AgentTest, CancelKillsADeafEngineAndRemovesItsFiles) {
  AgentOptions options = Options({"deaf"});
  options.timings.cancel_grace = milliseconds(50);
  server_->Offer(MakeLease());
  StartAgent(options);
  ASSERT_TRUE(server_->WaitFor(HasSample));
  server_->SetDirective(v1::DIRECTIVE_CANCEL);
  EXPECT_EQ(ExitCode(), kExitOk);
  EXPECT_TRUE(server_->seen().completions.at(0).has_cancelled());
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(AgentTest, DeadEngineIsReportedAndItsFilesAreRemoved) {
  server_->Offer(MakeLease());
  StartAgent(Options({"die"}));
  EXPECT_EQ(ExitCode(), kExitOk);
  const Seen seen = server_->seen();
  ASSERT_EQ(seen.completions.size(), 1);
  const auto& failure = seen.completions[0].failure();
  EXPECT_EQ(failure.failure_class(), v1::FAILURE_CLASS_INFRASTRUCTURE);
  EXPECT_EQ(ErrorReason(FromProto(failure.status())), "ENGINE_DIED");
  EXPECT_THAT(failure.status().message(), ::testing::HasSubstr("signal 9"));
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(AgentTest, EngineThatCannotBeStartedIsReported) {
  AgentOptions options = Options({});
  options.engine_command = {"/no/such/engine"};
  server_->Offer(MakeLease());
  StartAgent(options);
  EXPECT_EQ(ExitCode(), kExitOk);
  const auto failure = server_->seen().completions.at(0).failure();
  EXPECT_EQ(failure.failure_class(), v1::FAILURE_CLASS_INFRASTRUCTURE);
  EXPECT_EQ(ErrorReason(FromProto(failure.status())), "ENGINE_NOT_STARTED");
  EXPECT_THAT(failure.status().message(), ::testing::StartsWith("/no/such/engine: "));
}

TEST_F(AgentTest, FailureIsLoggedOnceHoweverOftenItIsSent) {
  server_->FailCompletions(absl::UnavailableError("away"));
  server_->Offer(MakeLease());
  StartAgent(Options({"fail"}));
  ASSERT_TRUE(server_->WaitFor([](const Seen& seen) { return seen.refused_completions >= 2; }));
  server_->FailCompletions(absl::OkStatus());
  EXPECT_EQ(ExitCode(), kExitOk);
  EXPECT_EQ(std::ranges::count_if(Lines(),
                                  [](const nlohmann::json& line) {
                                    return line["msg"].get<std::string>().starts_with("failed: ");
                                  }),
            1);
}

TEST_F(AgentTest, WorkerWhoseDeviceIsGoneGivesItsJobBackAndStops) {
  AgentOptions options = Options({"bare"});
  options.devices = {v1::DEVICE_CUDA, v1::DEVICE_CPU};
  server_->Offer(MakeLease());
  StartAgent(options);
  EXPECT_EQ(ExitCode(), kExitError);
  EXPECT_EQ(
      Lines().back()["msg"],
      "the device is gone: DEVICE_NOT_AVAILABLE: no CUDA device; stopping: started again this "
      "worker offers what there is");
  EXPECT_EQ(server_->seen().releases.at(0).reason(), v1::ReleaseLeaseRequest::REASON_PREEMPTED);
  EXPECT_TRUE(server_->seen().completions.empty());
}

TEST_F(AgentTest, WorkerWhoseEnginesSayNothingTakesItsTime) {
  AgentOptions options = Options({"exit"});
  options.max_jobs = 2;
  server_->Offer(MakeLease());
  server_->Offer(MakeLease(2));
  StartAgent(options);
  EXPECT_EQ(ExitCode(), kExitOk);
  EXPECT_EQ(server_->seen().completions.size(), 2);
  EXPECT_EQ(
      std::ranges::count_if(Lines(),
                            [](const nlohmann::json& line) {
                              return line["msg"] ==
                                     "the engine said nothing before it ended: the next job in 1 s";
                            }),
      1);
}

TEST_F(AgentTest, FailureKeepsItsReasonAndClass) {
  server_->Offer(MakeLease());
  StartAgent(Options({"fail"}));
  EXPECT_EQ(ExitCode(), kExitOk);
  const auto failure = server_->seen().completions.at(0).failure();
  EXPECT_EQ(ErrorReason(FromProto(failure.status())), "TEXT_TOO_SHORT");
  EXPECT_EQ(failure.failure_class(), v1::FAILURE_CLASS_USER_ERROR);
}

TEST_F(AgentTest, LostLeaseEndsTheEngineAndABatchWorkerWithItsOwnCode) {
  server_->Offer(MakeLease());
  StartAgent(Options({"deaf"}));
  ASSERT_TRUE(server_->WaitFor(HasSample));
  server_->FailHeartbeats(Error(absl::StatusCode::kAborted, "LEASE_LOST", "lost"), 1);
  EXPECT_EQ(ExitCode(), kExitLeaseLost);
  EXPECT_TRUE(server_->seen().completions.empty());
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);  // no engine is left
}

TEST_F(AgentTest, WorkerThatLostALeaseTakesTheNextJob) {
  AgentOptions options = Options({"file", directory_ / "go"});
  options.max_jobs = 0;
  server_->Offer(MakeLease(1));
  StartAgent(options);
  ASSERT_TRUE(server_->WaitFor(HasSample));
  // Whichever comes first.
  server_->FailHeartbeats(Error(absl::StatusCode::kAborted, "LEASE_LOST", "lost"), 1);
  server_->FailCompletions(Error(absl::StatusCode::kAborted, "LEASE_LOST", "lost"));
  ASSERT_TRUE(objects::WriteFileAtomically(directory_ / "go", "").ok());
  ASSERT_TRUE(server_->WaitFor([](const Seen& seen) { return seen.polls >= 2; }));
  server_->FailHeartbeats(absl::OkStatus(), 0);
  server_->FailCompletions(absl::OkStatus());
  server_->Offer(MakeLease(2));
  ASSERT_TRUE(server_->WaitFor([](const Seen& seen) { return seen.completions.size() == 2; }));
  ::kill(::getpid(), SIGTERM);
  EXPECT_EQ(ExitCode(), kExitOk);
  const v1::CompleteLeaseRequest last = server_->seen().completions.back();
  EXPECT_EQ(last.fence(), 2);
  EXPECT_TRUE(last.has_published());
}

TEST_F(AgentTest, EngineGoesOnThroughARestartOfTheServer) {
  server_->Offer(MakeLease());
  StartAgent(Options({"file", directory_ / "go"}));
  ASSERT_TRUE(server_->WaitFor(HasSample));
  const std::size_t before = server_->seen().heartbeats.size();
  server_->Stop();
  server_->Start();
  ASSERT_TRUE(server_->WaitFor([&](const Seen& seen) { return seen.heartbeats.size() > before; }));
  ASSERT_TRUE(objects::WriteFileAtomically(directory_ / "go", "").ok());
  EXPECT_EQ(ExitCode(), kExitOk);
  EXPECT_EQ(server_->seen().completions.size(), 2);
  EXPECT_TRUE(fs::exists(output_ / "manifest.json"));
}

// Retries follow each other by 0.1 s or so, so that eight outlast the lease.
TEST_F(AgentTest, EngineGoesOnBeyondTheTimeToLiveWhileTheServerIsUnavailable) {
  server_->SetLeaseDuration(milliseconds(300));
  server_->Offer(MakeLease());
  StartAgent(Options({"file", directory_ / "go"}));
  ASSERT_TRUE(server_->WaitFor(HasSample));
  const std::size_t before = server_->seen().heartbeats.size();
  server_->FailHeartbeats(absl::UnavailableError("away"), 8);
  ASSERT_TRUE(server_->WaitFor([&](const Seen& seen) {
    return seen.refused_heartbeats == 8 && seen.heartbeats.size() > before;
  }));
  ASSERT_TRUE(objects::WriteFileAtomically(directory_ / "go", "").ok());
  EXPECT_EQ(ExitCode(), kExitOk);
  EXPECT_TRUE(server_->seen().completions.back().has_published());
}

TEST_F(AgentTest, SigtermPutsTheJobBackAndLeavesNothing) {
  server_->Offer(MakeLease());
  StartAgent(Options({"wait"}));
  ASSERT_TRUE(server_->WaitFor(HasSample));
  ::kill(::getpid(), SIGTERM);
  EXPECT_EQ(ExitCode(), kExitOk);
  const Seen seen = server_->seen();
  EXPECT_TRUE(seen.completions.empty());
  ASSERT_EQ(seen.releases.size(), 1);
  EXPECT_EQ(seen.releases[0].reason(), v1::ReleaseLeaseRequest::REASON_DRAIN);
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(AgentTest, SigtermDoesNotWaitForADeafEngine) {
  server_->Offer(MakeLease());
  StartAgent(Options({"deaf"}));
  ASSERT_TRUE(server_->WaitFor(HasSample));
  const auto start = std::chrono::steady_clock::now();
  ::kill(::getpid(), SIGTERM);
  EXPECT_EQ(ExitCode(), kExitOk);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(8));
  EXPECT_EQ(server_->seen().releases.size(), 1);
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(AgentTest, SecondSigtermStopsOnTheSpot) {
  AgentOptions options = Options({"deaf"});
  options.timings.release_grace = std::chrono::hours(1);
  server_->Offer(MakeLease());
  StartAgent(options);
  ASSERT_TRUE(server_->WaitFor(HasSample));
  const std::size_t before = server_->seen().heartbeats.size();
  ::kill(::getpid(), SIGTERM);
  // Signals of one kind merge while they are pending: the first one has been handled by then.
  ASSERT_TRUE(
      server_->WaitFor([&](const Seen& seen) { return seen.heartbeats.size() > before + 2; }));
  ::kill(::getpid(), SIGTERM);
  EXPECT_EQ(ExitCode(), kExitAtOnce);
  EXPECT_TRUE(server_->seen().releases.empty());
}

// The store takes the connection and never answers.
TEST_F(AgentTest, SecondSigtermDoesNotWaitForAPublication) {
  boost::asio::io_context io;
  const boost::asio::ip::tcp::endpoint loopback(boost::asio::ip::address_v4::loopback(), 0);
  const boost::asio::ip::tcp::acceptor store(io, loopback);
  const std::map<std::string, std::string> variables = {
      {"AWS_ENDPOINT_URL_S3", fmt::format("http://127.0.0.1:{}", store.local_endpoint().port())},
      {"AWS_ACCESS_KEY_ID", "key"},
      {"AWS_SECRET_ACCESS_KEY", "secret"}};
  for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
  v1::Lease lease = MakeLease(2);
  lease.mutable_spec()->mutable_output()->set_uri("s3://bucket/out");
  lease.mutable_publish_only()->set_manifest_sha256(std::string(64, 'a'));
  lease.mutable_publish_only()->set_attempt(1);
  lease.mutable_publish_only()->set_fence(1);
  server_->Offer(lease);
  StartAgent(Options({"die"}));
  ASSERT_TRUE(server_->WaitFor(HasHeartbeat));
  const std::size_t before = server_->seen().heartbeats.size();
  ::kill(::getpid(), SIGTERM);
  ASSERT_TRUE(
      server_->WaitFor([&](const Seen& seen) { return seen.heartbeats.size() > before + 2; }));
  ::kill(::getpid(), SIGTERM);
  EXPECT_EQ(exit_code_.wait_for(std::chrono::seconds(15)), std::future_status::ready);
  EXPECT_EQ(ExitCode(), kExitAtOnce);
  for (const auto& [name, value] : variables) ::unsetenv(name.c_str());
}

TEST_F(AgentTest, SigtermWhileIdleStopsAtOnce) {
  AgentOptions options = Options({"finish"});
  options.poll_wait = std::chrono::seconds(30);
  StartAgent(options);
  ASSERT_TRUE(server_->WaitFor([](const Seen& seen) { return seen.polls == 1; }));
  ::kill(::getpid(), SIGTERM);
  ASSERT_EQ(exit_code_.wait_for(std::chrono::seconds(15)), std::future_status::ready);
  EXPECT_EQ(ExitCode(), kExitOk);
}

TEST_F(AgentTest, PublishOnlyLeaseFinishesWhatADeadWorkerCommitted) {
  v1::Lease lease = MakeLease(2);
  lease.set_attempt(1);
  objects::Publisher publisher{.job = lease.job(),
                               .job_uid = lease.job_uid(),
                               .spec_digest = Digest(lease.spec()),
                               .attempt = 1,
                               .fence = 1};
  std::string sha256;
  {
    objects::Publication publication =
        objects::Publication::Begin(FileUri(output_), {}, publisher, {"gptq"}).value();
    ASSERT_TRUE(objects::WriteFileAtomically(publication.StagingDirectory("gptq") / "f", "x").ok());
    v1::Report report;
    sha256 = publication.Seal(report).value();
  }
  lease.mutable_publish_only()->set_manifest_sha256(sha256);
  lease.mutable_publish_only()->set_attempt(1);
  lease.mutable_publish_only()->set_fence(1);
  server_->Offer(lease);
  StartAgent(Options({"die"}));
  EXPECT_EQ(ExitCode(), kExitOk);
  const Seen seen = server_->seen();
  ASSERT_EQ(seen.completions.size(), 1);
  EXPECT_EQ(seen.completions[0].published().manifest_sha256(), sha256);
  EXPECT_EQ(objects::FileSha256(output_ / "manifest.json").value(), sha256);
  EXPECT_THAT(metrics_->Render(), ::testing::HasSubstr("teq_export_bytes_total 1\n"));
}

// Its directory may lie on a disk that other machines see.
TEST_F(AgentTest, OutputThatThisMachineDoesNotSeeIsLeftToAnother) {
  AgentOptions options = Options({"die"});
  options.timings.publish_tries = 1;
  v1::Lease lease = MakeLease(2);
  lease.mutable_publish_only()->set_manifest_sha256(std::string(64, 'a'));
  lease.mutable_publish_only()->set_attempt(1);
  lease.mutable_publish_only()->set_fence(1);
  server_->Offer(lease);
  StartAgent(options);
  EXPECT_EQ(ExitCode(), kExitOk);
  const auto failure = server_->seen().completions.at(0).failure();
  EXPECT_EQ(failure.failure_class(), v1::FAILURE_CLASS_TRANSIENT);
  EXPECT_THAT(failure.status().message(), ::testing::HasSubstr(output_.string()));
  EXPECT_THAT(failure.status().message(), ::testing::HasSubstr("mount it"));
}

TEST_F(AgentTest, ForgottenSessionIsRegisteredAgainUnderTheSameBootId) {
  StartAgent(Options({"finish"}));
  ASSERT_TRUE(server_->WaitFor([](const Seen& seen) { return seen.polls == 1; }));
  server_->ForgetSession();
  ASSERT_TRUE(server_->WaitFor([](const Seen& seen) { return seen.registrations.size() == 2; }));
  server_->Offer(MakeLease());
  EXPECT_EQ(ExitCode(), kExitOk);
  const Seen seen = server_->seen();
  EXPECT_EQ(seen.registrations[0].boot_id(), seen.registrations[1].boot_id());
}

TEST_F(AgentTest, WorkerWhoseNameAnotherTookStops) {
  server_->FailAcquisitions(
      Error(absl::StatusCode::kAborted, "SESSION_SUPERSEDED", "another process took it"));
  StartAgent(Options({"finish"}));
  EXPECT_EQ(ExitCode(), kExitError);
}

// To be registered again and again brings no lease.
TEST_F(AgentTest, BatchWorkerThatIsRegisteredAndGetsNoAnswerToPollsStopsAfterItsLimit) {
  AgentOptions options = Options({"finish"});
  options.exit_when_idle = true;
  options.unreachable_limit = milliseconds(1500);
  for (const absl::Status& status :
       {Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_WORKERS", "too many wait"),
        Error(absl::StatusCode::kNotFound, "SESSION_NOT_FOUND", "register again")}) {
    const std::size_t before = server_->seen().registrations.size();
    server_->FailAcquisitions(status);
    StartAgent(options);
    EXPECT_EQ(ExitCode(), kExitUnreachable) << status;
    // The pauses grow: 0.5 s, 1 s, 2 s, of which half may be left out.
    EXPECT_LE(server_->seen().registrations.size() - before, 5) << status;
  }
}

TEST_F(AgentTest, BatchWorkerStopsWhenThereIsNothingToDo) {
  AgentOptions options = Options({"finish"});
  options.exit_when_idle = true;
  StartAgent(options);
  EXPECT_EQ(ExitCode(), kExitOk);
  EXPECT_EQ(server_->seen().polls, 1);
}

TEST_F(AgentTest, BatchWorkerWithoutAServerStopsWithItsOwnCode) {
  AgentOptions options = Options({"finish"});
  options.unreachable_limit = milliseconds(1500);
  server_->Stop();
  StartAgent(options);
  EXPECT_EQ(ExitCode(), kExitUnreachable);
  server_->Start();
}

TEST_F(AgentTest, OutputOfAnotherPublicationFailsTheJobAndStays) {
  fs::create_directories(output_ / "gptq");
  server_->Offer(MakeLease());
  StartAgent(Options({"finish"}));
  EXPECT_EQ(ExitCode(), kExitOk);
  EXPECT_EQ(ErrorReason(FromProto(server_->seen().completions.at(0).failure().status())),
            "OUTPUT_IN_USE");
  EXPECT_THAT(Published(), UnorderedElementsAre("gptq"));
}

}  // namespace
}  // namespace teq::agent
