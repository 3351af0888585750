#include "proto/spec/uri.h"

#include <cstdlib>
#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(UriTest, FileUriNamesAnAbsolutePath) {
  EXPECT_EQ(ParseFileUri("file:///models/llama")->string(), "/models/llama");
  EXPECT_EQ(ParseFileUri("file:///models/llama/")->string(), "/models/llama");
  EXPECT_EQ(ParseFileUri("file:///")->string(), "/");
  EXPECT_EQ(ParseFileUri("file:///a..b/.hidden")->string(), "/a..b/.hidden");
}

TEST(UriTest, PercentEscapesAreDecoded) {
  EXPECT_EQ(ParseFileUri("file:///my%20models/100%25/%C3%A4")->string(), "/my models/100%/ä");
}

struct BadUri {
  std::string uri;
  std::string problem;
};

class BadUriTest : public ::testing::TestWithParam<BadUri> {};

TEST_P(BadUriTest, IsRefusedAndTheMessageSaysWhy) {
  const auto path = ParseFileUri(GetParam().uri);
  ASSERT_FALSE(path.ok());
  EXPECT_EQ(path.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(path.status()), "INVALID_URI");
  EXPECT_THAT(Message(path.status()), HasSubstr(GetParam().problem));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadUriTest,
    ::testing::Values(
        BadUri{"", "is empty; write file://"}, BadUri{"/models/x", "write file:///models/x"},
        BadUri{"models/x", "has no scheme; write file://"},
        BadUri{"s3://bucket/x", "\"s3://bucket/x\" has scheme \"s3\", which is not supported"},
        BadUri{"FILE:///x", "scheme \"FILE\""}, BadUri{"file:/x", "write file://"},
        BadUri{"file://", "names a host or a relative path"},
        BadUri{"file://host/x", "names a host or a relative path"},
        BadUri{"file://../x", "names a host or a relative path"},
        BadUri{"file:///a/../b", "has a \"..\" segment"},
        BadUri{"file:///a/%2e%2E/b", "has a \"..\" segment"},
        BadUri{"file:///a/.%2e", "has a \"..\" segment"},
        BadUri{"file:///a/./b", "has a \".\" segment"},
        BadUri{"file:///a//b", "has an empty segment"},
        BadUri{"file:////a", "has an empty segment"}, BadUri{"file:///a//", "has an empty segment"},
        BadUri{"file:////", "has an empty segment"},
        BadUri{"file:///a%00b", "has a control character"},
        BadUri{std::string("file:///a\0b", 11), "has a control character"},
        BadUri{"file:///a%0Ab", "has a control character"},
        BadUri{"file:///a%2Fb", "has an escaped slash"},
        BadUri{"file:///a%2", "has a malformed percent escape"},
        BadUri{"file:///a%", "has a malformed percent escape"},
        BadUri{"file:///a%zz", "has a malformed percent escape"},
        BadUri{"file:///a?b", "write ? as %3F"}, BadUri{"file:///a#b", "# as %23"},
        BadUri{"file:///a%FF", "is not UTF-8"},
        BadUri{"file:///" + std::string(4096, 'a'), "is longer than 4096 bytes"}));

TEST(UriTest, FileUriOfAPathIsReadBackAsThatPath) {
  EXPECT_EQ(FileUri("/my models/a#b?c%d"), "file:///my%20models/a%23b%3Fc%25d");
  for (const char* path : {"/", "/plain", "/my models/a#b?c%d/ä", "/x+y@z:1"}) {
    EXPECT_EQ(ParseFileUri(FileUri(path))->string(), path);
  }
}

TEST(UriTest, WithinMeansTheDirectoryItselfAndWhatLiesBelow) {
  EXPECT_TRUE(IsWithin("/data", "/data"));
  EXPECT_TRUE(IsWithin("/data/a/b", "/data"));
  EXPECT_TRUE(IsWithin("/data", "/"));
  EXPECT_FALSE(IsWithin("/data2", "/data"));
  EXPECT_FALSE(IsWithin("/", "/data"));
}

class ResolveUriTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "teq-uri-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = fs::canonical(pattern);
    fs::create_directories(root_ / "data" / "inner");
    fs::create_directories(root_ / "data2");
  }
  void TearDown() override { fs::remove_all(root_); }

  [[nodiscard]] UriPolicy OnlyData() const { return {{FileUri(root_ / "data") + "/"}}; }

  fs::path root_;
};

TEST_F(ResolveUriTest, EmptyPolicyAllowsEveryPath) {
  EXPECT_EQ(ResolveUri("file:///nowhere/at/all", {})->string(), "/nowhere/at/all");
  EXPECT_EQ(ErrorReason(ResolveUri("s3://b/x", {}).status()), "INVALID_URI");
}

TEST_F(ResolveUriTest, PrefixAllowsItselfAndWhatLiesBelow) {
  EXPECT_EQ(*ResolveUri(FileUri(root_ / "data"), OnlyData()), root_ / "data");
  EXPECT_EQ(*ResolveUri(FileUri(root_ / "data/new/deep"), OnlyData()), root_ / "data/new/deep");
}

TEST_F(ResolveUriTest, SiblingWithTheSamePrefixIsNotAllowed) {
  const auto path = ResolveUri(FileUri(root_ / "data2"), OnlyData());
  EXPECT_EQ(path.status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(ErrorReason(path.status()), "URI_NOT_ALLOWED");
  EXPECT_THAT(Message(path.status()), HasSubstr("/data2\" is not below an allowed prefix"));
  EXPECT_THAT(Message(path.status()), HasSubstr(OnlyData().allowed_prefixes[0]));
}

TEST_F(ResolveUriTest, SymbolicLinkCannotLeadOut) {
  fs::create_directory_symlink(root_ / "data2", root_ / "data" / "out");
  EXPECT_EQ(ErrorReason(ResolveUri(FileUri(root_ / "data/out/x"), OnlyData()).status()),
            "URI_NOT_ALLOWED");
}

TEST_F(ResolveUriTest, SymbolicLinkInsideIsFollowed) {
  fs::create_directory_symlink(root_ / "data" / "inner", root_ / "data" / "link");
  EXPECT_EQ(*ResolveUri(FileUri(root_ / "data/link/x"), OnlyData()), root_ / "data/inner/x");
}

TEST_F(ResolveUriTest, PrefixThatIsALinkAllowsItsTarget) {
  fs::create_directory_symlink(root_ / "data", root_ / "alias");
  const UriPolicy policy{{FileUri(root_ / "alias")}};
  EXPECT_EQ(*ResolveUri(FileUri(root_ / "alias/x"), policy), root_ / "data/x");
}

TEST_F(ResolveUriTest, LinkWithoutATargetIsRefused) {
  fs::create_symlink(root_ / "data2" / "later", root_ / "data" / "dangling");
  const auto path = ResolveUri(FileUri(root_ / "data/dangling"), OnlyData());
  EXPECT_EQ(ErrorReason(path.status()), "URI_NOT_ALLOWED");
  EXPECT_THAT(Message(path.status()), HasSubstr("symbolic link whose target does not exist"));
}

TEST_F(ResolveUriTest, LinkToItselfIsRefused) {
  fs::create_symlink(root_ / "data" / "loop", root_ / "data" / "loop");
  EXPECT_EQ(ErrorReason(ResolveUri(FileUri(root_ / "data/loop/x"), OnlyData()).status()),
            "URI_NOT_ALLOWED");
}

TEST_F(ResolveUriTest, BadPrefixInThePolicyIsAnErrorAndNotAllowance) {
  const auto path = ResolveUri("file:///x", {{"/x"}});
  EXPECT_EQ(ErrorReason(path.status()), "INVALID_URI");
  EXPECT_THAT(Message(path.status()), HasSubstr("allowed prefix: "));
}

}  // namespace
}  // namespace teq
