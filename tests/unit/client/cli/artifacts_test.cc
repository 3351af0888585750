// teqctl's commands on published checkpoints, on real files and a fake server.
#include "client/cli/artifacts.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "client/api/grpc_status.h"
#include "client/cli/app.h"
#include "client/objects/file.h"
#include "client/objects/local_store.h"
#include "client/objects/store_publication.h"
#include "gmock/gmock.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/uri.h"

namespace teq::cli {
namespace {

namespace fs = std::filesystem;
using teq::v1::Job;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::ordered_json;

class FakeJobs final : public teq::v1::JobService::Service {
 public:
  Job job;
  grpc::Status GetJob(grpc::ServerContext* /*context*/, const teq::v1::GetJobRequest* /*request*/,
                      Job* response) override {
    *response = job;
    return grpc::Status::OK;
  }
};

class FakeArtifacts final : public teq::v1::ArtifactService::Service {
 public:
  std::string manifest;
  std::string manifest_sha256;
  absl::Status url_error;
  std::vector<std::string> list_parents;
  std::vector<teq::v1::CreateDownloadUrlRequest> urls;
  std::vector<teq::v1::VerifyArtifactRequest> verifications;
  teq::v1::VerifyArtifactResponse verification;

  grpc::Status ListArtifacts(grpc::ServerContext* /*context*/,
                             const teq::v1::ListArtifactsRequest* request,
                             teq::v1::ListArtifactsResponse* response) override {
    list_parents.push_back(request->parent());
    // Two pages.
    const bool first = request->page_token().empty();
    auto* artifact = response->add_artifacts();
    artifact->set_name(first ? "projects/default/jobs/a/artifacts/gptq"
                             : "projects/default/jobs/a/artifacts/awq");
    artifact->mutable_artifact()->set_path(first ? "s3://b/1-1/gptq" : "s3://b/1-1/awq");
    artifact->mutable_artifact()->set_bytes(2048);
    if (first) response->set_next_page_token("second");
    return grpc::Status::OK;
  }
  grpc::Status GetManifest(grpc::ServerContext* /*context*/,
                           const teq::v1::GetManifestRequest* /*request*/,
                           teq::v1::Manifest* response) override {
    response->set_content(manifest);
    response->set_sha256(manifest_sha256);
    return grpc::Status::OK;
  }
  grpc::Status CreateDownloadUrl(grpc::ServerContext* /*context*/,
                                 const teq::v1::CreateDownloadUrlRequest* request,
                                 teq::v1::CreateDownloadUrlResponse* /*response*/) override {
    urls.push_back(*request);
    return client::ToGrpc(url_error);
  }
  grpc::Status VerifyArtifact(grpc::ServerContext* /*context*/,
                              const teq::v1::VerifyArtifactRequest* request,
                              teq::v1::VerifyArtifactResponse* response) override {
    verifications.push_back(*request);
    *response = verification;
    return grpc::Status::OK;
  }
};

class ArtifactsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teqctl-artifacts-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    fs::create_directories(directory_ / "out");
    Publish();
    jobs_.job.set_name("projects/default/jobs/a");
    jobs_.job.set_state(Job::STATE_SUCCEEDED);
    jobs_.job.set_manifest_sha256(sha256_);
    jobs_.job.mutable_spec()->mutable_output()->set_uri(Uri());
    artifacts_.manifest = objects::ReadFile(directory_ / "out" / "manifest.json").value();
    artifacts_.manifest_sha256 = sha256_;
    grpc::ServerBuilder builder;
    builder.RegisterService(&jobs_);
    builder.RegisterService(&artifacts_);
    server_ = builder.BuildAndStart();
  }
  void TearDown() override { fs::remove_all(directory_); }

  // As an object store holds it: below the attempt's prefix.
  void Publish() {
    const objects::Publisher publisher{.job = "projects/default/jobs/a", .job_uid = "u"};
    auto publication = objects::BeginInStore(objects::OpenLocalStore(directory_ / "out"),
                                             directory_ / "data", publisher, {"gptq", "awq"})
                           .value();
    for (const char* format : {"gptq", "awq"}) {
      ASSERT_TRUE(objects::WriteFileAtomically(
                      publication.StagingDirectory(format) / "model.safetensors", "weights")
                      .ok());
    }
    teq::v1::Report report;
    sha256_ = publication.Seal(report).value();
    ASSERT_TRUE(publication.Upload().ok());
    ASSERT_TRUE(publication.Publish(sha256_).ok());
  }

  ExitCode Run(const std::vector<std::string>& arguments) {
    out_.str("");
    err_.str("");
    std::istringstream in;
    const Terminal terminal{.in = in,
                            .out = out_,
                            .err = err_,
                            .err_is_terminal = err_is_terminal_,
                            .width = [] { return 100; },
                            .now = std::chrono::steady_clock::now,
                            .sleep = [](std::chrono::milliseconds) {},
                            .interrupted = [this] { return interrupted_; }};
    return RunTeqctl(arguments, terminal, [this](const std::string&) {
      const auto channel = server_->InProcessChannel(grpc::ChannelArguments());
      return Stubs{.jobs = teq::v1::JobService::NewStub(channel),
                   .artifacts = teq::v1::ArtifactService::NewStub(channel)};
    });
  }

  [[nodiscard]] std::string Uri() const { return FileUri(directory_ / "out"); }
  [[nodiscard]] std::string To() const { return directory_ / "pulled"; }
  [[nodiscard]] fs::path Published(const std::string& name) const {
    return directory_ / "out" / "1-1" / name;
  }
  static void Overwrite(const fs::path& path, const std::string& text) {
    ASSERT_TRUE(objects::WriteFileAtomically(path, text).ok());
  }
  static std::string Text(const fs::path& path) { return objects::ReadFile(path).value(); }

  fs::path directory_;
  std::string sha256_;
  FakeJobs jobs_;
  FakeArtifacts artifacts_;
  std::unique_ptr<grpc::Server> server_;
  std::ostringstream out_;
  std::ostringstream err_;
  bool err_is_terminal_ = false;
  bool interrupted_ = false;
};

TEST_F(ArtifactsTest, ListShowsEveryPageOfAProjectOrAJob) {
  EXPECT_EQ(Run({"artifacts"}), kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("projects/default/jobs/a/artifacts/gptq  2.0 KiB"));
  EXPECT_THAT(out_.str(), HasSubstr("s3://b/1-1/awq"));
  EXPECT_EQ(Run({"artifacts", "a", "-o", "json"}), kOk);
  EXPECT_EQ(Json::parse(out_.str()).size(), 2);
  EXPECT_THAT(artifacts_.list_parents,
              ::testing::ElementsAre("projects/default/jobs/-", "projects/default/jobs/-",
                                     "projects/default/jobs/a", "projects/default/jobs/a"));
}

TEST_F(ArtifactsTest, ManifestIsShownByteForByte) {
  EXPECT_EQ(Run({"manifest", "a"}), kOk);
  EXPECT_EQ(objects::Sha256(out_.str()), sha256_);
  EXPECT_EQ(Run({"manifest", "a", "-o", "yaml"}), kOk);
  EXPECT_THAT(out_.str(), StartsWith("schema: teqd.manifest.v1\n"));
}

TEST_F(ArtifactsTest, PullBringsAJobsFilesWithoutTheAttemptsPrefix) {
  EXPECT_EQ(Run({"pull", "a", To()}), kOk) << err_.str();
  EXPECT_EQ(Text(fs::path(To()) / "gptq" / "model.safetensors"), "weights");
  EXPECT_EQ(Text(fs::path(To()) / "awq" / "model.safetensors"), "weights");
  EXPECT_TRUE(fs::exists(fs::path(To()) / "report.json"));
  EXPECT_EQ(objects::Sha256(Text(fs::path(To()) / "manifest.json")), sha256_);
  EXPECT_FALSE(fs::exists(To() + ".partial"));
  EXPECT_THAT(out_.str(), HasSubstr("GPTQ  " + To() + "/gptq\n"));
  EXPECT_THAT(out_.str(), HasSubstr("3 files fetched"));
  // What was pulled is an output that can be verified.
  EXPECT_EQ(Run({"verify", FileUri(To())}), kOk) << out_.str() << err_.str();
}

TEST_F(ArtifactsTest, PullTakesAUriAndOneFormat) {
  EXPECT_EQ(Run({"pull", Uri(), To(), "--format", "awq", "-o", "json"}), kOk) << err_.str();
  EXPECT_FALSE(fs::exists(fs::path(To()) / "gptq"));
  const Json answer = Json::parse(out_.str());
  EXPECT_EQ(answer["artifacts"][0]["format"], "AWQ");
  EXPECT_EQ(answer["artifacts"].size(), 1);
  EXPECT_EQ(answer["fetched_files"], 1);
  EXPECT_EQ(answer["fetched_bytes"], 7);
  // The others can follow.
  EXPECT_EQ(Run({"pull", Uri(), To()}), kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("2 files fetched"));
  EXPECT_THAT(out_.str(), HasSubstr("1 kept"));
  EXPECT_TRUE(fs::exists(fs::path(To()) / "gptq"));
  EXPECT_EQ(Run({"pull", Uri(), To(), "--format", "gguf"}), kRefused);
  EXPECT_THAT(err_.str(), HasSubstr("FORMAT_NOT_PUBLISHED"));
  EXPECT_THAT(err_.str(), HasSubstr("AWQ, GPTQ"));
}

TEST_F(ArtifactsTest, FileThatIsNotWhatTheManifestSaysIsNamedWithBothDigestsAndNothingIsPulled) {
  Overwrite(Published("gptq/model.safetensors"), "weightz");
  EXPECT_EQ(Run({"pull", "a", To()}), kNotAsExpected);
  EXPECT_THAT(err_.str(), HasSubstr("CHECKSUM_MISMATCH: 1-1/gptq/model.safetensors"));
  EXPECT_THAT(err_.str(), HasSubstr(objects::Sha256("weightz")));
  EXPECT_THAT(err_.str(), HasSubstr(objects::Sha256("weights")));
  EXPECT_FALSE(fs::exists(To()));
}

TEST_F(ArtifactsTest, DamagedFileOfAPulledDirectoryIsFetchedAgain) {
  ASSERT_EQ(Run({"pull", "a", To()}), kOk);
  Overwrite(fs::path(To()) / "gptq" / "model.safetensors", "weightz");
  EXPECT_EQ(Run({"pull", "a", To()}), kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("1 files fetched"));
  EXPECT_EQ(Text(fs::path(To()) / "gptq" / "model.safetensors"), "weights");
}

TEST_F(ArtifactsTest, EmptyDirectoryIsTakenAndALinkToOneRefusedBeforeAnythingComes) {
  fs::create_directories(To());
  const std::string link = To() + "-link";
  fs::create_directory_symlink(To(), link);
  EXPECT_EQ(Run({"pull", "a", link}), kRefused);
  EXPECT_THAT(err_.str(), HasSubstr("DIRECTORY_IN_USE: " + link + ": is empty, but"));
  EXPECT_FALSE(fs::exists(link + ".partial"));
  EXPECT_EQ(Run({"pull", "a", To()}), kOk) << err_.str();
  fs::remove(link);
}

TEST_F(ArtifactsTest, DirectoryWithOtherContentIsRefused) {
  fs::create_directories(To());
  Overwrite(fs::path(To()) / "mine", "precious");
  EXPECT_EQ(Run({"pull", "a", To()}), kRefused);
  EXPECT_THAT(err_.str(), HasSubstr("DIRECTORY_IN_USE: " + To()));
  EXPECT_EQ(Text(fs::path(To()) / "mine"), "precious");
  EXPECT_FALSE(fs::exists(To() + ".partial"));
}

TEST_F(ArtifactsTest, EmptyDirectoryIsWrongUsage) {
  EXPECT_EQ(Run({"pull", "a", ""}), kInvalid);
  EXPECT_EQ(err_.str(), "teqctl: USAGE: DIRECTORY is empty; name a new directory\n");
}

TEST_F(ArtifactsTest, RelativeDirectoryIsWrongUsageWhereTheCurrentOneIsGone) {
  const fs::path before = fs::current_path();
  fs::create_directories(directory_ / "gone");
  fs::current_path(directory_ / "gone");
  fs::remove(directory_ / "gone");
  EXPECT_EQ(Run({"pull", "a", "pulled"}), kInvalid);
  EXPECT_THAT(err_.str(), StartsWith("teqctl: USAGE: DIRECTORY \"pulled\" is relative, and the "
                                     "current directory cannot be found ("));
  EXPECT_EQ(Run({"pull", "a", To()}), kOk) << err_.str();
  fs::current_path(before);
}

TEST_F(ArtifactsTest, RelativeDirectoryLiesBelowTheCurrentOne) {
  const fs::path before = fs::current_path();
  fs::current_path(directory_);
  EXPECT_EQ(Run({"pull", "a", "pulled/"}), kOk) << err_.str();
  fs::current_path(before);
  EXPECT_EQ(Text(fs::path(To()) / "gptq" / "model.safetensors"), "weights");
  EXPECT_FALSE(fs::exists(To() + ".partial"));
}

TEST_F(ArtifactsTest, InterruptedPullLeavesNoDirectoryAndIsResumed) {
  interrupted_ = true;
  EXPECT_EQ(Run({"pull", "a", To()}), kInterrupted);
  EXPECT_THAT(err_.str(), HasSubstr("the same command goes on"));
  EXPECT_FALSE(fs::exists(To()));
  interrupted_ = false;
  // A file that is whole already, and one that is not.
  fs::create_directories(To() + ".partial/gptq");
  fs::create_directories(To() + ".partial/awq");
  Overwrite(To() + ".partial/gptq/model.safetensors", "weights");
  Overwrite(To() + ".partial/awq/model.safetensors", "wei");
  Overwrite(To() + ".partial/manifest.json", artifacts_.manifest);
  EXPECT_EQ(Run({"pull", "a", To()}), kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("1 kept"));
  EXPECT_EQ(Text(fs::path(To()) / "awq" / "model.safetensors"), "weights");
}

TEST_F(ArtifactsTest, HalfOfAnotherFormatThatAnInterruptedPullHasLeftIsNotPutIntoPlace) {
  fs::create_directories(To() + ".partial/awq");
  Overwrite(To() + ".partial/manifest.json", artifacts_.manifest);
  Overwrite(To() + ".partial/awq/model.safetensors", "wei");
  EXPECT_EQ(Run({"pull", "a", To(), "--format", "gptq"}), kOk) << err_.str();
  EXPECT_TRUE(fs::exists(fs::path(To()) / "gptq" / "model.safetensors"));
  EXPECT_FALSE(fs::exists(fs::path(To()) / "awq"));
}

TEST_F(ArtifactsTest, JobThatHasNotSucceededHasNothingToPull) {
  jobs_.job.set_state(Job::STATE_RUNNING);
  EXPECT_EQ(Run({"pull", "a", To()}), kRefused);
  EXPECT_THAT(err_.str(), HasSubstr("JOB_NOT_SUCCEEDED: projects/default/jobs/a is RUNNING"));
}

TEST_F(ArtifactsTest, OutputWithoutAManifestSaysSo) {
  fs::remove(directory_ / "out" / "manifest.json");
  EXPECT_EQ(Run({"verify", "a"}), kRefused);
  EXPECT_THAT(err_.str(), HasSubstr("NO_MANIFEST"));
}

TEST_F(ArtifactsTest, ManifestThatIsNotTheJobsIsRefused) {
  Overwrite(directory_ / "out" / "manifest.json", "{}");
  EXPECT_EQ(Run({"pull", "a", To()}), kNotAsExpected);
  EXPECT_THAT(err_.str(), HasSubstr("MANIFEST_MISMATCH"));
  EXPECT_THAT(err_.str(), HasSubstr(sha256_));
}

TEST_F(ArtifactsTest, VerifyFindsADamagedByte) {
  EXPECT_EQ(Run({"verify", "a"}), kOk) << err_.str();
  EXPECT_THAT(out_.str(), HasSubstr("all as published"));
  Overwrite(Published("awq/model.safetensors"), "weightz");
  EXPECT_EQ(Run({"verify", "a"}), kNotAsExpected);
  EXPECT_THAT(out_.str(), HasSubstr("1-1/awq/model.safetensors  has sha256 "));
  EXPECT_EQ(Run({"verify", "a", "-o", "json"}), kNotAsExpected);
  const Json answer = Json::parse(out_.str());
  EXPECT_EQ(answer["problems"][0]["path"], "1-1/awq/model.safetensors");
  EXPECT_EQ(answer["files"], 3);
  EXPECT_EQ(Run({"verify", "a", "--format", "gptq"}), kOk);
}

TEST_F(ArtifactsTest, VerifyViaTheServerAsksForEveryArtifact) {
  artifacts_.verification.set_files(2);
  artifacts_.verification.set_bytes_read(10);
  EXPECT_EQ(Run({"verify", "a", "--via-server"}), kOk) << err_.str();
  ASSERT_EQ(artifacts_.verifications.size(), 2);
  EXPECT_EQ(artifacts_.verifications[1].name(), "projects/default/jobs/a/artifacts/awq");
  EXPECT_EQ(artifacts_.verifications[1].depth(), teq::v1::VerifyArtifactRequest::DEPTH_DIGESTS);
  EXPECT_THAT(out_.str(), HasSubstr("4 files, 20 B read"));
}

TEST_F(ArtifactsTest, PullViaTheServerAsksForTheUrlOfEachFileOfAFormat) {
  artifacts_.url_error =
      Error(absl::StatusCode::kFailedPrecondition, "NOT_PRESIGNABLE", "a directory has no URLs");
  EXPECT_EQ(Run({"pull", "a", To(), "--via-server", "--format", "gptq"}), kRefused);
  EXPECT_THAT(err_.str(), HasSubstr("NOT_PRESIGNABLE"));
  ASSERT_EQ(artifacts_.urls.size(), 1);
  EXPECT_EQ(artifacts_.urls[0].name(), "projects/default/jobs/a/artifacts/gptq");
  EXPECT_EQ(artifacts_.urls[0].file(), "model.safetensors");
  EXPECT_FALSE(fs::exists(To()));
  EXPECT_EQ(Run({"pull", Uri(), To(), "--via-server"}), kInvalid);
}

TEST_F(ArtifactsTest, ProgressIsDrawnOnATerminalAndClearedAtTheEnd) {
  err_is_terminal_ = true;
  EXPECT_EQ(Run({"pull", "a", To()}), kOk);
  EXPECT_THAT(err_.str(), HasSubstr("pull  ["));
  EXPECT_THAT(err_.str(), ::testing::EndsWith("\r\x1b[K"));
}

}  // namespace
}  // namespace teq::cli
