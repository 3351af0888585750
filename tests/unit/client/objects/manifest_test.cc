#include "client/objects/manifest.h"

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "tests/unit/client/objects/memory_store.h"

namespace teq::objects {
namespace {

using ::testing::HasSubstr;

const std::string kDigest(64, 'a');

std::string Text(const std::string& path, const std::string& digest = kDigest) {
  return fmt::format(
      R"({{"schema": "teqd.manifest.v1", "job": "projects/p/jobs/j", "job_uid": "u",
          "spec_digest": "d", "attempt": 1, "fence": 12,
          "artifacts": [{{"format": "GPTQ", "path": "s3://b/1-12/gptq", "bytes": 7,
                          "sha256": "{0}"}}],
          "files": [{{"path": "{1}", "bytes": 7, "sha256": "{2}"}}], "report": {{}}}})",
      kDigest, path, digest);
}

TEST(ManifestTest, FilesOfAFormatLieBelowItsDirectory) {
  const Manifest manifest = ParseManifest(Text("gptq/config.json"), "m").value();
  EXPECT_EQ(manifest.job, "projects/p/jobs/j");
  EXPECT_EQ(manifest.fence, 12);
  EXPECT_EQ(manifest.Prefix(), "");
  ASSERT_EQ(manifest.FilesOf("GPTQ").size(), 1);
  EXPECT_EQ(manifest.FilesOf("GPTQ")[0].bytes, 7);
  EXPECT_TRUE(manifest.FilesOf("AWQ").empty());
}

TEST(ManifestTest, InAnObjectStoreTheyLieBelowTheAttemptsPrefix) {
  const Manifest manifest = ParseManifest(Text("1-12/gptq/config.json"), "m").value();
  EXPECT_EQ(manifest.Prefix(), "1-12/");
  EXPECT_EQ(manifest.FilesOf("GPTQ").size(), 1);
  EXPECT_EQ(manifest.artifacts[0].path(), "s3://b/1-12/gptq");
}

TEST(ManifestTest, PathsThatLeaveTheOutputAreRefused) {
  for (const char* path : {"../x", "/etc/passwd", "gptq/../../x", "gptq//x", "", ".", "gptq/",
                           "gptq/./x", "manifest.json", "gptq/\\u0000x"}) {
    const absl::Status status = ParseManifest(Text(path), "s3://b/manifest.json").status();
    EXPECT_EQ(ErrorReason(status), "MANIFEST_INVALID") << path;
    EXPECT_THAT(std::string(status.message()), HasSubstr("s3://b/manifest.json")) << path;
  }
}

TEST(ManifestTest, WhatIsNoManifestIsRefused) {
  for (const char* text : {"", "[]", "{}", R"({"schema": "other"})",
                           R"({"schema": "teqd.manifest.v1", "job": 3})", "{\"schema\": \xff}"}) {
    EXPECT_EQ(ErrorReason(ParseManifest(text, "m").status()), "MANIFEST_INVALID") << text;
  }
  EXPECT_EQ(ErrorReason(ParseManifest(Text("gptq/x", "beef"), "m").status()), "MANIFEST_INVALID");
}

TEST(ManifestTest, AnObjectThatIsTooLargeForAManifestIsNotRead) {
  testing::MemoryStore store;
  store.objects["manifest.json"] = std::string(kMaxManifestBytes + 1, ' ');
  const absl::Status status = ReadSmallObject(store, "manifest.json").status();
  EXPECT_EQ(ErrorReason(status), "MANIFEST_TOO_LARGE");
  EXPECT_TRUE(absl::IsResourceExhausted(status));
}

}  // namespace
}  // namespace teq::objects
