// The service through a real gRPC channel, over a store in memory.
#include "server/api/artifact_service.h"

#include <grpcpp/grpcpp.h>

#include <functional>
#include <future>
#include <thread>

#include "client/api/grpc_status.h"
#include "client/objects/file.h"
#include "client/objects/store_publication.h"
#include "gmock/gmock.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "tests/unit/client/objects/memory_store.h"
#include "tests/unit/server/harness.h"

namespace teq::api {
namespace {

using objects::testing::MemoryStore;
using teq::testing::NewJob;
using ::testing::HasSubstr;

constexpr const char* kJob = "projects/p/jobs/a";
constexpr const char* kArtifact = "projects/p/jobs/a/artifacts/gptq";

class ArtifactServiceTest : public teq::testing::QueueTest {
 protected:
  void SetUp() override {
    QueueTest::SetUp();
    catalog_.emplace(store_.get());
    Serve({});
    Publish();
  }

  void TearDown() override { Stop(); }

  void Stop() {
    if (server_ == nullptr) return;
    service_->Drain();
    server_->Shutdown();
    server_->Wait();
    server_.reset();
    service_.reset();
  }

  void Serve(ArtifactOptions options) {
    Stop();
    options.open_store = [this](std::string_view uri, const UriPolicy&,
                                const std::function<bool()>& go_on)
        -> absl::StatusOr<std::shared_ptr<objects::ObjectStore>> {
      opened_ = std::string(uri);
      go_on_ = go_on;
      return objects_;
    };
    service_ = std::make_unique<ArtifactService>(options, &*catalog_);
    grpc::ServerBuilder builder;
    builder.RegisterService(service_.get());
    server_ = builder.BuildAndStart();
    stub_ = teq::v1::ArtifactService::NewStub(server_->InProcessChannel({}));
  }

  /// Job a, run to its end, its files in the store.
  void Publish() {
    auto request = NewJob("a");
    request.set_job_id("a");
    const teq::v1::Job job = Create(request);
    const teq::v1::Lease lease = Acquire(Register("w"));
    const objects::Publisher publisher{.job = job.name(),
                                       .job_uid = job.uid(),
                                       .spec_digest = job.spec_digest(),
                                       .attempt = lease.attempt(),
                                       .fence = lease.fence()};
    auto publication =
        objects::BeginInStore(objects_, directory_.path(), publisher, {"gptq"}).value();
    ASSERT_TRUE(objects::WriteFileAtomically(
                    publication.StagingDirectory("gptq") / "model.safetensors", "weights")
                    .ok());
    teq::v1::CompleteLeaseRequest success = Completion(lease);
    const std::string sha256 =
        publication.Seal(*success.mutable_success()->mutable_report()).value();
    ASSERT_TRUE(publication.Upload().ok());
    success.mutable_success()->set_manifest_sha256(sha256);
    ASSERT_TRUE(queue_->CompleteLease(success).ok());
    ASSERT_TRUE(publication.Publish(sha256).ok());
    ASSERT_TRUE(QueueTest::Publish(lease, sha256).ok());
    sha256_ = sha256;
  }

  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (teq::v1::ArtifactService::StubInterface::*method)(
                                    grpc::ClientContext*, const Request&, Response*),
                                const Request& request) {
    grpc::ClientContext context;
    Response response;
    const grpc::Status status = (static_cast<teq::v1::ArtifactService::StubInterface&>(*stub_).*
                                 method)(&context, request, &response);
    if (!status.ok()) return client::FromGrpc(status);
    return response;
  }

  absl::StatusOr<teq::v1::Manifest> GetManifest(const std::string& job = kJob) {
    teq::v1::GetManifestRequest request;
    request.set_parent(job);
    return Call(&teq::v1::ArtifactService::StubInterface::GetManifest, request);
  }

  absl::StatusOr<teq::v1::CreateDownloadUrlResponse> Url(const std::string& file,
                                                         int64_t ttl_seconds) {
    teq::v1::CreateDownloadUrlRequest request;
    request.set_name(kArtifact);
    request.set_file(file);
    if (ttl_seconds != 0) request.mutable_ttl()->set_seconds(ttl_seconds);
    return Call(&teq::v1::ArtifactService::StubInterface::CreateDownloadUrl, request);
  }

  absl::StatusOr<teq::v1::VerifyArtifactResponse> Verify(
      teq::v1::VerifyArtifactRequest::Depth depth) {
    teq::v1::VerifyArtifactRequest request;
    request.set_name(kArtifact);
    request.set_depth(depth);
    return Call(&teq::v1::ArtifactService::StubInterface::VerifyArtifact, request);
  }

  /// A store that answers no more: the next read waits until it is told to end.
  void HoldRead() {
    objects_->on_call = [this](const std::string& verb, const std::string&) {
      if (verb != "read") return MemoryStore::Fault::kNone;
      read_began_.set_value();
      while (go_on_()) std::this_thread::yield();
      objects_->broken = absl::CancelledError("stopped");
      read_ended_.set_value();
      return MemoryStore::Fault::kNone;
    };
  }

  std::shared_ptr<MemoryStore> objects_ = std::make_shared<MemoryStore>();
  std::string opened_;
  std::function<bool()> go_on_;    // of the store that was opened last
  std::promise<void> read_began_;  // the one of HoldRead
  std::promise<void> read_ended_;
  std::string sha256_;
  std::optional<queue::ArtifactCatalog> catalog_;
  std::unique_ptr<ArtifactService> service_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<teq::v1::ArtifactService::Stub> stub_;
};

TEST_F(ArtifactServiceTest, ArtifactsAreGotAndListed) {
  teq::v1::GetArtifactRequest get;
  get.set_name(kArtifact);
  const auto artifact = Call(&teq::v1::ArtifactService::StubInterface::GetArtifact, get);
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_EQ(artifact->artifact().path(), "s3://bucket/out/1-1/gptq");
  EXPECT_EQ(artifact->manifest_sha256(), sha256_);
  teq::v1::ListArtifactsRequest list;
  list.set_parent("projects/p/jobs/-");
  EXPECT_EQ(Call(&teq::v1::ArtifactService::StubInterface::ListArtifacts, list)->artifacts_size(),
            1);
  get.set_name("projects/p/jobs/a/artifacts/awq");
  EXPECT_EQ(ErrorReason(Call(&teq::v1::ArtifactService::StubInterface::GetArtifact, get).status()),
            "ARTIFACT_NOT_FOUND");
}

TEST_F(ArtifactServiceTest, ManifestIsTheOneThatLiesInTheOutput) {
  const auto manifest = GetManifest();
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(opened_, "file:///out/a");
  EXPECT_EQ(manifest->content(), objects_->objects.at("manifest.json"));
  EXPECT_EQ(manifest->sha256(), sha256_);
}

TEST_F(ArtifactServiceTest, ManifestThatIsNotTheCommittedOneIsDataLossWithBothDigests) {
  objects_->objects["manifest.json"] = "changed";
  const absl::Status status = GetManifest().status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_EQ(ErrorReason(status), "MANIFEST_MISMATCH");
  EXPECT_THAT(std::string(status.message()), HasSubstr(sha256_));
  EXPECT_THAT(std::string(status.message()), HasSubstr(objects::Sha256("changed")));
}

TEST_F(ArtifactServiceTest, ManifestThatNoMessageHoldsIsRefusedWithItsPlace) {
  // The job's own manifest, grown by a report that is as large.
  auto json = nlohmann::ordered_json::parse(objects_->objects.at("manifest.json"));
  json["report"]["notes"] = {std::string(5 << 20, 'x')};
  const std::string large = json.dump();
  auto request = NewJob("b");
  request.set_job_id("b");
  Create(request);
  const teq::v1::Lease lease = Acquire(Register("w"));
  ASSERT_TRUE(Succeed(lease, objects::Sha256(large)).ok());
  ASSERT_TRUE(QueueTest::Publish(lease, objects::Sha256(large)).ok());
  objects_->objects["manifest.json"] = large;
  const absl::Status status = GetManifest("projects/p/jobs/b").status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_EQ(ErrorReason(status), "MANIFEST_TOO_LARGE");
  EXPECT_THAT(std::string(status.message()), HasSubstr("s3://bucket/out/manifest.json"));
}

TEST_F(ArtifactServiceTest, UrlNamesWhatItsBytesMustBeAndWhenItEnds) {
  objects_->urls_end = clock_.Now() + absl::Minutes(5);  // its keys are good for no longer
  const auto url = Url("model.safetensors", 600);
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->url(), "https://store/1-1/gptq/model.safetensors?for=600");
  // printf weights | sha256sum
  EXPECT_EQ(url->sha256(), "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c");
  EXPECT_EQ(url->bytes(), 7);
  EXPECT_EQ(url->expire_time().seconds(), absl::ToUnixSeconds(clock_.Now()) + 300);
  EXPECT_THAT(Url("model.safetensors", 0)->url(), HasSubstr("for=3600"));
}

TEST_F(ArtifactServiceTest, OnlyFilesOfTheManifestHaveUrls) {
  objects_->objects["1-1/gptq/secret"] = "x";
  for (const char* file : {"secret", "../report.json", "", "1-1/gptq/model.safetensors"}) {
    const absl::Status status = Url(file, 600).status();
    EXPECT_TRUE(absl::IsNotFound(status)) << file;
    EXPECT_EQ(ErrorReason(status), "FILE_NOT_IN_MANIFEST") << file;
  }
}

TEST_F(ArtifactServiceTest, UrlsHoldForTwelveHoursAtMost) {
  EXPECT_TRUE(Url("model.safetensors", 12 * 3600).ok());
  for (const int64_t seconds : {int64_t{-1}, int64_t{12 * 3600 + 1}}) {
    EXPECT_EQ(ErrorReason(Url("model.safetensors", seconds).status()), "INVALID_TTL") << seconds;
  }
}

TEST_F(ArtifactServiceTest, VerifyComparesSizesAndDigests) {
  const auto sizes = Verify(teq::v1::VerifyArtifactRequest::DEPTH_SIZES);
  ASSERT_TRUE(sizes.ok()) << sizes.status();
  EXPECT_EQ(sizes->files(), 1);
  EXPECT_EQ(sizes->bytes_read(), 0);
  objects_->objects["1-1/gptq/model.safetensors"] = "weightz";
  EXPECT_EQ(Verify(teq::v1::VerifyArtifactRequest::DEPTH_SIZES)->problems_size(), 0);
  const auto digests = Verify(teq::v1::VerifyArtifactRequest::DEPTH_DIGESTS);
  ASSERT_TRUE(digests.ok()) << digests.status();
  EXPECT_EQ(digests->bytes_read(), 7);
  ASSERT_EQ(digests->problems_size(), 1);
  EXPECT_EQ(digests->problems(0).path(), "1-1/gptq/model.safetensors");
}

TEST_F(ArtifactServiceTest, StoreThatDoesNotAnswerIsUnavailable) {
  objects_->on_call = [](const std::string&, const std::string&) {
    return MemoryStore::Fault::kRefuse;
  };
  EXPECT_EQ(ErrorReason(GetManifest().status()), "OBJECT_STORE_UNAVAILABLE");
}

TEST_F(ArtifactServiceTest, VerificationsAreLimitedAndEndWithTheirClient) {
  Serve({.max_verifications = 1});
  std::promise<void> reading;
  std::promise<void> release;
  std::shared_future<void> released(release.get_future());
  std::atomic<int> reads = 0;
  objects_->on_call = [&](const std::string& verb, const std::string& key) {
    if (verb == "read" && key.ends_with("model.safetensors") && reads++ == 0) {
      reading.set_value();
      released.wait();
    }
    return MemoryStore::Fault::kNone;
  };
  grpc::ClientContext context;
  auto first = std::async(std::launch::async, [&] {
    teq::v1::VerifyArtifactRequest request;
    request.set_name(kArtifact);
    request.set_depth(teq::v1::VerifyArtifactRequest::DEPTH_DIGESTS);
    teq::v1::VerifyArtifactResponse response;
    return stub_->VerifyArtifact(&context, request, &response);
  });
  reading.get_future().wait();
  const absl::Status second = Verify(teq::v1::VerifyArtifactRequest::DEPTH_DIGESTS).status();
  EXPECT_TRUE(absl::IsResourceExhausted(second));
  EXPECT_EQ(ErrorReason(second), "TOO_MANY_CALLS");
  EXPECT_TRUE(GetManifest().ok()) << "other calls have threads of their own";
  context.TryCancel();
  EXPECT_EQ(first.get().error_code(), grpc::StatusCode::CANCELLED);
  release.set_value();
  // Its place is free as soon as its read has ended.
  absl::Status third = absl::ResourceExhaustedError("");
  for (int tries = 0; absl::IsResourceExhausted(third) && tries < 1'000'000; ++tries) {
    third = Verify(teq::v1::VerifyArtifactRequest::DEPTH_SIZES).status();
  }
  EXPECT_TRUE(third.ok()) << third;
}

TEST_F(ArtifactServiceTest, DrainEndsAVerificationWithUnavailable) {
  std::promise<void> reading;
  std::promise<void> release;
  std::shared_future<void> released(release.get_future());
  objects_->on_call = [&](const std::string& verb, const std::string& key) {
    if (verb == "read" && key.ends_with("model.safetensors")) {
      reading.set_value();
      released.wait();
    }
    return MemoryStore::Fault::kNone;
  };
  auto verification = std::async(std::launch::async, [&] {
    return Verify(teq::v1::VerifyArtifactRequest::DEPTH_DIGESTS).status();
  });
  reading.get_future().wait();
  service_->Drain();
  release.set_value();
  const absl::Status status = verification.get();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(ErrorReason(status), "SERVER_DRAINING");
  EXPECT_EQ(ErrorReason(GetManifest().status()), "SERVER_DRAINING");
}

TEST_F(ArtifactServiceTest, DrainEndsReadsOfAStoreThatDoesNotAnswer) {
  HoldRead();
  auto manifest = std::async(std::launch::async, [&] { return GetManifest().status(); });
  read_began_.get_future().wait();
  service_->Drain();
  const absl::Status status = manifest.get();
  EXPECT_TRUE(absl::IsUnavailable(status));
  EXPECT_EQ(ErrorReason(status), "SERVER_DRAINING");
}

TEST_F(ArtifactServiceTest, ReadsOfAStoreThatDoesNotAnswerEndWithTheirClient) {
  HoldRead();
  grpc::ClientContext context;
  auto url = std::async(std::launch::async, [&] {
    teq::v1::CreateDownloadUrlRequest request;
    request.set_name(kArtifact);
    request.set_file("model.safetensors");
    teq::v1::CreateDownloadUrlResponse response;
    return stub_->CreateDownloadUrl(&context, request, &response);
  });
  read_began_.get_future().wait();
  context.TryCancel();
  read_ended_.get_future().wait();
  EXPECT_EQ(url.get().error_code(), grpc::StatusCode::CANCELLED);
}

}  // namespace
}  // namespace teq::api
