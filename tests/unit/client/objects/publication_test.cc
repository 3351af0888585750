#include "client/objects/publication.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "client/objects/temporary_file.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

const std::vector<std::string> kFormats = {"gptq"};

Publisher Job(int attempt = 1, std::int64_t fence = 1) {
  return {.job = "projects/p/jobs/j",
          .job_uid = "uid-j",
          .spec_digest = "d",
          .attempt = attempt,
          .fence = fence};
}

Publisher OtherJob() {
  return {.job = "projects/p/jobs/other", .job_uid = "uid-other", .spec_digest = "e"};
}

class PublicationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-publication-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    output_ = directory_ / "out";
  }
  void TearDown() override { fs::remove_all(directory_); }

  absl::StatusOr<Publication> Begin(const Publisher& publisher) const {
    return Publication::Begin(FileUri(output_), {}, publisher, kFormats);
  }

  Publication Find(const Publisher& publisher) const {
    return Publication::Find(FileUri(output_), {}, publisher).value();
  }

  // Begins, writes the files of a run and seals them; returns the manifest's digest.
  std::string BeginAndSeal(const Publisher& publisher) const {
    Publication publication = Begin(publisher).value();
    Write(publication.StagingDirectory("gptq") / "config.json", "{}");
    Write(publication.StagingDirectory("gptq") / "model.safetensors", "weights");
    teq::v1::Report report;
    report.set_job(publisher.job);
    return publication.Seal(report, PageOf).value();
  }

  // A page that says what the report held when the page was written.
  static std::string PageOf(const teq::v1::Report& report) {
    std::string page = "<p>" + report.job();
    for (const teq::v1::Artifact& artifact : report.artifacts()) page += " " + artifact.path();
    return page;
  }

  static void Write(const fs::path& path, const std::string& text) {
    fs::create_directories(path.parent_path());
    ASSERT_TRUE(WriteFileAtomically(path, text).ok());
  }

  static std::set<std::string> Names(const fs::path& directory) {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(directory)) {
      names.insert(entry.path().filename().string());
    }
    return names;
  }

  nlohmann::json RootManifest() const {
    return nlohmann::json::parse(ReadFile(output_ / "manifest.json").value());
  }

  void ExpectPublished(const std::string& sha256) const {
    EXPECT_THAT(Names(output_),
                UnorderedElementsAre("gptq", "manifest.json", "report.html", "report.json"));
    EXPECT_THAT(Names(output_ / "gptq"), UnorderedElementsAre("config.json", "model.safetensors"));
    EXPECT_EQ(FileSha256(output_ / "manifest.json").value(), sha256);
  }

  // Runs `body` in a process of its own and tells whether it ended with `code`.
  static int ExitCodeOf(const std::function<int()>& body) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(body());
    int state = 0;
    EXPECT_EQ(::waitpid(child, &state, 0), child);
    return WIFEXITED(state) ? WEXITSTATUS(state) : -1;
  }

  // Publishes in a process that dies at the `nth` time that it comes to `step`.
  void DieAt(const std::string& step, int nth, const Publisher& publisher,
             const std::string& sha256) const {
    const int code = ExitCodeOf([&] {
      int count = 0;
      Publication publication = Find(publisher);
      const absl::Status status = publication.Publish(sha256, [&](std::string_view name) {
        if (name == step && ++count == nth) ::_exit(77);
      });
      return status.ok() ? 1 : 2;
    });
    ASSERT_EQ(code, 77);
  }

  fs::path directory_;
  fs::path output_;
};

class SettledTest : public PublicationTest {
 protected:
  void SetUp() override {
    PublicationTest::SetUp();
    publication_ = Begin(Job()).value();
    file_ = publication_->StagingDirectory("gptq") / "model.safetensors";
    Write(file_, "weights");
  }

  absl::StatusOr<std::string> Seal() {
    teq::v1::Report report;
    return publication_->Seal(report);
  }

  void ExpectCorrupt() {
    const absl::Status status = Seal().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
    EXPECT_EQ(ErrorReason(status), "OBJECT_CORRUPT");
    EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  }

  std::optional<Publication> publication_;
  fs::path file_;
};

TEST_F(SettledTest, FileIsListedWithTheDigestThatItWasSettledWithAndNotReadAgain) {
  publication_->Settle("gptq", {{"model.safetensors", std::string(64, '1')}});
  const std::string sha256 = Seal().value();
  ASSERT_TRUE(publication_->Publish(sha256).ok());
  EXPECT_EQ(RootManifest()["files"][0]["path"], "gptq/model.safetensors");
  EXPECT_EQ(RootManifest()["files"][0]["sha256"], std::string(64, '1'));
}

TEST_F(SettledTest, FileThatOtherBytesWereWrittenToIsNotSealed) {
  publication_->Settle("gptq", {{"model.safetensors", Sha256("weights")}});
  Write(file_, "weightz");
  ExpectCorrupt();
}

TEST_F(SettledTest, FileThatIsGoneIsNotSealed) {
  Write(publication_->StagingDirectory("gptq") / "config.json", "{}");
  publication_->Settle("gptq", {{"model.safetensors", Sha256("weights")}});
  fs::remove(file_);
  ExpectCorrupt();
}

TEST_F(SettledTest, FileThatTheSameBytesWereWrittenToIsReadAndSealed) {
  publication_->Settle("gptq", {{"model.safetensors", Sha256("weights")}});
  Write(file_, "weights");
  EXPECT_TRUE(Seal().ok());
}

TEST_F(PublicationTest, PublishesDirectoriesReportAndManifestAndRemovesTheAttempt) {
  const std::string sha256 = BeginAndSeal(Job());
  EXPECT_THAT(Names(output_), UnorderedElementsAre("1-1"));
  ASSERT_TRUE(Find(Job()).Publish(sha256).ok());
  ExpectPublished(sha256);
  EXPECT_EQ(ReadFile(output_ / "gptq" / "model.safetensors").value(), "weights");
}

TEST_F(PublicationTest, ManifestSaysWhoPublishedWhat) {
  ASSERT_TRUE(Find(Job(2, 5)).Publish(BeginAndSeal(Job(2, 5))).ok());
  const nlohmann::json manifest = RootManifest();
  EXPECT_EQ(manifest["schema"], "teqd.manifest.v1");
  EXPECT_EQ(manifest["job"], "projects/p/jobs/j");
  EXPECT_EQ(manifest["job_uid"], "uid-j");
  EXPECT_EQ(manifest["spec_digest"], "d");
  EXPECT_EQ(manifest["attempt"], 2);
  EXPECT_EQ(manifest["fence"], 5);
  EXPECT_EQ(manifest["report"]["job"], "projects/p/jobs/j");
  ASSERT_EQ(manifest["files"].size(), 4);
  EXPECT_EQ(manifest["files"][1]["path"], "gptq/model.safetensors");
  EXPECT_EQ(manifest["files"][1]["bytes"], 7);
  // printf weights | sha256sum
  EXPECT_EQ(manifest["files"][1]["sha256"],
            "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c");
}

// The artifact's digest as the shell gives it: (cd gptq; sha256sum *) | sha256sum
TEST_F(PublicationTest, ArtifactOfReportAndManifestIsTheFinalDirectory) {
  Publication publication = Begin(Job()).value();
  Write(publication.StagingDirectory("gptq") / "config.json", "{}");
  Write(publication.StagingDirectory("gptq") / "model.safetensors", "weights");
  teq::v1::Report report;
  report.add_artifacts()->set_path("stale");
  report.add_artifacts()->set_format("GPTQ");
  report.mutable_artifacts(1)->set_exact(true);
  const std::string sha256 = publication.Seal(report).value();
  ASSERT_EQ(report.artifacts_size(), 1);
  EXPECT_EQ(report.artifacts(0).format(), "GPTQ");
  EXPECT_EQ(report.artifacts(0).path(), (output_ / "gptq").string());
  EXPECT_EQ(report.artifacts(0).bytes(), 9);
  EXPECT_TRUE(report.artifacts(0).exact());
  EXPECT_EQ(report.artifacts(0).sha256(),
            "4d29798c6e59eb7dfc2b375b8998040ed29cf33c98038b41e9717a6c37f5dad7");
  ASSERT_TRUE(publication.Publish(sha256).ok());
  EXPECT_EQ(RootManifest()["artifacts"][0]["path"], (output_ / "gptq").string());
  EXPECT_EQ(RootManifest()["artifacts"], RootManifest()["report"]["artifacts"]);
  EXPECT_EQ(nlohmann::json::parse(ReadFile(output_ / "report.json").value()),
            RootManifest()["report"]);
}

TEST_F(PublicationTest, PageIsWrittenFromTheReportWithItsArtifactsAndListed) {
  ASSERT_TRUE(Find(Job()).Publish(BeginAndSeal(Job())).ok());
  const std::string page = "<p>projects/p/jobs/j " + (output_ / "gptq").string();
  EXPECT_EQ(ReadFile(output_ / "report.html").value(), page);
  EXPECT_EQ(RootManifest()["files"][2]["path"], "report.html");
  EXPECT_EQ(RootManifest()["files"][2]["bytes"], page.size());
  EXPECT_EQ(RootManifest()["files"][2]["sha256"], Sha256(page));
}

TEST_F(PublicationTest, WithoutAPageThereIsNone) {
  Publication publication = Begin(Job()).value();
  Write(publication.StagingDirectory("gptq") / "config.json", "{}");
  teq::v1::Report report;
  ASSERT_TRUE(publication.Publish(publication.Seal(report).value()).ok());
  EXPECT_THAT(Names(output_), UnorderedElementsAre("gptq", "manifest.json", "report.json"));
}

TEST_F(PublicationTest, PublishingTwiceIsHarmless) {
  const std::string sha256 = BeginAndSeal(Job());
  ASSERT_TRUE(Find(Job()).Publish(sha256).ok());
  EXPECT_TRUE(Find(Job()).Publish(sha256).ok());
  ExpectPublished(sha256);
}

// Entries that move: gptq, report.html, report.json.
TEST_F(PublicationTest, ProcessThatDiesBeforeTheFirstRenameLeavesAPublicationToFinish) {
  const std::string sha256 = BeginAndSeal(Job());
  DieAt("publish_rename", 1, Job(), sha256);
  EXPECT_THAT(Names(output_), UnorderedElementsAre("1-1"));
  ASSERT_TRUE(Find(Job()).Publish(sha256).ok());
  ExpectPublished(sha256);
}

TEST_F(PublicationTest, ProcessThatDiesBetweenTwoRenamesLeavesAPublicationToFinish) {
  const std::string sha256 = BeginAndSeal(Job());
  DieAt("publish_rename", 2, Job(), sha256);
  EXPECT_THAT(Names(output_), UnorderedElementsAre("1-1", "gptq"));
  ASSERT_TRUE(Find(Job()).Publish(sha256).ok());
  ExpectPublished(sha256);
}

TEST_F(PublicationTest, ProcessThatDiesBeforeTheManifestLeavesAPublicationToFinish) {
  const std::string sha256 = BeginAndSeal(Job());
  DieAt("publish_manifest", 1, Job(), sha256);
  EXPECT_FALSE(fs::exists(output_ / "manifest.json"));
  ASSERT_TRUE(Find(Job()).Publish(sha256).ok());
  ExpectPublished(sha256);
}

TEST_F(PublicationTest, ProcessThatDiesAfterTheManifestLeavesAPublicationToFinish) {
  const std::string sha256 = BeginAndSeal(Job());
  DieAt("publish_cleanup", 1, Job(), sha256);
  EXPECT_TRUE(fs::exists(output_ / "manifest.json"));
  EXPECT_TRUE(fs::exists(output_ / "1-1"));
  ASSERT_TRUE(Find(Job()).Publish(sha256).ok());
  ExpectPublished(sha256);
}

TEST_F(PublicationTest, TwoPublishersOfOneContentBothSucceedWhereverTheyMeet) {
  for (const char* step : {"publish_rename", "publish_manifest", "publish_cleanup"}) {
    const std::string sha256 = BeginAndSeal(Job());
    bool second_ran = false;
    const absl::Status first = Find(Job()).Publish(sha256, [&](std::string_view name) {
      if (name != step || std::exchange(second_ran, true)) return;
      EXPECT_TRUE(Find(Job()).Publish(sha256).ok()) << step;
    });
    EXPECT_TRUE(first.ok()) << step << ": " << first;
    EXPECT_TRUE(second_ran) << step;
    ExpectPublished(sha256);
    fs::remove_all(output_);
  }
}

TEST_F(PublicationTest, ManifestOfAnotherDigestIsNotPublished) {
  BeginAndSeal(Job());
  const absl::Status status = Find(Job()).Publish(std::string(64, '0'));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ErrorReason(status), "MANIFEST_MISMATCH");
  EXPECT_THAT(Names(output_), UnorderedElementsAre("1-1"));
}

TEST_F(PublicationTest, LostAttemptIsNotPublished) {
  const std::string sha256 = BeginAndSeal(Job());
  fs::remove_all(output_ / "1-1");
  EXPECT_EQ(ErrorReason(Find(Job()).Publish(sha256)), "MANIFEST_MISMATCH");
}

// That a disk cannot read it now says nothing of what it has.
TEST_F(PublicationTest, ManifestThatCannotBeReadIsNoOtherOne) {
  const std::string sha256 = BeginAndSeal(Job());
  fs::remove(output_ / "1-1" / "manifest.json");
  fs::create_directory(output_ / "1-1" / "manifest.json");
  EXPECT_EQ(ErrorReason(Find(Job()).Publish(sha256)), "READ_FAILED");
}

TEST_F(PublicationTest, TruncatedFileIsNotPublishedAndNamed) {
  const std::string sha256 = BeginAndSeal(Job());
  fs::resize_file(output_ / "1-1" / "gptq" / "model.safetensors", 3);
  const absl::Status status = Find(Job()).Publish(sha256);
  EXPECT_EQ(ErrorReason(status), "MANIFEST_MISMATCH");
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
  EXPECT_THAT(Names(output_), UnorderedElementsAre("1-1"));
}

TEST_F(PublicationTest, FinalDirectoryThatAppearedDuringTheRunIsNotReplaced) {
  const std::string sha256 = BeginAndSeal(Job());
  Write(output_ / "gptq" / "mine", "precious");
  const absl::Status status = Find(Job()).Publish(sha256);
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_EQ(ReadFile(output_ / "gptq" / "mine").value(), "precious");
  EXPECT_FALSE(fs::exists(output_ / "manifest.json"));
}

TEST_F(PublicationTest, RootManifestThatAppearedDuringTheRunIsNotReplaced) {
  const std::string sha256 = BeginAndSeal(Job());
  Write(output_ / "manifest.json", "other");
  EXPECT_EQ(ErrorReason(Find(Job()).Publish(sha256)), "OUTPUT_IN_USE");
  EXPECT_EQ(ReadFile(output_ / "manifest.json").value(), "other");
  EXPECT_FALSE(fs::exists(output_ / "gptq"));
}

TEST_F(PublicationTest, OutputWithAnotherJobsManifestIsRefusedByThatJobsName) {
  ASSERT_TRUE(Find(OtherJob()).Publish(BeginAndSeal(OtherJob())).ok());
  const absl::Status status = Begin(Job()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("projects/p/jobs/other"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("choose another output.uri"));
  EXPECT_FALSE(fs::exists(output_ / "1-1"));
}

TEST_F(PublicationTest, OutputWithAForeignManifestIsRefused) {
  Write(output_ / "manifest.json", "not json");
  const absl::Status status = Begin(Job()).status();
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_THAT(std::string(status.message()), HasSubstr((output_ / "manifest.json").string()));
}

TEST_F(PublicationTest, StrayFinalDirectoryIsRefusedWithTheRemedy) {
  Write(output_ / "gptq" / "x", "x");
  const absl::Status status = Begin(Job()).status();
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_THAT(std::string(status.message()), HasSubstr((output_ / "gptq").string()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("remove it or choose another output.uri"));
}

TEST_F(PublicationTest, StrayPageIsRefused) {
  Write(output_ / "report.html", "<p>");
  const absl::Status status = Begin(Job()).status();
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_THAT(std::string(status.message()), HasSubstr((output_ / "report.html").string()));
}

TEST_F(PublicationTest, SymbolicLinkInAFinalPlaceIsRefusedAndNotFollowed) {
  fs::create_directories(output_);
  fs::create_directories(directory_ / "elsewhere");
  fs::create_symlink(directory_ / "elsewhere", output_ / "gptq");
  EXPECT_EQ(ErrorReason(Begin(Job()).status()), "OUTPUT_IN_USE");
  EXPECT_TRUE(fs::is_empty(directory_ / "elsewhere"));
}

TEST_F(PublicationTest, SymbolicLinkNamedLikeTheAttemptIsRefusedAndNotFollowed) {
  fs::create_directories(output_);
  Write(directory_ / "elsewhere" / "owner.json", R"({"job_uid": "uid-j", "fence": 1})");
  fs::create_symlink(directory_ / "elsewhere", output_ / "1-1");
  EXPECT_EQ(ErrorReason(Begin(Job()).status()), "OUTPUT_IN_USE");
  EXPECT_TRUE(fs::exists(directory_ / "elsewhere" / "owner.json"));
}

TEST_F(PublicationTest, StagedSymbolicLinkIsNotSealed) {
  Publication publication = Begin(Job()).value();
  fs::create_symlink("/etc/passwd", publication.StagingDirectory("gptq") / "model.safetensors");
  teq::v1::Report report;
  const absl::Status status = publication.Seal(report).status();
  EXPECT_EQ(ErrorReason(status), "UNEXPECTED_FILE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("model.safetensors"));
}

TEST_F(PublicationTest, EmptyFormatIsNotSealed) {
  teq::v1::Report report;
  EXPECT_EQ(ErrorReason(Begin(Job()).value().Seal(report).status()), "UNEXPECTED_FILE");
}

TEST_F(PublicationTest, DeadAttemptsOfTheSameJobAreRemoved) {
  BeginAndSeal(Job(1, 1));
  { ASSERT_TRUE(Begin(Job(1, 2)).ok()); }
  EXPECT_THAT(Names(output_), UnorderedElementsAre("1-2"));
}

TEST_F(PublicationTest, DirectoriesThatOnlyLookLikeAttemptsStay) {
  Write(output_ / "2024-12" / "photo", "x");
  Write(output_ / "notes" / "y", "y");
  ASSERT_TRUE(Begin(Job()).ok());
  EXPECT_TRUE(fs::exists(output_ / "2024-12" / "photo"));
  EXPECT_TRUE(fs::exists(output_ / "notes" / "y"));
}

TEST_F(PublicationTest, StaleAttemptDoesNotRemoveANewerOne) {
  const Publication newer = Begin(Job(2, 2)).value();
  const absl::Status status = Begin(Job(1, 1)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ErrorReason(status), "LEASE_LOST");
  EXPECT_TRUE(fs::exists(newer.StagingDirectory("gptq")));
}

TEST_F(PublicationTest, LiveAttemptOfAnotherJobIsRefused) {
  const Publication other = Begin(OtherJob()).value();
  const absl::Status status = Begin(Job(1, 2)).status();
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_TRUE(fs::exists(other.StagingDirectory("gptq")));
}

TEST_F(PublicationTest, SealedAttemptOfAnotherJobIsRefusedByThatJobsName) {
  const std::string sha256 = BeginAndSeal(OtherJob());
  const absl::Status status = Begin(Job(1, 2)).status();
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("projects/p/jobs/other"));
  EXPECT_TRUE(Find(OtherJob()).Publish(sha256).ok());
}

TEST_F(PublicationTest, DeadUnsealedAttemptOfAnotherJobIsRemoved) {
  { ASSERT_TRUE(Begin(OtherJob()).ok()); }
  EXPECT_TRUE(Begin(Job()).ok());
}

TEST_F(PublicationTest, TwoRunsWithoutAServerDoNotShareAnOutput) {
  const Publication first = Begin(Publisher{}).value();
  EXPECT_EQ(ErrorReason(Begin(Publisher{}).status()), "OUTPUT_IN_USE");
  // What the refused one cleans up is not the other's.
  ASSERT_TRUE(Find(Publisher{}).Abandon().ok());
  EXPECT_TRUE(fs::exists(first.StagingDirectory("gptq")));
}

TEST_F(PublicationTest, AttemptThatAnotherRunHasLockedAndNotYetOwnsStays) {
  fs::create_directories(output_ / "1-1");
  const Descriptor other(::open((output_ / "1-1").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(::flock(other.get(), LOCK_EX | LOCK_NB), 0);
  EXPECT_EQ(ErrorReason(Begin(Publisher{}).status()), "OUTPUT_IN_USE");
  ASSERT_TRUE(Find(Publisher{}).Abandon().ok());
  EXPECT_TRUE(fs::is_directory(output_ / "1-1"));
}

TEST_F(PublicationTest, AttemptThatADeadRunHadNotYetOwnedIsReplaced) {
  fs::create_directories(output_ / "1-1");
  EXPECT_TRUE(Begin(Publisher{}).ok());
}

TEST_F(PublicationTest, RunWithoutAServerReplacesACrashedOne) {
  { ASSERT_TRUE(Begin(Publisher{}).ok()); }
  const std::string sha256 = BeginAndSeal(Publisher{});
  EXPECT_TRUE(Find(Publisher{}).Publish(sha256).ok());
}

TEST_F(PublicationTest, AbandonLeavesNoTrace) {
  Publication publication = Begin(Job()).value();
  Write(publication.StagingDirectory("gptq") / "part", "x");
  ASSERT_TRUE(publication.Abandon().ok());
  EXPECT_FALSE(fs::exists(output_));
  EXPECT_TRUE(publication.Abandon().ok());
}

TEST_F(PublicationTest, AbandonByAnotherProcessLeavesNoTrace) {
  EXPECT_EQ(ExitCodeOf([&] { return Begin(Job()).ok() ? 0 : 1; }), 0);
  ASSERT_TRUE(Find(Job()).Abandon().ok());
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(PublicationTest, AbandonKeepsAnOutputThatWasThereBefore) {
  fs::create_directories(output_);
  ASSERT_TRUE(Begin(Job()).value().Abandon().ok());
  EXPECT_TRUE(fs::exists(output_));
}

TEST_F(PublicationTest, AbandonAfterADeadAttemptStillRemovesTheOutputThatTheJobMade) {
  { ASSERT_TRUE(Begin(Job(1, 1)).ok()); }
  ASSERT_TRUE(Begin(Job(2, 2)).value().Abandon().ok());
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(PublicationTest, AbandonLeavesAnotherJobsAttemptAlone) {
  const Publication other = Begin(OtherJob()).value();
  ASSERT_TRUE(Find(Job()).Abandon().ok());
  EXPECT_TRUE(fs::exists(other.StagingDirectory("gptq")));
}

TEST_F(PublicationTest, OutputBelowAFileIsRefused) {
  Write(output_, "a file");
  EXPECT_EQ(ErrorReason(Begin(Job()).status()), "OUTPUT_IN_USE");
}

TEST_F(PublicationTest, UriOutsideThePolicyIsRefused) {
  const UriPolicy policy{.allowed_prefixes = {"file:///models/"}};
  const absl::Status status =
      Publication::Begin(FileUri(output_), policy, Job(), kFormats).status();
  EXPECT_EQ(ErrorReason(status), "URI_NOT_ALLOWED");
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(PublicationTest, OutputThatCannotBeWrittenIsNamed) {
  // Root may write anywhere but into the kernel's own file systems.
  const absl::Status status =
      Publication::Begin("file:///proc/teq-out", {}, Job(), kFormats).status();
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), HasSubstr("/proc/teq-out"));
}

// A limit on the size of files stands for a full disk; the manifest is larger than it.
TEST_F(PublicationTest, FullDiskWhileSealingIsAnErrorAndAbandonLeavesNoTrace) {
  const int code = ExitCodeOf([&] {
    Publication publication = Begin(Job()).value();
    Write(publication.StagingDirectory("gptq") / "config.json", "{}");
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{.rlim_cur = 100, .rlim_max = 100};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 10;
    teq::v1::Report report;
    const absl::Status status = publication.Seal(report).status();
    if (status.code() != absl::StatusCode::kResourceExhausted) return 11;
    if (ErrorReason(status) != "DISK_FULL") return 12;
    if (std::string(status.message()).find((output_ / "1-1").string()) == std::string::npos) {
      return 13;
    }
    return publication.Abandon().ok() ? 0 : 14;
  });
  EXPECT_EQ(code, 0);
  EXPECT_FALSE(fs::exists(output_));
}

}  // namespace
}  // namespace teq::objects
