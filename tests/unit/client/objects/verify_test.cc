#include "client/objects/verify.h"

#include <string>

#include "client/objects/file.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "tests/unit/client/objects/memory_store.h"

namespace teq::objects {
namespace {

using Fault = testing::MemoryStore::Fault;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// printf weights | sha256sum; printf '{}' | sha256sum
constexpr const char* kWeights = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c";
constexpr const char* kConfig = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

class VerifyTest : public ::testing::Test {
 protected:
  VerifyTest() {
    store_.objects["1-2/gptq/config.json"] = "{}";
    store_.objects["1-2/gptq/model.safetensors"] = "weights";
    store_.objects["1-2/manifest.json"] = "the attempt's own";
    store_.objects["manifest.json"] = fmt::format(
        R"({{"schema": "teqd.manifest.v1", "job": "j", "job_uid": "u", "spec_digest": "d",
            "attempt": 1, "fence": 2,
            "artifacts": [{{"format": "GPTQ", "path": "s3://bucket/out/1-2/gptq", "bytes": 9,
                            "sha256": "{0}"}}],
            "files": [{{"path": "1-2/gptq/config.json", "bytes": 2, "sha256": "{0}"}},
                      {{"path": "1-2/gptq/model.safetensors", "bytes": 7, "sha256": "{1}"}}]}})",
        kConfig, kWeights);
  }

  [[nodiscard]] PublishedOutput Read() const { return ReadPublishedOutput(store_).value(); }

  [[nodiscard]] Verification Verify(VerifyDepth depth) const {
    return VerifyFiles(store_, Read().manifest.files, depth).value();
  }

  testing::MemoryStore store_;
};

TEST_F(VerifyTest, PublishedOutputHasNoProblem) {
  const Verification verification = Verify(VerifyDepth::kDigests);
  EXPECT_THAT(verification.problems, IsEmpty());
  EXPECT_EQ(verification.files, 2);
  EXPECT_EQ(verification.bytes_read, 9);
}

TEST_F(VerifyTest, SizesAreComparedWithoutReadingAByte) {
  store_.on_call = [](const std::string& verb, const std::string& key) {
    return verb == "read" && key != "manifest.json" ? Fault::kRefuse : Fault::kNone;
  };
  EXPECT_THAT(Verify(VerifyDepth::kSizes).problems, IsEmpty());
  EXPECT_EQ(Verify(VerifyDepth::kSizes).bytes_read, 0);
  EXPECT_EQ(ErrorReason(VerifyFiles(store_, Read().manifest.files, VerifyDepth::kDigests).status()),
            "OBJECT_STORE_UNAVAILABLE")
      << "a store that does not answer says nothing of the files";
}

TEST_F(VerifyTest, ChangedByteIsFoundAndBothDigestsAreNamed) {
  store_.objects["1-2/gptq/model.safetensors"] = "weightz";
  EXPECT_THAT(Verify(VerifyDepth::kSizes).problems, IsEmpty());
  // printf weightz | sha256sum
  EXPECT_THAT(Verify(VerifyDepth::kDigests).problems,
              ElementsAre(AllOf(Field(&FileProblem::path, "1-2/gptq/model.safetensors"),
                                Field(&FileProblem::description,
                                      AllOf(HasSubstr(kWeights), HasSubstr(Sha256("weightz")))))));
}

TEST_F(VerifyTest, MissingFilesOtherSizesAndStrayFilesAreFound) {
  store_.objects.erase("1-2/gptq/config.json");
  store_.objects["1-2/gptq/model.safetensors"] = "weigh";
  store_.objects["1-2/gptq/model-00002.safetensors"] = "foreign";
  EXPECT_THAT(
      Verify(VerifyDepth::kSizes).problems,
      ElementsAre(AllOf(Field(&FileProblem::path, "1-2/gptq/config.json"),
                        Field(&FileProblem::description, "is missing")),
                  AllOf(Field(&FileProblem::path, "1-2/gptq/model.safetensors"),
                        Field(&FileProblem::description, "has 5 bytes, the manifest says 7")),
                  AllOf(Field(&FileProblem::path, "1-2/gptq/model-00002.safetensors"),
                        Field(&FileProblem::description, "is not in the manifest"))));
}

TEST_F(VerifyTest, StopsWhenItIsToldTo) {
  const absl::Status status =
      VerifyFiles(store_, Read().manifest.files, VerifyDepth::kDigests,
                  [](std::uint64_t done, std::uint64_t) { return done == 0; })
          .status();
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
}

TEST_F(VerifyTest, CopyWithoutTheAttemptsPrefixIsAnOutputToo) {
  testing::MemoryStore copy("file:///copy");
  copy.objects["manifest.json"] = store_.objects["manifest.json"];
  copy.objects["gptq/config.json"] = "{}";
  copy.objects["gptq/model.safetensors"] = "weights";
  const PublishedOutput output = ReadPublishedOutput(copy).value();
  EXPECT_EQ(output.manifest.FilesOf("GPTQ").size(), 2);
  EXPECT_THAT(VerifyFiles(copy, output.manifest.files, VerifyDepth::kDigests)->problems, IsEmpty());
}

TEST_F(VerifyTest, OutputWithoutAManifestSaysThatNothingIsPublishedYet) {
  store_.objects.erase("manifest.json");
  const absl::Status status = ReadPublishedOutput(store_).status();
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(ErrorReason(status), "NO_MANIFEST");
  EXPECT_THAT(std::string(status.message()), HasSubstr("s3://bucket/out/manifest.json"));
}

TEST_F(VerifyTest, ManifestOfAnotherDigestThanTheCommittedOneIsRefusedWithBoth) {
  const std::string committed(64, 'c');
  const absl::Status status = ReadPublishedOutput(store_, committed).status();
  EXPECT_TRUE(absl::IsDataLoss(status));
  EXPECT_EQ(ErrorReason(status), "MANIFEST_MISMATCH");
  EXPECT_THAT(std::string(status.message()), HasSubstr(committed));
  EXPECT_THAT(std::string(status.message()), HasSubstr(Sha256(store_.objects["manifest.json"])));
}

}  // namespace
}  // namespace teq::objects
