#include "client/cli/app.h"

#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "client/api/grpc_status.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "google/protobuf/empty.pb.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/job_file.h"
#include "proto/spec/json.h"
#include "proto/spec/presets.h"
#include "proto/spec/validate.h"

namespace teq::cli {
namespace {

using std::chrono::milliseconds;
using teq::v1::Job;
using teq::v1::WatchJobRequest;
using teq::v1::WatchJobResponse;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::SizeIs;
using ::testing::StartsWith;
using Json = nlohmann::ordered_json;

Job MakeJob(const std::string& name, Job::State state) {
  Job job;
  job.set_name(name);
  job.set_state(state);
  return job;
}

// A server whose answers the test sets. Requests are kept.
class FakeService final : public teq::v1::JobService::Service {
 public:
  // One WatchJob stream: what it sends, then how it ends.
  struct Stream {
    std::vector<WatchJobResponse> messages;
    absl::Status end;
  };

  absl::Status error;  // for every call but WatchJob; OK: the answers below
  Job job = MakeJob("projects/default/jobs/a", Job::STATE_QUEUED);
  std::vector<std::string> update_errors;  // reasons of the first UpdateJob calls
  std::vector<Stream> streams;
  std::function<void()> on_watch_message = [] {};

  teq::v1::JobEstimate estimate;
  teq::v1::EstimateJobRequest estimated;
  teq::v1::CreateJobRequest created;
  std::vector<std::string> traceparents;  // of all CreateJob calls
  std::vector<teq::v1::ListJobsRequest> lists;
  std::vector<teq::v1::UpdateJobRequest> updates;
  std::vector<WatchJobRequest> watches;
  std::string last_name;
  int calls = 0;

  grpc::Status CreateJob(grpc::ServerContext* context, const teq::v1::CreateJobRequest* request,
                         Job* response) override {
    const auto [first, last] = context->client_metadata().equal_range("traceparent");
    for (auto value = first; value != last; ++value) {
      traceparents.emplace_back(value->second.data(), value->second.size());
    }
    created = *request;
    return Answer(response);
  }
  grpc::Status EstimateJob(grpc::ServerContext* /*context*/,
                           const teq::v1::EstimateJobRequest* request,
                           teq::v1::JobEstimate* response) override {
    ++calls;
    estimated = *request;
    *response = estimate;
    return client::ToGrpc(error);
  }
  grpc::Status GetJob(grpc::ServerContext* /*context*/, const teq::v1::GetJobRequest* request,
                      Job* response) override {
    last_name = request->name();
    return Answer(response);
  }
  grpc::Status CancelJob(grpc::ServerContext* /*context*/, const teq::v1::CancelJobRequest* request,
                         Job* response) override {
    last_name = request->name();
    return Answer(response);
  }
  grpc::Status RetryJob(grpc::ServerContext* /*context*/, const teq::v1::RetryJobRequest* request,
                        Job* response) override {
    last_name = request->name();
    return Answer(response);
  }
  grpc::Status DeleteJob(grpc::ServerContext* /*context*/, const teq::v1::DeleteJobRequest* request,
                         google::protobuf::Empty* /*response*/) override {
    last_name = request->name();
    return client::ToGrpc(error);
  }
  grpc::Status ListJobs(grpc::ServerContext* /*context*/, const teq::v1::ListJobsRequest* request,
                        teq::v1::ListJobsResponse* response) override {
    lists.push_back(*request);
    // Two pages of two jobs.
    const bool first = request->page_token().empty();
    for (const char* id : first ? std::vector{"d", "c"} : std::vector{"b", "a"}) {
      *response->add_jobs() =
          MakeJob(fmt::format("projects/default/jobs/{}", id), Job::STATE_QUEUED);
    }
    if (first) response->set_next_page_token("second");
    return client::ToGrpc(error);
  }
  grpc::Status UpdateJob(grpc::ServerContext* /*context*/, const teq::v1::UpdateJobRequest* request,
                         Job* response) override {
    updates.push_back(*request);
    if (updates.size() <= update_errors.size()) {
      return client::ToGrpc(
          Error(absl::StatusCode::kAborted, update_errors[updates.size() - 1], "changed"));
    }
    return Answer(response);
  }
  grpc::Status WatchJob(grpc::ServerContext* context, const WatchJobRequest* request,
                        grpc::ServerWriter<WatchJobResponse>* writer) override {
    watches.push_back(*request);
    if (watches.size() > streams.size()) {
      // An open stream that says nothing more.
      while (!context->IsCancelled()) std::this_thread::yield();
      return grpc::Status::CANCELLED;
    }
    const Stream& stream = streams[watches.size() - 1];
    for (const auto& message : stream.messages) {
      writer->Write(message);
      on_watch_message();
    }
    return client::ToGrpc(stream.end);
  }

 private:
  grpc::Status Answer(Job* response) {
    ++calls;
    *response = job;
    return client::ToGrpc(error);
  }
};

WatchJobResponse Snapshot(Job::State state, const std::string& token) {
  WatchJobResponse message;
  *message.mutable_snapshot() = MakeJob("projects/default/jobs/a", state);
  message.set_resume_token(token);
  return message;
}

WatchJobResponse Change(Job::State to, const std::string& token) {
  WatchJobResponse message;
  message.mutable_event()->mutable_state_change()->set_to(to);
  message.set_resume_token(token);
  return message;
}

class AppTest : public ::testing::Test {
 protected:
  AppTest() {
    grpc::ServerBuilder builder;
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
  }

  ExitCode Run(const std::vector<std::string>& arguments, const std::string& input = "") {
    in_.str(input);
    out_.str("");
    err_.str("");
    const Terminal terminal{
        .in = in_,
        .out = out_,
        .err = err_,
        .out_is_terminal = out_is_terminal_,
        .width = [] { return 80; },
        .now = [this] { return now_; },
        .sleep =
            [this](milliseconds time) {
              now_ += time;
              slept_ += time;
            },
        .interrupted = interrupted_,
        .traceparent = traceparent_,
    };
    return RunTeqctl(arguments, terminal, [this](const std::string& address) {
      address_ = address;
      const auto channel = server_->InProcessChannel(grpc::ChannelArguments());
      return Stubs{.jobs = teq::v1::JobService::NewStub(channel),
                   .artifacts = teq::v1::ArtifactService::NewStub(channel)};
    });
  }

  [[nodiscard]] std::string Out() const { return out_.str(); }
  [[nodiscard]] std::string Err() const { return err_.str(); }

  FakeService service_;
  std::unique_ptr<grpc::Server> server_;
  std::istringstream in_;
  std::ostringstream out_;
  std::ostringstream err_;
  std::string address_;
  bool out_is_terminal_ = false;
  std::function<bool()> interrupted_ = [] { return false; };
  std::chrono::steady_clock::time_point now_{};
  milliseconds slept_{0};
  std::string traceparent_;
};

constexpr const char* kJobFile = R"(project: search
labels: {team: x}
model: {uri: "file:///models/m"}
calibration: {uri: "file:///data/c.txt"}
output: {uri: "file:///out/m"}
)";

// ---- Estimate ----

TEST_F(AppTest, EstimateSendsTheSpecAndPrintsStagesOutputsAndWorkers) {
  teq::v1::JobEstimate& estimate = service_.estimate;
  estimate.set_parameters(6'738'415'616);
  teq::v1::StageEstimate& stage = *estimate.add_stages();
  stage.set_stage(teq::v1::STAGE_ROUND);
  stage.set_host_bytes(3 << 20);
  stage.set_scratch_bytes(5 << 20);
  stage.set_seconds(75);
  estimate.set_peak_host_bytes(3 << 20);
  estimate.set_peak_scratch_bytes(5 << 20);
  estimate.set_least_memory_limit_bytes(2 << 20);
  estimate.set_hidden_states(teq::v1::HIDDEN_STATES_IN_FILES);
  estimate.set_end_to_end_pass(teq::v1::END_TO_END_PASS_LEFT_OUT);
  estimate.add_notes("it is left out");
  estimate.add_outputs()->set_format(teq::v1::FORMAT_GPTQ);
  estimate.mutable_outputs(0)->set_bytes(7 << 20);
  estimate.add_workers()->set_worker("w-1");
  estimate.mutable_workers(0)->set_device(teq::v1::DEVICE_CPU);
  estimate.mutable_workers(0)->set_seconds(75);
  estimate.add_workers()->set_worker("w-2");
  estimate.mutable_workers(1)->set_refusal("too small");
  EXPECT_EQ(Run({"estimate", "-f", "-"}, kJobFile), kOk) << Err();
  EXPECT_EQ(service_.estimated.parent(), "projects/search");
  EXPECT_EQ(service_.estimated.spec().model().uri(), "file:///models/m");
  EXPECT_EQ(Out(), R"(parameters          6738.4M
memory limit        none known
least memory limit  2.0 MiB
hidden states       IN_FILES
end-to-end pass     LEFT_OUT

STAGE              MEMORY  ON DEVICE  SCRATCH FILES   TIME
ROUND             3.0 MiB          -        5.0 MiB  1m15s
peak, total time  3.0 MiB          -        5.0 MiB  1m15s

OUTPUT  WEIGHTS
GPTQ    7.0 MiB

WORKER  DEVICE       MEMORY LIMIT  END-TO-END PASS          TIME
w-1     CPU                     -  -                       1m15s
w-2     UNSPECIFIED             -  -                does not fit

note: it is left out
)");
  EXPECT_EQ(Run({"estimate", "-f", "-", "-o", "json"}, kJobFile), kOk) << Err();
  EXPECT_EQ(Json::parse(Out())["stages"][0]["scratch_bytes"], 5 << 20);
  EXPECT_EQ(Json::parse(Out())["hidden_states"], "IN_FILES");
}

TEST_F(AppTest, EstimateOfAnInvalidJobCallsNobody) {
  EXPECT_EQ(Run({"estimate", "-f", "-"}, "model: {uri: nonsense}\n"), kInvalid);
  EXPECT_EQ(service_.calls, 0);
}

TEST_F(AppTest, EstimateTellsTheServersRefusal) {
  service_.error = Error(absl::StatusCode::kFailedPrecondition, "MEMORY_LIMIT", "too little");
  EXPECT_EQ(Run({"estimate", "-f", "-"}, kJobFile), kRefused);
  EXPECT_EQ(Err(), "teqctl: MEMORY_LIMIT: too little\n");
}

TEST_F(AppTest, LocalEstimateNeedsNoServer) {
  const std::string model = fmt::format("{}teqctl-model-{}", ::testing::TempDir(), ::getpid());
  std::filesystem::create_directories(model);
  std::ofstream(model + "/config.json") << R"({"model_type": "llama", "hidden_size": 64,
      "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
      "vocab_size": 512, "max_position_embeddings": 512})";
  const std::string job = fmt::format(R"(
model: {{uri: "file://{}"}}
recipe: {{weights: {{group_size: 32}}}}
calibration: {{uri: "file:///data/c.txt"}}
output: {{uri: "file:///out/m"}}
)",
                                      model);
  EXPECT_EQ(Run({"estimate", "--local", "-f", "-", "-o", "json"}, job), kOk) << Err();
  EXPECT_EQ(service_.calls, 0);
  const Json estimate = Json::parse(Out());
  EXPECT_EQ(estimate["stages"].size(), 8);
  EXPECT_EQ(estimate["end_to_end_pass"], "ONE_GRAPH");
  EXPECT_EQ(Run({"estimate", "--local", "-f", "-"}, kJobFile), kRefused);
  EXPECT_THAT(Err(), StartsWith("teqctl: CONFIG_NOT_READABLE: model.uri: config.json of "
                                "file:///models/m cannot be read from here"));
  std::filesystem::remove_all(model);
}

// ---- Submit ----

TEST_F(AppTest, SubmitSendsTheJobWithAFreshRequestId) {
  EXPECT_EQ(Run({"submit", "-f", "-", "--job-id", "my-job"}, kJobFile), kOk) << Err();
  EXPECT_EQ(Out(), "projects/default/jobs/a  QUEUED\n");
  EXPECT_EQ(service_.created.parent(), "projects/search");
  EXPECT_EQ(service_.created.job_id(), "my-job");
  EXPECT_EQ(service_.created.job().labels().at("team"), "x");
  EXPECT_EQ(service_.created.job().spec().model().uri(), "file:///models/m");
  const std::string first = service_.created.request_id();
  // Version 4, variant 1 (RFC 4122).
  EXPECT_THAT(first, MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-"
                                  "[0-9a-f]{12}"));
  EXPECT_EQ(Run({"submit", "-f", "-"}, kJobFile), kOk);
  EXPECT_NE(service_.created.request_id(), first);
}

TEST_F(AppTest, SubmitPassesTheEnvironmentsTraceOn) {
  traceparent_ = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  EXPECT_EQ(Run({"submit", "-f", "-"}, kJobFile), kOk) << Err();
  EXPECT_THAT(service_.traceparents, ElementsAre(traceparent_));
}

TEST_F(AppTest, SubmitBeginsATraceWhereTheEnvironmentHasNone) {
  for (const char* none : {"", "", "no trace"}) {
    traceparent_ = none;
    EXPECT_EQ(Run({"submit", "-f", "-"}, kJobFile), kOk) << Err();
  }
  EXPECT_THAT(service_.traceparents, SizeIs(3));
  EXPECT_THAT(service_.traceparents,
              ::testing::Each(MatchesRegex("00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]")));
  EXPECT_NE(service_.traceparents[0], service_.traceparents[1]);
}

TEST_F(AppTest, SubmitTakesRequestIdAndProjectFromTheCommandLine) {
  EXPECT_EQ(Run({"--project", "other", "submit", "-f", "-", "--request-id", "r-1"}, kJobFile), kOk);
  EXPECT_EQ(service_.created.parent(), "projects/other");
  EXPECT_EQ(service_.created.request_id(), "r-1");
}

TEST_F(AppTest, SubmitReadsAFile) {
  const std::string path = fmt::format("{}teqctl-job-{}.yaml", ::testing::TempDir(), ::getpid());
  std::ofstream(path) << kJobFile;
  EXPECT_EQ(Run({"submit", "-f", path}), kOk) << Err();
  EXPECT_EQ(service_.created.parent(), "projects/search");
  std::filesystem::remove(path);
}

TEST_F(AppTest, ValidateOnlyQueuesNothing) {
  EXPECT_EQ(Run({"submit", "-f", "-", "--validate-only"}, kJobFile), kOk);
  EXPECT_TRUE(service_.created.validate_only());
  EXPECT_THAT(Out(), HasSubstr("is valid; nothing was submitted"));
}

TEST_F(AppTest, InvalidJobIsRefusedBeforeAnyCall) {
  EXPECT_EQ(Run({"submit", "-f", "-"}, std::string(kJobFile) + "recipe: {weights: {bits: 5}}\n"),
            kInvalid);
  EXPECT_EQ(Err(),
            "teqctl: INVALID_SPEC: standard input: recipe.weights.bits: 5 is not a supported "
            "width; use 2, 3, 4 or 8\n");
  EXPECT_EQ(Out(), "");
  EXPECT_EQ(service_.calls, 0);
}

TEST_F(AppTest, UnknownFieldOfAJobFileIsNamedWithItsLine) {
  EXPECT_EQ(Run({"submit", "-f", "-"}, std::string(kJobFile) + "modle: x\n"), kInvalid);
  EXPECT_THAT(Err(), StartsWith("teqctl: INVALID_JOB_FILE: standard input:6: modle: unknown field; "
                                "known: project, priority"));
}

TEST_F(AppTest, JobFileThatIsNotUtf8IsNamedWithItsLine) {
  EXPECT_EQ(Run({"submit", "-f", "-"}, std::string(kJobFile) + "priority: \xe4\n"), kInvalid);
  EXPECT_EQ(Err(),
            "teqctl: INVALID_JOB_FILE: standard input:6: is not UTF-8; save the file in that "
            "encoding\n");
  EXPECT_EQ(service_.calls, 0);
}

TEST_F(AppTest, BadLabelIsRefusedBeforeAnyCall) {
  EXPECT_EQ(Run({"submit", "-f", "-"}, "labels: {A: x}\n" + std::string(kJobFile)), kInvalid);
  EXPECT_EQ(service_.calls, 0);
}

TEST_F(AppTest, MissingFileIsNamed) {
  EXPECT_EQ(Run({"submit", "-f", "/nowhere/job.yaml"}), kInvalid);
  EXPECT_THAT(Err(), HasSubstr("FILE_NOT_READABLE: /nowhere/job.yaml: cannot be opened"));
  EXPECT_EQ(Run({"submit", "-f", "/"}), kInvalid);
  EXPECT_THAT(Err(), HasSubstr("FILE_NOT_READABLE: /: is a directory; name a job file, or - for "
                               "standard input"));
  EXPECT_EQ(Run({"submit", "-f", "/dev/null"}), kInvalid);
  EXPECT_THAT(Err(), HasSubstr("/dev/null: is empty"));
  EXPECT_EQ(service_.calls, 0);
}

TEST_F(AppTest, BadJobIdIsRefusedBeforeAnyCall) {
  EXPECT_EQ(Run({"submit", "-f", "-", "--job-id", "My_Job"}, kJobFile), kInvalid);
  EXPECT_THAT(Err(), HasSubstr("INVALID_NAME: --job-id \"My_Job\" is not an id"));
}

// ---- Names, formats, errors ----

TEST_F(AppTest, NameMayBeAnIdOrAResourceName) {
  EXPECT_EQ(Run({"get", "a"}), kOk);
  EXPECT_EQ(service_.last_name, "projects/default/jobs/a");
  EXPECT_EQ(Run({"get", "a", "--project", "p"}), kOk);
  EXPECT_EQ(service_.last_name, "projects/p/jobs/a");
  EXPECT_EQ(Run({"get", "projects/q/jobs/a"}), kOk);
  EXPECT_EQ(service_.last_name, "projects/q/jobs/a");
  EXPECT_EQ(Run({"get", "A B"}), kInvalid);
  EXPECT_THAT(Err(), HasSubstr("INVALID_NAME"));
}

TEST_F(AppTest, OutputFormatMayStandBeforeOrAfterTheCommand) {
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"-o", "json", "get", "a"}, {"get", "a", "-o", "json"}, {"get", "-o", "json", "a"}}) {
    ASSERT_EQ(Run(arguments), kOk) << Err();
    const Json job = Json::parse(Out());
    EXPECT_EQ(job["name"], "projects/default/jobs/a");
    EXPECT_EQ(job["state"], "QUEUED");
  }
  EXPECT_EQ(Run({"get", "a", "-o", "yaml"}), kOk);
  EXPECT_THAT(Out(), StartsWith("name: projects/default/jobs/a\n"));
}

TEST_F(AppTest, ServerIsTakenFromTheCommandLine) {
  EXPECT_EQ(Run({"get", "a", "--server", "unix:/run/x"}), kOk);
  EXPECT_EQ(address_, "unix:/run/x");
}

TEST_F(AppTest, RefusalIsPrintedWithReasonAndMessage) {
  service_.error = Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "no job\nof that name");
  EXPECT_EQ(Run({"get", "a"}), kRefused);
  EXPECT_EQ(Err(), "teqctl: JOB_NOT_FOUND: no job?of that name\n");
  EXPECT_EQ(Out(), "");
}

TEST_F(AppTest, WithJsonTheErrorIsAStatusInJson) {
  service_.error = Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "no such job", {{"a", "b"}});
  EXPECT_EQ(Run({"get", "a", "-o", "json"}), kRefused);
  const Json status = Json::parse(Err());
  EXPECT_EQ(status["code"], 5);
  EXPECT_EQ(status["message"], "no such job");
  EXPECT_EQ(status["details"][0]["reason"], "JOB_NOT_FOUND");
}

TEST_F(AppTest, NoAnswerHasACodeOfItsOwnAndSaysWhatToDo) {
  service_.error = absl::UnavailableError("connection refused");
  EXPECT_EQ(Run({"get", "a", "--server", "h:1"}), kUnreachable);
  EXPECT_EQ(Err(),
            "teqctl: SERVER_UNREACHABLE: no answer from h:1 (connection refused); start "
            "teq-server, or name another server by --server or TEQ_SERVER\n");
}

TEST_F(AppTest, WrongUsageIsToldWithoutACall) {
  for (const auto& arguments :
       std::vector<std::vector<std::string>>{{},
                                             {"frobnicate"},
                                             {"get"},
                                             {"get", "a", "b"},
                                             {"get", "a", "-o", "xml"},
                                             {"submit"},
                                             {"list", "--limit", "0"},
                                             {"list", "--limit", "x"},
                                             {"update", "a"},
                                             {"update", "a", "--priority", "99999999999"}}) {
    EXPECT_EQ(Run(arguments), kInvalid) << fmt::format("{}", fmt::join(arguments, " "));
    EXPECT_THAT(Err(), StartsWith("teqctl: USAGE: "));
  }
  EXPECT_EQ(service_.calls, 0);
}

TEST_F(AppTest, WrongUsageNamesWhatIsWrong) {
  EXPECT_EQ(Run({"sumbit", "-f", "job.yaml"}), kInvalid);
  EXPECT_THAT(Err(), StartsWith("teqctl: USAGE: \"sumbit\" is no command; known: submit, "));
  EXPECT_EQ(Run({"list", "-o", "xml"}), kInvalid);
  EXPECT_THAT(Err(), HasSubstr("xml not in {table,json,yaml}"));
  EXPECT_EQ(Run({"list", "--limit", "0"}), kInvalid);
  EXPECT_THAT(Err(), HasSubstr("0 not in range 1 to 2147483647"));
}

TEST_F(AppTest, ArgumentThatIsNotUtf8IsNamedWithoutACall) {
  for (const auto& arguments :
       std::vector<std::vector<std::string>>{{"list", "--filter", "\xff"},
                                             {"submit", "-f", "-", "--request-id", "\xff"},
                                             {"get", "\xff"},
                                             {"frobnicate", "\xff"}}) {
    EXPECT_EQ(Run(arguments, kJobFile), kInvalid) << arguments[0];
    EXPECT_THAT(Err(), HasSubstr("USAGE: argument"));
    EXPECT_THAT(Err(), HasSubstr(", \"\\xff\", is not UTF-8"));
  }
  EXPECT_EQ(Run({"update", "a", "--label", "a=\xff"}), kInvalid);
  EXPECT_EQ(Err(), "teqctl: USAGE: argument 4, \"a=\\xff\", is not UTF-8; write it in UTF-8\n");
  EXPECT_EQ(Run({"list", "--filter", "\xff", "-o", "json"}), kInvalid);
  EXPECT_EQ(Json::parse(Err())["details"][0]["reason"], "USAGE");
  EXPECT_EQ(service_.calls, 0);
  EXPECT_EQ(address_, "");
}

TEST_F(AppTest, ServerWithoutAnAddressIsWrongUsage) {
  for (const char* server : {"", "unix:", "localhost:"}) {
    EXPECT_EQ(Run({"get", "a", "--server", server}), kInvalid);
    EXPECT_EQ(Err(), fmt::format("teqctl: USAGE: --server or TEQ_SERVER: \"{}\" is no address of a "
                                 "server; write host:port, such as 127.0.0.1:8470, or unix:PATH\n",
                                 server));
  }
  EXPECT_EQ(address_, "");
  EXPECT_EQ(Run({"version", "--server", ""}), kOk) << Err();
}

TEST_F(AppTest, HelpAndVersionNeedNoServer) {
  EXPECT_EQ(Run({"--help"}), kOk);
  EXPECT_THAT(Out(), HasSubstr("Exit codes"));
  EXPECT_EQ(Run({"--version"}), kOk);
  EXPECT_EQ(Out(), "teqctl " TEQ_VERSION "\n");
  EXPECT_EQ(Run({"version"}), kOk);
  EXPECT_EQ(Out(), "teqctl " TEQ_VERSION "\n");
  EXPECT_EQ(Run({"version", "-o", "json"}), kOk);
  EXPECT_EQ(Json::parse(Out())["version"], TEQ_VERSION);
  EXPECT_EQ(address_, "");
}

// ---- Recipes ----

TEST_F(AppTest, RecipePrintsAPresetThatAJobFileCanHold) {
  for (const PresetText& preset : Presets()) {
    const std::string name = ShortEnumName(teq::v1::Preset_descriptor(), preset.preset);
    ASSERT_EQ(Run({"recipe", name}), kOk) << Err();
    EXPECT_THAT(Out(), StartsWith("recipe:\n  weights:\n    bits: 4\n"));
    const auto file = ParseJobFile(Out(), "printed");
    ASSERT_TRUE(file.ok()) << file.status();
    teq::v1::Recipe named;
    named.set_preset(preset.preset);
    // Both are the same job.
    EXPECT_EQ(Digest(RecipeWithDefaults(file->job.spec().recipe())),
              Digest(RecipeWithDefaults(named)));
  }
  EXPECT_EQ(address_, "");
}

TEST_F(AppTest, RecipeInJsonAndYamlIsTheRecipeItself) {
  EXPECT_EQ(Run({"recipe", "fast", "-o", "json"}), kOk) << Err();
  const Json recipe = Json::parse(Out());
  EXPECT_EQ(recipe["preset"], "FAST");
  EXPECT_EQ(recipe["rounding"]["gptq"]["order_by_activation"], true);
  EXPECT_EQ(Run({"-o", "yaml", "recipe", "FAST"}), kOk);
  EXPECT_THAT(Out(), StartsWith("weights:\n"));
}

TEST_F(AppTest, RecipeWithoutANameListsThePresets) {
  EXPECT_EQ(Run({"recipe"}), kOk) << Err();
  EXPECT_THAT(Out(), MatchesRegex("NAME +RECIPE\nFAST +[^\n]+\nBALANCED +[^\n]+\nBEST +[^\n]+\n"));
  EXPECT_EQ(Run({"recipe", "-o", "json"}), kOk);
  const Json list = Json::parse(Out());
  ASSERT_EQ(list.size(), 3U);
  EXPECT_EQ(list[1]["name"], "BALANCED");
  EXPECT_EQ(address_, "");
}

TEST_F(AppTest, UnknownRecipeIsToldWithTheKnownNames) {
  EXPECT_EQ(Run({"recipe", "GOOD"}), kInvalid);
  EXPECT_EQ(Err(),
            "teqctl: UNKNOWN_PRESET: \"GOOD\" is not a preset; known: FAST, BALANCED, BEST\n");
  EXPECT_EQ(Out(), "");
  EXPECT_EQ(Run({"recipe", "UNSPECIFIED"}), kInvalid);
  EXPECT_EQ(Run({"recipe", "FAST", "BEST"}), kInvalid);
  EXPECT_EQ(address_, "");
}

// ---- List, verbs, update, report ----

TEST_F(AppTest, ListFollowsThePages) {
  EXPECT_EQ(Run({"list", "--filter", "state = QUEUED", "-o", "json"}), kOk);
  const Json jobs = Json::parse(Out());
  ASSERT_EQ(jobs.size(), 4U);
  EXPECT_EQ(jobs[0]["name"], "projects/default/jobs/d");
  EXPECT_EQ(jobs[3]["name"], "projects/default/jobs/a");
  ASSERT_THAT(service_.lists, SizeIs(2));
  EXPECT_EQ(service_.lists[1].page_token(), "second");
  EXPECT_EQ(service_.lists[1].filter(), "state = QUEUED");
  EXPECT_EQ(service_.lists[1].page_size(), service_.lists[0].page_size());
}

TEST_F(AppTest, ListStopsAtItsLimit) {
  EXPECT_EQ(Run({"list", "--limit", "3", "--project", "-", "-o", "json"}), kOk) << Err();
  EXPECT_EQ(Json::parse(Out()).size(), 3U);
  EXPECT_EQ(service_.lists[0].parent(), "projects/-");
  EXPECT_EQ(Run({"list", "--limit", "2"}), kOk);
  EXPECT_THAT(service_.lists, SizeIs(3));
}

TEST_F(AppTest, VerbsNameTheJobAndPrintItsState) {
  service_.job.set_state(Job::STATE_CANCELLED);
  EXPECT_EQ(Run({"cancel", "a"}), kOk);
  EXPECT_EQ(Out(), "projects/default/jobs/a  CANCELLED\n");
  EXPECT_EQ(Run({"retry", "b"}), kOk);
  EXPECT_EQ(service_.last_name, "projects/default/jobs/b");
  EXPECT_EQ(Run({"delete", "c"}), kOk);
  EXPECT_EQ(service_.last_name, "projects/default/jobs/c");
  EXPECT_EQ(Out(), "projects/default/jobs/c  deleted\n");
}

TEST_F(AppTest, UpdateOfThePriorityAloneSendsOnlyThat) {
  EXPECT_EQ(Run({"update", "a", "--priority", "-5"}), kOk) << Err();
  ASSERT_THAT(service_.updates, SizeIs(1));
  EXPECT_EQ(service_.updates[0].job().priority(), -5);
  EXPECT_THAT(service_.updates[0].update_mask().paths(), ElementsAre("priority"));
  EXPECT_EQ(service_.updates[0].job().etag(), "");
}

TEST_F(AppTest, UpdateOfLabelsKeepsTheOthersAndTheEtag) {
  (*service_.job.mutable_labels())["keep"] = "1";
  (*service_.job.mutable_labels())["drop"] = "2";
  service_.job.set_etag("e7");
  EXPECT_EQ(Run({"update", "--label", "team=a=b", "--remove-label", "drop", "a"}), kOk) << Err();
  ASSERT_THAT(service_.updates, SizeIs(1));
  const auto& sent = service_.updates[0];
  EXPECT_EQ(sent.job().etag(), "e7");
  EXPECT_EQ(sent.job().labels().size(), 2U);
  EXPECT_EQ(sent.job().labels().at("keep"), "1");
  EXPECT_EQ(sent.job().labels().at("team"), "a=b");
  EXPECT_THAT(sent.update_mask().paths(), ElementsAre("labels"));
}

TEST_F(AppTest, UpdateTriesAgainWhenTheJobChangedMeanwhile) {
  service_.update_errors = {"ETAG_MISMATCH", "ETAG_MISMATCH"};
  EXPECT_EQ(Run({"update", "a", "--label", "x=y"}), kOk) << Err();
  EXPECT_THAT(service_.updates, SizeIs(3));
}

TEST_F(AppTest, LabelWithoutAValueIsWrongUsage) {
  EXPECT_EQ(Run({"update", "a", "--label", "team"}), kInvalid);
  EXPECT_THAT(Err(), HasSubstr("--label \"team\" has no '='; write --label key=value"));
  EXPECT_EQ(service_.calls, 0);
}

TEST_F(AppTest, ReportPrintsTheReportItself) {
  service_.job.mutable_report()->add_perplexity()->set_quantized(13.5);
  EXPECT_EQ(Run({"report", "a", "-o", "json"}), kOk);
  EXPECT_EQ(Json::parse(Out())["perplexity"][0]["quantized"], 13.5);
  EXPECT_EQ(Run({"report", "a"}), kOk);
  EXPECT_THAT(Out(), HasSubstr("13.500"));
}

TEST_F(AppTest, JobWithoutAReportSaysWhenOneComes) {
  EXPECT_EQ(Run({"report", "a"}), kRefused);
  EXPECT_EQ(Err(),
            "teqctl: NO_REPORT: projects/default/jobs/a is QUEUED and has no report; one comes "
            "when its run has ended\n");
}

// ---- Watch ----

TEST_F(AppTest, WatchEndsWithASummaryAndSuccess) {
  service_.job.set_state(Job::STATE_SUCCEEDED);
  service_.streams = {
      {{Snapshot(Job::STATE_RUNNING, "1"), Change(Job::STATE_SUCCEEDED, "2")}, absl::OkStatus()}};
  EXPECT_EQ(Run({"watch", "a"}), kOk) << Err();
  EXPECT_THAT(Out(), HasSubstr("projects/default/jobs/a  RUNNING\n"));
  EXPECT_THAT(Out(), HasSubstr("projects/default/jobs/a  SUCCEEDED\n"));
  EXPECT_EQ(Out().find('\x1b'), std::string::npos);
}

TEST_F(AppTest, WatchOfAFailedJobTellsTheReasonAndFails) {
  service_.job.set_state(Job::STATE_FAILED);
  *service_.job.mutable_error() =
      ToProto(Error(absl::StatusCode::kAborted, "NAN_LOSS", "the loss of step 7 is NaN"));
  service_.streams = {{{Change(Job::STATE_FAILED, "1")}, absl::OkStatus()}};
  EXPECT_EQ(Run({"watch", "a"}), kNotAsExpected);
  EXPECT_THAT(Out(), HasSubstr("NAN_LOSS: the loss of step 7 is NaN\n"));
}

TEST_F(AppTest, WatchResumesWhereALostConnectionEnded) {
  service_.job.set_state(Job::STATE_SUCCEEDED);
  service_.streams = {{{Snapshot(Job::STATE_RUNNING, "1")}, absl::UnavailableError("reset")},
                      {{}, absl::UnavailableError("refused")},
                      {{Change(Job::STATE_SUCCEEDED, "2")}, absl::OkStatus()}};
  EXPECT_EQ(Run({"watch", "a"}), kOk) << Err();
  ASSERT_THAT(service_.watches, SizeIs(3));
  EXPECT_EQ(service_.watches[0].resume_token(), "");
  EXPECT_EQ(service_.watches[1].resume_token(), "1");
  EXPECT_EQ(service_.watches[2].resume_token(), "1");
  EXPECT_THAT(Out(), HasSubstr("connection lost; trying again\nconnected again\n"));
  EXPECT_THAT(Out(), HasSubstr("connected again\nprojects/default/jobs/a  SUCCEEDED\n"));
}

TEST_F(AppTest, WatchStartsAfreshWhenItsTokenIsUnknown) {
  service_.job.set_state(Job::STATE_SUCCEEDED);
  service_.streams = {
      {{Snapshot(Job::STATE_RUNNING, "1")}, absl::UnavailableError("reset")},
      {{}, Error(absl::StatusCode::kInvalidArgument, "INVALID_RESUME_TOKEN", "not one")},
      {{Snapshot(Job::STATE_SUCCEEDED, "9")}, absl::OkStatus()}};
  EXPECT_EQ(Run({"watch", "a"}), kOk) << Err();
  ASSERT_THAT(service_.watches, SizeIs(3));
  EXPECT_EQ(service_.watches[2].resume_token(), "");
}

TEST_F(AppTest, WatchDoesNotGoOnWithAnotherJobOfTheName) {
  service_.job.set_uid("another");
  service_.job.set_state(Job::STATE_SUCCEEDED);
  service_.streams = {
      {{Snapshot(Job::STATE_RUNNING, "1")}, absl::UnavailableError("reset")},
      {{}, Error(absl::StatusCode::kInvalidArgument, "INVALID_RESUME_TOKEN", "not one")}};
  EXPECT_EQ(Run({"watch", "a"}), kRefused);
  EXPECT_THAT(Err(), HasSubstr("INVALID_RESUME_TOKEN"));
}

TEST_F(AppTest, WatchGivesUpTenMinutesAfterTheLastContact) {
  service_.streams.assign(1000, {{}, absl::UnavailableError("refused")});
  EXPECT_EQ(Run({"watch", "a"}), kUnreachable);
  EXPECT_THAT(Err(), HasSubstr("SERVER_UNREACHABLE"));
  EXPECT_THAT(Err(), HasSubstr("teqctl watch projects/default/jobs/a\n"));
  EXPECT_GE(slept_, std::chrono::minutes(10));
  EXPECT_LT(slept_, std::chrono::minutes(11));
}

TEST_F(AppTest, WatchEndsOnARefusal) {
  service_.streams = {{{}, Error(absl::StatusCode::kNotFound, "JOB_NOT_FOUND", "deleted")}};
  EXPECT_EQ(Run({"watch", "a"}), kRefused);
  EXPECT_THAT(service_.watches, SizeIs(1));
}

TEST_F(AppTest, CtrlCLeavesTheJobAloneAndSaysHowToComeBack) {
  service_.streams = {{{Snapshot(Job::STATE_RUNNING, "1")}, absl::UnavailableError("never seen")}};
  std::atomic<bool> pressed{false};
  service_.on_watch_message = [&pressed] { pressed = true; };
  interrupted_ = [&pressed] { return pressed.load(); };
  EXPECT_EQ(Run({"watch", "a", "--server", "h:1"}), kInterrupted);
  EXPECT_EQ(Err(),
            "the job goes on; see it again with: teqctl watch projects/default/jobs/a "
            "--server h:1\n");
  EXPECT_EQ(service_.last_name, "projects/default/jobs/a");
}

TEST_F(AppTest, CtrlCIsSeenWhileTheServerIsSilent) {
  interrupted_ = [asked = 0]() mutable { return ++asked > 3; };  // well into the stream
  EXPECT_EQ(Run({"watch", "a"}), kInterrupted);
}

TEST_F(AppTest, WithJsonAWatchPrintsOnlyTheJobAsItEnded) {
  service_.job.set_state(Job::STATE_SUCCEEDED);
  service_.streams = {
      {{Snapshot(Job::STATE_RUNNING, "1"), Change(Job::STATE_SUCCEEDED, "2")}, absl::OkStatus()}};
  EXPECT_EQ(Run({"submit", "-f", "-", "--watch", "-o", "json"}, kJobFile), kOk);
  EXPECT_EQ(Json::parse(Out())["state"], "SUCCEEDED");
  EXPECT_THAT(Err(), HasSubstr("RUNNING"));
}

TEST_F(AppTest, OnATerminalTheDisplayIsDrawnInPlaceAndGoneAtTheEnd) {
  out_is_terminal_ = true;
  service_.job.set_state(Job::STATE_SUCCEEDED);
  service_.streams = {
      {{Snapshot(Job::STATE_RUNNING, "1"), Change(Job::STATE_SUCCEEDED, "2")}, absl::OkStatus()}};
  EXPECT_EQ(Run({"watch", "a"}), kOk);
  EXPECT_THAT(Out(), HasSubstr("\r\x1b[1A\x1b[J"));
  EXPECT_THAT(Out(), ::testing::EndsWith("\x1b[Jprojects/default/jobs/a  SUCCEEDED\n"));
}

}  // namespace
}  // namespace teq::cli
