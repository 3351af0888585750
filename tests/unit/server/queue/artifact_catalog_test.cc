#include "server/queue/artifact_catalog.h"

#include "gmock/gmock.h"
#include "proto/spec/error.h"
#include "server/queue/token.h"
#include "tests/unit/server/harness.h"

namespace teq::queue {
namespace {

using teq::testing::NewJob;
using teq::testing::Sha;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ArtifactCatalogTest : public teq::testing::QueueTest {
 protected:
  /// A job of `project` that has published `formats`.
  std::string Published(const std::string& id, const std::vector<std::string>& formats,
                        const std::string& project = "p") {
    auto request = NewJob(project + id, project);
    request.set_job_id(id);
    const std::string name = Create(request).name();
    const teq::v1::Lease lease = Acquire(Register("w"));
    teq::v1::CompleteLeaseRequest success = Completion(lease);
    success.mutable_success()->set_manifest_sha256(Sha('a'));
    for (const std::string& format : formats) {
      auto* artifact = success.mutable_success()->mutable_report()->add_artifacts();
      artifact->set_format(format);
      artifact->set_path("/out/" + id + "/" + format);
    }
    EXPECT_TRUE(queue_->CompleteLease(success).ok());
    EXPECT_TRUE(Publish(lease, Sha('a')).ok());
    return name;
  }

  [[nodiscard]] ArtifactCatalog Catalog() const { return ArtifactCatalog(store_.get()); }

  /// The names of all pages, and how many pages there were.
  std::pair<std::vector<std::string>, int> ListAll(const std::string& parent, int page_size) const {
    teq::v1::ListArtifactsRequest request;
    request.set_parent(parent);
    request.set_page_size(page_size);
    std::vector<std::string> names;
    for (int pages = 1; pages <= 20; ++pages) {
      const auto page = Catalog().List(request);
      EXPECT_TRUE(page.ok()) << page.status();
      if (!page.ok()) return {names, pages};
      EXPECT_LE(page->artifacts_size(), page_size);
      for (const auto& artifact : page->artifacts()) names.push_back(artifact.name());
      if (page->next_page_token().empty()) return {names, pages};
      request.set_page_token(page->next_page_token());
    }
    return {names, 21};
  }
};

TEST_F(ArtifactCatalogTest, ArtifactIsNamedAfterItsJobAndFormat) {
  Published("a", {"GPTQ", "COMPRESSED_TENSORS"});
  const auto artifact = Catalog().Get("projects/p/jobs/a/artifacts/compressed-tensors");
  ASSERT_TRUE(artifact.ok()) << artifact.status();
  EXPECT_EQ(artifact->name(), "projects/p/jobs/a/artifacts/compressed-tensors");
  EXPECT_EQ(artifact->artifact().format(), "COMPRESSED_TENSORS");
  EXPECT_EQ(artifact->artifact().path(), "/out/a/COMPRESSED_TENSORS");
  EXPECT_EQ(artifact->manifest_sha256(), Sha('a'));
  EXPECT_EQ(artifact->publish_time().seconds(), absl::ToUnixSeconds(clock_.Now()));
}

TEST_F(ArtifactCatalogTest, ArtifactExistsFromTheMomentItsJobHasSucceeded) {
  auto request = NewJob("a");
  request.set_job_id("a");
  Create(request);
  const auto lease = Acquire(Register("w"));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  const absl::Status status = Catalog().Get("projects/p/jobs/a/artifacts/gptq").status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(ErrorReason(status), "ARTIFACT_NOT_FOUND");
  EXPECT_THAT(std::string(status.message()), HasSubstr("PUBLISHING"));
  const absl::Status job = Catalog().PublishedJob("projects/p/jobs/a").status();
  EXPECT_TRUE(absl::IsFailedPrecondition(job));
  EXPECT_EQ(ErrorReason(job), "JOB_NOT_SUCCEEDED");
  EXPECT_THAT(ListAll("projects/p/jobs/-", 10).first, IsEmpty());
  EXPECT_THAT(ListAll("projects/p/jobs/a", 10).first, IsEmpty());
}

TEST_F(ArtifactCatalogTest, UnknownJobsFormatsAndNamesAreToldApart) {
  Published("a", {"GPTQ"});
  EXPECT_EQ(ErrorReason(Catalog().Get("projects/p/jobs/a/artifacts/awq").status()),
            "ARTIFACT_NOT_FOUND");
  EXPECT_EQ(ErrorReason(Catalog().Get("projects/p/jobs/b/artifacts/gptq").status()),
            "JOB_NOT_FOUND");
  for (const char* name :
       {"", "projects/p/jobs/a", "projects/p/jobs/a/artifacts/", "projects/p/jobs/a/artifacts/GPTQ",
        "projects/p/jobs/a/artifacts/x/y", "projects/-/jobs/a/artifacts/gptq"}) {
    EXPECT_EQ(ErrorReason(Catalog().Get(name).status()), "INVALID_NAME") << name;
  }
}

TEST_F(ArtifactCatalogTest, PagesHoldEveryArtifactOnceNewestJobFirst) {
  Published("a", {"AWQ", "GGUF", "GPTQ"});
  Published("x", {"GPTQ"}, "other");
  Published("b", {"GPTQ"});
  Published("c", {});
  Published("d", {"AWQ", "GPTQ"});
  const std::vector<std::string> all = {
      "projects/p/jobs/d/artifacts/awq",  "projects/p/jobs/d/artifacts/gptq",
      "projects/p/jobs/b/artifacts/gptq", "projects/p/jobs/a/artifacts/awq",
      "projects/p/jobs/a/artifacts/gguf", "projects/p/jobs/a/artifacts/gptq"};
  for (int size = 1; size <= 7; ++size) {
    const auto [names, pages] = ListAll("projects/p/jobs/-", size);
    EXPECT_EQ(names, all) << size;
    EXPECT_LE(pages, 8) << size;
  }
  EXPECT_THAT(ListAll("projects/p/jobs/d", 1).first,
              ElementsAre("projects/p/jobs/d/artifacts/awq", "projects/p/jobs/d/artifacts/gptq"));
}

TEST_F(ArtifactCatalogTest, PageDoesNotShiftWhenAJobSucceedsMeanwhile) {
  Published("a", {"GPTQ"});
  Published("b", {"AWQ", "GPTQ"});
  teq::v1::ListArtifactsRequest request;
  request.set_parent("projects/p/jobs/-");
  request.set_page_size(1);
  const auto first = Catalog().List(request).value();
  EXPECT_EQ(first.artifacts(0).name(), "projects/p/jobs/b/artifacts/awq");
  Published("c", {"GPTQ"});
  request.set_page_token(first.next_page_token());
  EXPECT_EQ(Catalog().List(request)->artifacts(0).name(), "projects/p/jobs/b/artifacts/gptq");
}

// Whoever calls can make a token.
TEST_F(ArtifactCatalogTest, ATokenOfAPlaceBeforeTheFirstIsRefused) {
  Published("a", {"AWQ", "GPTQ"});
  teq::v1::ListArtifactsRequest request;
  request.set_parent("projects/p/jobs/-");
  request.set_page_size(1);
  std::string payload = *DecodeToken(Catalog().List(request)->next_page_token());
  request.set_page_token(EncodeToken(payload));
  EXPECT_TRUE(Catalog().List(request).ok());
  payload.replace(payload.rfind(':') + 1, std::string::npos, "-1000000");
  request.set_page_token(EncodeToken(payload));
  EXPECT_EQ(ErrorReason(Catalog().List(request).status()), "INVALID_PAGE_TOKEN");
}

TEST_F(ArtifactCatalogTest, TokensOfOtherListsAndBadSizesAreRefused) {
  Published("a", {"AWQ", "GPTQ"});
  teq::v1::ListArtifactsRequest request;
  request.set_parent("projects/p/jobs/-");
  request.set_page_size(1);
  request.set_page_token(Catalog().List(request)->next_page_token());
  ASSERT_NE(request.page_token(), "");
  request.set_parent("projects/p/jobs/a");
  EXPECT_EQ(ErrorReason(Catalog().List(request).status()), "INVALID_PAGE_TOKEN");
  request.set_page_token("garbage");
  EXPECT_EQ(ErrorReason(Catalog().List(request).status()), "INVALID_PAGE_TOKEN");
  request.clear_page_token();
  request.set_page_size(-1);
  EXPECT_EQ(ErrorReason(Catalog().List(request).status()), "INVALID_PAGE_SIZE");
}

}  // namespace
}  // namespace teq::queue
