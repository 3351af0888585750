#include "client/objects/store_publication.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "tests/unit/client/objects/memory_store.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using Fault = testing::MemoryStore::Fault;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

const std::vector<std::string> kFormats = {"gptq"};

constexpr char kModelKey[] = "1-1/gptq/model.safetensors";

Publisher Job(int attempt = 1, std::int64_t fence = 1) {
  return {.job = "projects/p/jobs/j",
          .job_uid = "uid-j",
          .spec_digest = "d",
          .attempt = attempt,
          .fence = fence};
}

Publisher OtherJob(std::int64_t fence = 1) {
  return {
      .job = "projects/p/jobs/other", .job_uid = "uid-other", .spec_digest = "e", .fence = fence};
}

class StorePublicationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-store-publication-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    data_ = pattern;
  }
  void TearDown() override { fs::remove_all(data_); }

  absl::StatusOr<Publication> Begin(const Publisher& publisher) const {
    return BeginInStore(store_, data_, publisher, kFormats);
  }

  // As a worker on another machine, which has nothing but the store.
  Publication FindElsewhere(const Publisher& publisher) const {
    return FindInStore(store_, data_ / "elsewhere", publisher);
  }

  static void Stage(const Publication& publication) {
    ASSERT_TRUE(
        WriteFileAtomically(publication.StagingDirectory("gptq") / "config.json", "{}").ok());
    ASSERT_TRUE(
        WriteFileAtomically(publication.StagingDirectory("gptq") / "model.safetensors", "weights")
            .ok());
  }

  static std::map<std::string, std::string> StagedDigests() {
    return {{"config.json", Sha256("{}")}, {"model.safetensors", Sha256("weights")}};
  }

  static std::string Seal(Publication& publication) {
    Stage(publication);
    return SealStaged(publication);
  }

  static std::string SealStaged(Publication& publication) {
    teq::v1::Report report;
    report.set_job("projects/p/jobs/j");
    return publication.Seal(report).value();
  }

  // A run up to the end of its upload; the manifest's digest.
  std::string BeginAndUpload(const Publisher& publisher) const {
    Publication publication = Begin(publisher).value();
    const std::string sha256 = Seal(publication);
    const absl::Status status = publication.Upload();
    EXPECT_TRUE(status.ok()) << status;
    return sha256;
  }

  std::vector<fs::path> Staged() const {
    std::vector<fs::path> found;
    if (!fs::exists(data_ / "staging")) return found;
    for (const auto& entry : fs::directory_iterator(data_ / "staging")) {
      found.push_back(entry.path());
    }
    return found;
  }

  // Every file that the root manifest lists is there with its digest.
  void ExpectPublished(const std::string& sha256) const {
    ASSERT_TRUE(store_->objects.contains("manifest.json"));
    const std::string& text = store_->objects.at("manifest.json");
    EXPECT_EQ(Sha256(text), sha256);
    const auto manifest = nlohmann::json::parse(text);
    ASSERT_FALSE(manifest.at("files").empty());
    for (const auto& file : manifest.at("files")) {
      const std::string path = file["path"];
      ASSERT_TRUE(store_->objects.contains(path)) << path;
      EXPECT_EQ(Sha256(store_->objects.at(path)), file["sha256"]) << path;
    }
    EXPECT_THAT(store_->uploads, IsEmpty());
  }

  // Settles what is staged, and returns once the store is called to upload the model; its first
  // answers are `fault`.
  void SendEarly(Publication& publication, Fault fault = Fault::kNone, int times = 1) const {
    auto called = std::make_shared<std::promise<void>>();
    const std::future<void> ready = called->get_future();
    store_->on_call = [called, fault, times, count = 0](const std::string& verb,
                                                        const std::string& key) mutable {
      if (verb != "upload" || key != kModelKey) return Fault::kNone;
      if (++count == 1) called->set_value();
      return count <= times ? fault : Fault::kNone;
    };
    publication.Settle("gptq", StagedDigests());
    Await(ready);
  }

  static void Await(const std::future<void>& ready) {
    ASSERT_EQ(ready.wait_for(std::chrono::minutes(1)), std::future_status::ready);
  }

  std::shared_ptr<testing::MemoryStore> store_ = std::make_shared<testing::MemoryStore>();
  fs::path data_;
};

TEST_F(StorePublicationTest, UploadsBelowTheAttemptsPrefixAndItsManifestLast) {
  const std::string sha256 = BeginAndUpload(Job(2, 5));
  EXPECT_THAT(store_->changes, ElementsAre("write 2-5/owner.json", "upload 2-5/gptq/config.json",
                                           "upload 2-5/gptq/model.safetensors",
                                           "upload 2-5/report.json", "write 2-5/manifest.json"));
  EXPECT_EQ(store_->objects.at("2-5/gptq/model.safetensors"), "weights");
  ASSERT_TRUE(FindElsewhere(Job(2, 5)).Publish(sha256).ok());
  EXPECT_EQ(store_->changes.back(), "write manifest.json");
  ExpectPublished(sha256);
}

TEST_F(StorePublicationTest, ManifestNamesTheFinalPlaces) {
  Publication publication = Begin(Job()).value();
  Stage(publication);
  teq::v1::Report report;
  const std::string sha256 = publication.Seal(report).value();
  EXPECT_EQ(report.artifacts(0).path(), "s3://bucket/out/1-1/gptq");
  EXPECT_EQ(report.artifacts(0).bytes(), 9);
  // (cd gptq; sha256sum *) | sha256sum
  EXPECT_EQ(report.artifacts(0).sha256(),
            "4d29798c6e59eb7dfc2b375b8998040ed29cf33c98038b41e9717a6c37f5dad7");
  ASSERT_TRUE(publication.Upload().ok());
  ASSERT_TRUE(publication.Publish(sha256).ok());
  const auto manifest = nlohmann::json::parse(store_->objects.at("manifest.json"));
  EXPECT_EQ(manifest["artifacts"][0]["path"], "s3://bucket/out/1-1/gptq");
  EXPECT_EQ(manifest["files"][1]["path"], "1-1/gptq/model.safetensors");
  // printf weights | sha256sum
  EXPECT_EQ(manifest["files"][1]["sha256"],
            "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c");
}

TEST_F(StorePublicationTest, NothingIsStagedAnyMoreAfterTheUpload) {
  BeginAndUpload(Job());
  EXPECT_THAT(Staged(), IsEmpty());
}

TEST_F(StorePublicationTest, ProgressCountsTheBytesOfAllFilesUpToTheTotal) {
  Publication publication = Begin(Job()).value();
  Seal(publication);
  std::uint64_t last = 0;
  std::uint64_t all = 0;
  ASSERT_TRUE(publication
                  .Upload([&](std::uint64_t done, std::uint64_t total) {
                    EXPECT_GE(done, last);
                    last = done;
                    all = total;
                    return true;
                  })
                  .ok());
  std::uint64_t bytes = 0;
  for (const auto& [key, content] : store_->objects) {
    if (key != "1-1/owner.json") bytes += content.size();
  }
  EXPECT_EQ(all, bytes);
  EXPECT_EQ(last, bytes);
}

TEST_F(StorePublicationTest, CancelledUploadStopsAndAbandonLeavesNoTrace) {
  Publication publication = Begin(Job()).value();
  Seal(publication);
  const absl::Status status =
      publication.Upload([](std::uint64_t done, std::uint64_t) { return done < 3; });
  EXPECT_TRUE(absl::IsCancelled(status));
  EXPECT_FALSE(store_->objects.contains("1-1/manifest.json"));
  EXPECT_THAT(store_->uploads, Not(IsEmpty()));
  ASSERT_TRUE(publication.Abandon().ok());
  EXPECT_THAT(store_->objects, IsEmpty());
  EXPECT_THAT(store_->uploads, IsEmpty());
  EXPECT_THAT(Staged(), IsEmpty());
  EXPECT_TRUE(publication.Abandon().ok());
}

// Every call of a whole publication fails once; the next attempt starts over on what is left.
TEST_F(StorePublicationTest, AnAttemptThatFailsAtAnyCallIsFollowedByOneThatSucceeds) {
  for (const Fault fault : {Fault::kRefuse, Fault::kLoseAnswer}) {
    bool failed = true;
    for (int nth = 1; failed; ++nth) {
      ASSERT_LT(nth, 100);
      store_ = std::make_shared<testing::MemoryStore>();
      int calls = 0;
      store_->on_call = [&](const std::string&, const std::string&) {
        return ++calls == nth ? fault : Fault::kNone;
      };
      const absl::Status first = [&]() -> absl::Status {
        TEQ_ASSIGN_OR_RETURN(Publication publication, Begin(Job(1, 1)));
        Seal(publication);
        return publication.Upload();
      }();
      failed = calls >= nth;
      EXPECT_EQ(first.ok(), !failed) << nth << ": " << first;
      EXPECT_FALSE(store_->objects.contains("manifest.json")) << nth;
      store_->on_call = [](const std::string&, const std::string&) { return Fault::kNone; };
      const std::string sha256 = BeginAndUpload(Job(2, 2));
      ASSERT_TRUE(FindElsewhere(Job(2, 2)).Publish(sha256).ok()) << nth;
      ExpectPublished(sha256);
      EXPECT_THAT(store_->Keys(),
                  UnorderedElementsAre("2-2/gptq/config.json", "2-2/gptq/model.safetensors",
                                       "2-2/manifest.json", "2-2/owner.json", "2-2/report.json",
                                       "manifest.json"))
          << nth;
    }
  }
}

TEST_F(StorePublicationTest, PublicationThatFailsAtAnyCallIsFinishedByAnotherWorker) {
  for (const Fault fault : {Fault::kRefuse, Fault::kLoseAnswer}) {
    bool failed = true;
    for (int nth = 1; failed; ++nth) {
      ASSERT_LT(nth, 100);
      store_ = std::make_shared<testing::MemoryStore>();
      const std::string sha256 = BeginAndUpload(Job());
      int calls = 0;
      store_->on_call = [&](const std::string&, const std::string&) {
        return ++calls == nth ? fault : Fault::kNone;
      };
      const absl::Status first = FindElsewhere(Job()).Publish(sha256);
      failed = calls >= nth;
      EXPECT_EQ(first.ok(), !failed) << nth << ": " << first;
      store_->on_call = [](const std::string&, const std::string&) { return Fault::kNone; };
      ASSERT_TRUE(FindElsewhere(Job()).Publish(sha256).ok()) << nth;
      ExpectPublished(sha256);
    }
  }
}

TEST_F(StorePublicationTest, RootManifestOfTheSameBytesThatCameInBetweenIsSuccess) {
  const std::string sha256 = BeginAndUpload(Job());
  const absl::Status status = FindElsewhere(Job()).Publish(sha256, [&](std::string_view step) {
    if (step != "publish_manifest") return;
    EXPECT_TRUE(FindElsewhere(Job()).Publish(sha256).ok());
  });
  EXPECT_TRUE(status.ok()) << status;
  ExpectPublished(sha256);
}

TEST_F(StorePublicationTest, RootManifestOfOtherBytesThatCameInBetweenIsNotReplaced) {
  const std::string sha256 = BeginAndUpload(Job());
  const absl::Status status = FindElsewhere(Job()).Publish(sha256, [&](std::string_view step) {
    if (step == "publish_manifest") store_->objects["manifest.json"] = "other";
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_EQ(store_->objects.at("manifest.json"), "other");
}

TEST_F(StorePublicationTest, ManifestOfAnotherDigestIsNotPublished) {
  BeginAndUpload(Job());
  const absl::Status status = FindElsewhere(Job()).Publish(std::string(64, '0'));
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(ErrorReason(status), "MANIFEST_MISMATCH");
  EXPECT_FALSE(store_->objects.contains("manifest.json"));
}

TEST_F(StorePublicationTest, ObjectOfAnotherSizeOrNoneIsNotPublishedAndNamed) {
  const std::string sha256 = BeginAndUpload(Job());
  store_->objects["1-1/gptq/model.safetensors"] = "wei";
  absl::Status status = FindElsewhere(Job()).Publish(sha256);
  EXPECT_EQ(ErrorReason(status), "MANIFEST_MISMATCH");
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("s3://bucket/out/1-1/gptq/model.safetensors: the manifest lists 7 bytes, "
                        "found 3"));
  store_->objects.erase("1-1/gptq/model.safetensors");
  status = FindElsewhere(Job()).Publish(sha256);
  EXPECT_EQ(ErrorReason(status), "MANIFEST_MISMATCH");
  EXPECT_FALSE(store_->objects.contains("manifest.json"));
}

TEST_F(StorePublicationTest, OutputWithAnotherJobsManifestIsRefusedByThatJobsName) {
  ASSERT_TRUE(FindElsewhere(OtherJob()).Publish(BeginAndUpload(OtherJob())).ok());
  const auto before = store_->objects;
  const absl::Status status = Begin(Job()).status();
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("projects/p/jobs/other"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("s3://bucket/out/manifest.json"));
  EXPECT_EQ(store_->objects, before);
  EXPECT_THAT(Staged(), IsEmpty());
}

TEST_F(StorePublicationTest, AnotherJobsAttemptIsNeverTouchedAndNamedWithTheRemedy) {
  { ASSERT_TRUE(Begin(OtherJob(3)).ok()); }  // dead, unsealed
  store_->uploads.insert("1-3/gptq/model.safetensors");
  const auto before = store_->objects;
  const absl::Status status = Begin(Job(1, 9)).status();
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("projects/p/jobs/other"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("remove what lies below 1-3/"));
  ASSERT_TRUE(FindElsewhere(Job(1, 3)).Abandon().ok());
  EXPECT_EQ(store_->objects, before);
  EXPECT_THAT(store_->uploads, UnorderedElementsAre("1-3/gptq/model.safetensors"));
}

TEST_F(StorePublicationTest, DeadAttemptsOfTheSameJobAreRemovedWithTheirUploads) {
  BeginAndUpload(Job(1, 1));
  store_->uploads.insert("1-1/gptq/big.safetensors");
  ASSERT_TRUE(Begin(Job(1, 2)).ok());
  EXPECT_THAT(store_->Keys(), UnorderedElementsAre("1-2/owner.json"));
  EXPECT_THAT(store_->uploads, IsEmpty());
}

TEST_F(StorePublicationTest, OwnerOfADeadAttemptGoesLast) {
  BeginAndUpload(Job(1, 1));
  store_->changes.clear();
  ASSERT_TRUE(FindElsewhere(Job(1, 1)).Abandon().ok());
  EXPECT_EQ(store_->changes.front(), "abort 1-1/");
  std::erase(store_->changes, "abort 1-1/");
  EXPECT_EQ(store_->changes.back(), "remove 1-1/owner.json");
}

TEST_F(StorePublicationTest, StaleAttemptDoesNotRemoveANewerOne) {
  const Publication newer = Begin(Job(2, 2)).value();
  const absl::Status status = Begin(Job(1, 1)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(ErrorReason(status), "LEASE_LOST");
  EXPECT_THAT(store_->Keys(), UnorderedElementsAre("2-2/owner.json"));
}

// A worker that slept through the loss of its lease, and its successor's whole work.
TEST_F(StorePublicationTest, StaleWorkerWritesAndRemovesNothingOutsideItsOwnPrefix) {
  Publication sleeper = Begin(Job(1, 1)).value();
  Seal(sleeper);
  const std::string sha256 = BeginAndUpload(Job(2, 2));
  ASSERT_TRUE(FindElsewhere(Job(2, 2)).Publish(sha256).ok());
  const auto published = store_->objects;
  store_->changes.clear();
  EXPECT_EQ(ErrorReason(sleeper.Upload()), "LEASE_LOST");
  for (const std::string& change : store_->changes) EXPECT_THAT(change, HasSubstr(" 1-1/"));
  ExpectPublished(sha256);
  ASSERT_TRUE(sleeper.Abandon().ok());
  EXPECT_EQ(store_->objects, published);
}

// A server whose database went back to a backup gives fences out a second time.
TEST_F(StorePublicationTest, WorkerFromBeforeARestoreRemovesNothingOfOneWithTheSameFence) {
  std::optional<Publication> before = Begin(Job(1, 2)).value();
  Seal(*before);
  const Publication after = BeginInStore(store_, data_ / "elsewhere", Job(1, 2), kFormats).value();
  const std::string owner = store_->objects.at("1-2/owner.json");
  EXPECT_EQ(ErrorReason(before->Upload()), "LEASE_LOST");
  const auto found = store_->objects;
  ASSERT_TRUE(before->Abandon().ok());
  before.reset();
  EXPECT_EQ(store_->objects, found);
  // The worker, once its engine has ended.
  ASSERT_TRUE(FindInStore(store_, data_, Job(1, 2)).Abandon().ok());
  EXPECT_EQ(store_->objects, found);
  EXPECT_FALSE(fs::exists(Staged().at(0) / "gptq"));
  EXPECT_EQ(store_->objects.at("1-2/owner.json"), owner);
  EXPECT_TRUE(fs::exists(after.StagingDirectory("gptq")));
}

TEST_F(StorePublicationTest, ForeignObjectsInTheAttemptsPlaceAreRefused) {
  store_->objects["1-1/photo"] = "x";
  const absl::Status status = Begin(Job()).status();
  EXPECT_EQ(ErrorReason(status), "OUTPUT_IN_USE");
  EXPECT_THAT(store_->Keys(), UnorderedElementsAre("1-1/photo"));
}

TEST_F(StorePublicationTest, OtherObjectsStay) {
  store_->objects["2024-12/photo"] = "x";
  store_->objects["notes"] = "y";
  BeginAndUpload(Job());
  EXPECT_THAT(store_->Keys(), Contains("2024-12/photo"));
  EXPECT_THAT(store_->Keys(), Contains("notes"));
}

TEST_F(StorePublicationTest, ErrorsOfTheStoreArePassedOnAndNothingStaysStaged) {
  store_->broken = Error(absl::StatusCode::kNotFound, "BUCKET_NOT_FOUND", "no bucket");
  EXPECT_EQ(ErrorReason(Begin(Job()).status()), "BUCKET_NOT_FOUND");
  EXPECT_THAT(Staged(), IsEmpty());
}

TEST_F(StorePublicationTest, TwoRunsWithoutAServerDoNotShareAnOutput) {
  const Publication first = Begin(Publisher{}).value();
  EXPECT_EQ(ErrorReason(Begin(Publisher{}).status()), "OUTPUT_IN_USE");
  // What the refused one cleans up is not the other's, on this machine or another.
  ASSERT_TRUE(FindInStore(store_, data_, Publisher{}).Abandon().ok());
  ASSERT_TRUE(FindElsewhere(Publisher{}).Abandon().ok());
  EXPECT_THAT(store_->Keys(), UnorderedElementsAre("1-1/owner.json"));
  EXPECT_TRUE(fs::exists(first.StagingDirectory("gptq")));
}

TEST_F(StorePublicationTest, RunWithoutAServerReplacesOneThatDiedOnThisMachine) {
  {
    Publication dead = Begin(Publisher{}).value();
    Seal(dead);
  }
  EXPECT_EQ(ErrorReason(BeginInStore(store_, data_ / "elsewhere", Publisher{}, kFormats).status()),
            "OUTPUT_IN_USE");
  const std::string sha256 = BeginAndUpload(Publisher{});
  EXPECT_TRUE(FindElsewhere(Publisher{}).Publish(sha256).ok());
  ExpectPublished(sha256);
}

TEST_F(StorePublicationTest, UploadedRunWithoutAServerIsNotTakenForADeadOne) {
  const std::string sha256 = BeginAndUpload(Publisher{});
  EXPECT_EQ(ErrorReason(Begin(Publisher{}).status()), "OUTPUT_IN_USE");
  ASSERT_TRUE(FindInStore(store_, data_, Publisher{}).Abandon().ok());
  ASSERT_TRUE(FindInStore(store_, data_, Publisher{}).Publish(sha256).ok());
  ExpectPublished(sha256);
}

TEST_F(StorePublicationTest, StagedFilesOfDeadProcessesAreRemovedAndThoseOfLiveOnesStay) {
  {
    ASSERT_TRUE(BeginInStore(std::make_shared<testing::MemoryStore>("s3://bucket/a"), data_,
                             OtherJob(), kFormats)
                    .ok());
  }
  ASSERT_EQ(Staged().size(), 1);
  const fs::path dead = Staged().front();
  const Publication alive = BeginInStore(std::make_shared<testing::MemoryStore>("s3://bucket/b"),
                                         data_, OtherJob(), kFormats)
                                .value();
  EXPECT_FALSE(fs::exists(dead));
  ASSERT_TRUE(Begin(Job()).ok());
  EXPECT_TRUE(fs::exists(alive.StagingDirectory("gptq")));
}

TEST_F(StorePublicationTest, AbandonByAnotherProcessRemovesObjectsAndStagedFiles) {
  { ASSERT_TRUE(Begin(Job()).ok()); }
  EXPECT_THAT(Staged(), Not(IsEmpty()));
  ASSERT_TRUE(FindInStore(store_, data_, Job()).Abandon().ok());
  EXPECT_THAT(store_->objects, IsEmpty());
  EXPECT_THAT(Staged(), IsEmpty());
}

TEST_F(StorePublicationTest, SettledFilesAreSentWhileTheRunGoesOn) {
  Publication publication = Begin(Job()).value();
  Stage(publication);
  SendEarly(publication);  // nothing is sealed yet
  const std::string sha256 = SealStaged(publication);
  ASSERT_TRUE(publication.Upload().ok());
  EXPECT_THAT(store_->changes, ElementsAre("write 1-1/owner.json", "upload 1-1/gptq/config.json",
                                           "upload 1-1/gptq/model.safetensors",
                                           "upload 1-1/report.json", "write 1-1/manifest.json"));
  ASSERT_TRUE(FindElsewhere(Job()).Publish(sha256).ok());
  ExpectPublished(sha256);
}

TEST_F(StorePublicationTest, FormatsAreSentInTheOrderInWhichTheyWereSettled) {
  Publication publication = BeginInStore(store_, data_, Job(), {"gptq", "awq"}).value();
  Stage(publication);
  ASSERT_TRUE(WriteFileAtomically(publication.StagingDirectory("awq") / "config.json", "[]").ok());
  publication.Settle("gptq", StagedDigests());
  publication.Settle("awq", {{"config.json", Sha256("[]")}});
  const std::string sha256 = SealStaged(publication);
  ASSERT_TRUE(publication.Upload().ok());
  EXPECT_THAT(store_->changes,
              ElementsAre("write 1-1/owner.json", "upload 1-1/gptq/config.json",
                          "upload 1-1/gptq/model.safetensors", "upload 1-1/awq/config.json",
                          "upload 1-1/report.json", "write 1-1/manifest.json"));
  ASSERT_TRUE(publication.Publish(sha256).ok());
  ExpectPublished(sha256);
}

TEST_F(StorePublicationTest, ProgressBeginsWithWhatWasSentBefore) {
  Publication publication = Begin(Job()).value();
  Stage(publication);
  std::promise<void> sent;
  store_->on_call = [&](const std::string& verb, const std::string& key) {
    // The last of them is asked for when all before it have arrived.
    if (verb == "upload" && key == "1-1/gptq/tokenizer.json") sent.set_value();
    return Fault::kNone;
  };
  ASSERT_TRUE(
      WriteFileAtomically(publication.StagingDirectory("gptq") / "tokenizer.json", "").ok());
  std::map<std::string, std::string> digests = StagedDigests();
  digests["tokenizer.json"] = Sha256("");
  publication.Settle("gptq", digests);
  Await(sent.get_future());
  SealStaged(publication);
  std::vector<std::uint64_t> told;
  std::uint64_t all = 0;
  ASSERT_TRUE(publication
                  .Upload([&](std::uint64_t done, std::uint64_t total) {
                    told.push_back(done);
                    all = total;
                    return true;
                  })
                  .ok());
  EXPECT_EQ(told.front(), std::string("{}weights").size());
  EXPECT_EQ(told.back(), all);
  EXPECT_TRUE(std::ranges::is_sorted(told));
}

TEST_F(StorePublicationTest, FileThatCouldNotBeSentEarlyIsSentByTheUpload) {
  Publication publication = Begin(Job()).value();
  Stage(publication);
  SendEarly(publication, Fault::kRefuse, 1);
  const std::string sha256 = SealStaged(publication);
  const absl::Status status = publication.Upload();
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_TRUE(publication.Publish(sha256).ok());
  ExpectPublished(sha256);
}

TEST_F(StorePublicationTest, StoreThatRefusesAFileEarlyAndLateIsTheUploadsError) {
  Publication publication = Begin(Job()).value();
  Stage(publication);
  SendEarly(publication, Fault::kRefuse, 2);
  SealStaged(publication);
  EXPECT_EQ(ErrorReason(publication.Upload()), "OBJECT_STORE_UNAVAILABLE");
  EXPECT_FALSE(store_->objects.contains("1-1/manifest.json"));
  ASSERT_TRUE(publication.Abandon().ok());
  EXPECT_THAT(store_->objects, IsEmpty());
  EXPECT_THAT(store_->uploads, IsEmpty());
}

TEST_F(StorePublicationTest, AbandonEndsATransferThatIsOnItsWayAndLeavesNoTrace) {
  Publication publication = Begin(Job()).value();
  Stage(publication);
  store_->stuck = kModelKey;
  SendEarly(publication);
  ASSERT_TRUE(publication.Abandon().ok());
  EXPECT_THAT(store_->changes, Contains("upload 1-1/gptq/config.json"));
  EXPECT_THAT(store_->objects, IsEmpty());
  EXPECT_THAT(store_->uploads, IsEmpty());
  EXPECT_THAT(Staged(), IsEmpty());
}

TEST_F(StorePublicationTest, CancelledUploadEndsATransferThatIsOnItsWay) {
  Publication publication = Begin(Job()).value();
  Stage(publication);
  store_->stuck = kModelKey;
  SendEarly(publication);
  SealStaged(publication);
  EXPECT_TRUE(absl::IsCancelled(
      publication.Upload([](std::uint64_t /*done*/, std::uint64_t /*total*/) { return false; })));
  EXPECT_FALSE(store_->objects.contains(kModelKey));
  ASSERT_TRUE(publication.Abandon().ok());
  EXPECT_THAT(store_->objects, IsEmpty());
  EXPECT_THAT(store_->uploads, IsEmpty());
}

TEST_F(StorePublicationTest, ProcessThatEndsWithoutAWordLeavesWhatItsSuccessorRemoves) {
  {
    Publication dead = Begin(Job(1, 1)).value();
    Stage(dead);
    store_->stuck = kModelKey;
    SendEarly(dead);
  }
  EXPECT_THAT(store_->Keys(), UnorderedElementsAre("1-1/gptq/config.json", "1-1/owner.json"));
  EXPECT_THAT(store_->uploads, UnorderedElementsAre(kModelKey));
  const Publication heir = Begin(Job(1, 2)).value();
  EXPECT_THAT(store_->Keys(), UnorderedElementsAre("1-2/owner.json"));
  EXPECT_THAT(store_->uploads, IsEmpty());
}

TEST_F(StorePublicationTest, LeaseLostWhileFilesWereSentEarlyIsToldAndLeavesNoTrace) {
  Publication sleeper = Begin(Job(1, 1)).value();
  Stage(sleeper);
  SendEarly(sleeper);
  SealStaged(sleeper);
  const Publication heir = Begin(Job(2, 2)).value();
  EXPECT_EQ(ErrorReason(sleeper.Upload()), "LEASE_LOST");
  ASSERT_TRUE(sleeper.Abandon().ok());
  EXPECT_THAT(store_->Keys(), UnorderedElementsAre("2-2/owner.json"));
  EXPECT_THAT(store_->uploads, IsEmpty());
}

TEST_F(StorePublicationTest, NothingIsSentEarlyWhereANewerAttemptHasBegun) {
  Publication sleeper = Begin(Job(1, 1)).value();
  Stage(sleeper);
  const Publication heir = Begin(Job(2, 2)).value();
  std::promise<void> asked;
  store_->on_call = [&, count = 0](const std::string& verb, const std::string& key) mutable {
    if (verb == "head" && key == "1-1/owner.json" && ++count == 1) asked.set_value();
    return Fault::kNone;
  };
  sleeper.Settle("gptq", StagedDigests());
  Await(asked.get_future());
  ASSERT_TRUE(sleeper.Abandon().ok());
  EXPECT_THAT(store_->changes, Not(Contains(HasSubstr("upload"))));
}

TEST_F(StorePublicationTest, BytesThatAreNotThoseOfTheDigestAreNeverSent) {
  Publication publication = Begin(Job()).value();
  Stage(publication);
  std::map<std::string, std::string> digests = StagedDigests();
  digests["model.safetensors"] = Sha256("other weights");
  publication.Settle("gptq", digests);
  SealStaged(publication);
  EXPECT_EQ(ErrorReason(publication.Upload()), "OBJECT_CORRUPT");
  EXPECT_FALSE(store_->objects.contains(kModelKey));
}

TEST_F(StorePublicationTest, StepsAreToldOnceOfAFileThatWasSentEarly) {
  std::mutex mutex;
  std::vector<std::string> steps;
  const StepHook hook = [&](std::string_view step) {
    const std::lock_guard lock(mutex);
    steps.emplace_back(step);
  };
  Publication publication = Begin(Job()).value();
  Stage(publication);
  publication.Settle("gptq", StagedDigests(), hook);
  SealStaged(publication);
  ASSERT_TRUE(publication.Upload({}, hook).ok());
  EXPECT_THAT(steps, ElementsAre("upload_file", "upload_file", "upload_file", "upload_manifest"));
}

TEST_F(StorePublicationTest, StepsAreTold) {
  std::vector<std::string> steps;
  const StepHook hook = [&](std::string_view step) { steps.emplace_back(step); };
  Publication publication = Begin(Job()).value();
  const std::string sha256 = Seal(publication);
  ASSERT_TRUE(publication.Upload({}, hook).ok());
  ASSERT_TRUE(publication.Publish(sha256, hook).ok());
  EXPECT_THAT(steps, ElementsAre("upload_file", "upload_file", "upload_file", "upload_manifest",
                                 "publish_manifest", "publish_cleanup"));
}

}  // namespace
}  // namespace teq::objects
