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
        BadUri{"file:///a//b",
               "has an empty segment (\"//\" in its path); write the path without it"},
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

using Scheme = Location::Scheme;

TEST(LocationTest, EachSchemeIsTakenApart) {
  EXPECT_EQ(*ParseUri("file:///models/my%20llama/", UriUse::kModel),
            (Location{.scheme = Scheme::kFile, .path = "/models/my llama"}));
  EXPECT_EQ(*ParseUri("s3://my-bucket/a%2Bb/c+d/", UriUse::kOutput),
            (Location{.scheme = Scheme::kS3, .authority = "my-bucket", .key = "a+b/c+d"}));
  EXPECT_EQ(*ParseUri("s3://my-bucket", UriUse::kModel),
            (Location{.scheme = Scheme::kS3, .authority = "my-bucket"}));
  EXPECT_EQ(*ParseUri("https://Example.ORG:8443/m/%C3%A4", UriUse::kData),
            (Location{.scheme = Scheme::kHttps, .authority = "example.org:8443", .key = "m/ä"}));
  EXPECT_EQ(ParseUri("https://[::1]:8443/m", UriUse::kData)->authority, "[::1]:8443");
  EXPECT_EQ(
      *ParseUri("hf://Qwen/Qwen2.5-0.5B", UriUse::kModel),
      (Location{.scheme = Scheme::kHub, .authority = "Qwen/Qwen2.5-0.5B", .revision = "main"}));
  EXPECT_EQ(ParseUri("hf://o/n@refs/pr/7", UriUse::kModel)->revision, "refs/pr/7");
}

TEST(LocationTest, PortOfHttpsIsTheHostsOwn) {
  EXPECT_EQ(*ParseUri("https://h:443/x", UriUse::kModel), *ParseUri("https://H/x", UriUse::kModel));
}

TEST(LocationTest, UriOfALocationIsReadBackAsThatLocation) {
  for (const char* uri :
       {"file:///my%20models", "s3://bucket", "s3://bucket/a%20b/%25/%C3%A4+c", "https://host:8443",
        "https://host/a%3Fb%23c", "hf://o/n", "hf://o/n@v1"}) {
    const auto location = ParseUri(uri, UriUse::kModel);
    ASSERT_TRUE(location.ok()) << location.status();
    EXPECT_EQ(UriOf(*location), uri);
  }
  EXPECT_EQ(UriOf(*ParseUri("hf://o/n@main", UriUse::kModel)), "hf://o/n");
  EXPECT_EQ(UriOf(*ParseUri("https://h:443/%61/", UriUse::kModel)), "https://h/a");
}

TEST(LocationTest, WithinNeedsTheSamePlaceAndWholeSegments) {
  const auto within = [](std::string_view inner, std::string_view outer) {
    return IsWithin(*ParseUri(inner, UriUse::kModel), *ParseUri(outer, UriUse::kModel));
  };
  EXPECT_TRUE(within("s3://bucket/a/b", "s3://bucket/a"));
  EXPECT_TRUE(within("s3://bucket/a", "s3://bucket"));
  EXPECT_TRUE(within("s3://bucket/a", "s3://bucket/a/"));
  EXPECT_TRUE(within("file:///a/b", "file:///a"));
  EXPECT_FALSE(within("s3://bucket/ab", "s3://bucket/a"));
  EXPECT_FALSE(within("s3://bucket", "s3://bucket/a"));
  EXPECT_FALSE(within("s3://bucket2/a", "s3://bucket/a"));
  EXPECT_FALSE(within("https://bucket/a", "s3://bucket/a"));
}

struct BadLocation {
  std::string uri;
  UriUse use;
  std::string problem;
};

class BadLocationTest : public ::testing::TestWithParam<BadLocation> {};

TEST_P(BadLocationTest, IsRefusedAndTheMessageSaysWhy) {
  const auto location = ParseUri(GetParam().uri, GetParam().use);
  ASSERT_FALSE(location.ok());
  EXPECT_EQ(location.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(location.status()), "INVALID_URI");
  EXPECT_THAT(Message(location.status()), HasSubstr(GetParam().problem));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadLocationTest,
    ::testing::Values(
        BadLocation{"", UriUse::kModel, "is empty; write file://, s3://, https:// or hf://"},
        BadLocation{"/m", UriUse::kOutput, "has no scheme; write file:///m"},
        BadLocation{"m", UriUse::kData, "has no scheme; write file://, s3:// or https://"},
        BadLocation{"http://h/m", UriUse::kModel, "has scheme \"http\", which is not supported"},
        BadLocation{"S3://bucket/m", UriUse::kModel, "has scheme \"S3\""},
        BadLocation{"hf://o/n", UriUse::kData, "hf:// is for models only; write file://, s3:// or"},
        BadLocation{"hf://o/n", UriUse::kOutput, "write file:// or s3://"},
        BadLocation{"https://h/o", UriUse::kOutput, "https:// is for input only; write file:// or"},
        BadLocation{"s3://", UriUse::kModel, "names no bucket; write s3://bucket/prefix"},
        BadLocation{"s3:///key", UriUse::kModel, "names no bucket"},
        BadLocation{"s3://ab/k", UriUse::kModel, "has bucket \"ab\"; a bucket's name has 3 to 63"},
        BadLocation{"s3://" + std::string(64, 'a'), UriUse::kModel, "has 3 to 63"},
        BadLocation{"s3://Bucket/k", UriUse::kModel, "has bucket \"Bucket\""},
        BadLocation{"s3://my_bucket/k", UriUse::kModel, "has bucket \"my_bucket\""},
        BadLocation{"s3://-bucket/k", UriUse::kModel, "has bucket \"-bucket\""},
        BadLocation{"s3://bucket./k", UriUse::kModel, "has bucket \"bucket.\""},
        BadLocation{"s3://buc..ket/k", UriUse::kModel, "has no two dots in a row"},
        BadLocation{"s3://192.168.5.4/k", UriUse::kModel, "is no IP address"},
        BadLocation{"s3://xn--bucket/k", UriUse::kModel, "does not begin with xn--"},
        BadLocation{"s3://bucket/a//b", UriUse::kModel, "has an empty segment"},
        BadLocation{"s3://bucket/../b", UriUse::kModel, "has a \"..\" segment"},
        BadLocation{"s3://bucket/a?b", UriUse::kModel, "write ? as %3F"},
        BadLocation{"s3://bucket/a%00", UriUse::kModel, "has a control character"},
        BadLocation{"s3://bucket/" + std::string(1025, 'k'), UriUse::kModel,
                    "has a key of 1025 bytes; at most 1024"},
        BadLocation{"s3://bucket", UriUse::kData, "names no object"},
        BadLocation{"https://host/", UriUse::kData, "names no object"},
        BadLocation{"https:///m", UriUse::kModel, "names no host; write https://host/path"},
        BadLocation{"https://h_st/m", UriUse::kModel, "has host \"h_st\", which is none"},
        BadLocation{"https://[::g]/m", UriUse::kModel, "has host \"[::g]\""},
        BadLocation{"https://[::1/m", UriUse::kModel, "has host \"[::1\""},
        BadLocation{"https://h:0/m", UriUse::kModel, "has port \"0\"; write a number from 1"},
        BadLocation{"https://h:65536/m", UriUse::kModel, "has port \"65536\""},
        BadLocation{"https://h:/m", UriUse::kModel, "has port \"\""},
        BadLocation{"https://h/m?X-Amz-Signature=1", UriUse::kModel, "has a query"},
        BadLocation{"https://h?x", UriUse::kModel, "has a query"},
        BadLocation{"hf://name", UriUse::kModel, "write hf://owner/name[@revision]"},
        BadLocation{"hf://a/b/c", UriUse::kModel, "write hf://owner/name[@revision]"},
        BadLocation{"hf://o/", UriUse::kModel, "has name \"\""},
        BadLocation{"hf://o/a..b", UriUse::kModel, "has name \"a..b\""},
        BadLocation{"hf://-o/n", UriUse::kModel, "has owner \"-o\""},
        BadLocation{"hf://o%2F/n", UriUse::kModel, "has owner \"o%2F\""},
        BadLocation{"hf://o/" + std::string(97, 'n'), UriUse::kModel, "each of 1 to 96"},
        BadLocation{"hf://o/n@", UriUse::kModel, "has revision \"\""},
        BadLocation{"hf://o/n@a/../b", UriUse::kModel, "has revision \"a/../b\""},
        BadLocation{"hf://o/n@a?b", UriUse::kModel, "has revision \"a?b\""}));

TEST(LocationTest, PasswordInAUriIsNotRepeated) {
  const auto status = ParseUri("https://user:secret@host/m", UriUse::kModel).status();
  EXPECT_EQ(ErrorReason(status), "INVALID_URI");
  EXPECT_THAT(status.ToString(), ::testing::Not(HasSubstr("secret")));
}

bool Allowed(std::string_view uri, const std::vector<std::string>& prefixes) {
  const auto location = ResolveLocation(uri, UriUse::kModel, {prefixes});
  if (!location.ok()) {
    EXPECT_EQ(ErrorReason(location.status()), "URI_NOT_ALLOWED") << location.status();
  }
  return location.ok();
}

TEST(LocationPolicyTest, PrefixesOfEachSchemeAllowThemselvesAndWhatLiesBelow) {
  EXPECT_TRUE(Allowed("s3://bucket/models/a", {"s3://bucket/models"}));
  EXPECT_TRUE(Allowed("s3://bucket/models", {"s3://bucket/models/"}));
  EXPECT_FALSE(Allowed("s3://bucket/models2", {"s3://bucket/models"}));
  EXPECT_FALSE(Allowed("s3://bucket", {"s3://bucket/models"}));
  EXPECT_TRUE(Allowed("s3://bucket/x", {"s3://bucket"}));
  EXPECT_FALSE(Allowed("s3://bucket2/x", {"s3://bucket"}));
  EXPECT_TRUE(Allowed("s3://any-bucket/x", {"s3://"}));
  EXPECT_TRUE(Allowed("https://host/a/b", {"https://HOST:443/a"}));
  EXPECT_FALSE(Allowed("https://host:8443/a/b", {"https://host/a"}));
  EXPECT_FALSE(Allowed("https://host.evil.org/a", {"https://host"}));
  EXPECT_TRUE(Allowed("hf://o/n@v1", {"hf://o"}));
  EXPECT_TRUE(Allowed("hf://o/n@v1", {"hf://o/"}));
  EXPECT_TRUE(Allowed("hf://o/n@v1", {"hf://o/n"}));
  EXPECT_TRUE(Allowed("hf://o/n@v1", {"hf://o/n@v1"}));
  EXPECT_FALSE(Allowed("hf://o/n@v2", {"hf://o/n@v1"}));
  EXPECT_FALSE(Allowed("hf://o/n2", {"hf://o/n"}));
  EXPECT_FALSE(Allowed("hf://o2/n", {"hf://o"}));
  EXPECT_TRUE(Allowed("hf://o/n", {"file:///m", "s3://bucket", "hf://"}));
}

TEST(LocationPolicyTest, PrefixesOfOtherSchemesAllowNothing) {
  EXPECT_FALSE(Allowed("s3://bucket/x", {"file:///", "https://bucket", "hf://"}));
  EXPECT_FALSE(Allowed("file:///x", {"s3://", "https://", "hf://"}));
  EXPECT_TRUE(Allowed("file:///x", {"s3://", "file:///"}));
}

TEST(LocationPolicyTest, WhatIsRefusedNamesThePrefixes) {
  const auto status =
      ResolveLocation("s3://bucket/x", UriUse::kOutput, {{"file:///out", "s3://bucket/out"}})
          .status();
  EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
  EXPECT_THAT(Message(status), HasSubstr("\"s3://bucket/x\" is not below an allowed prefix; "
                                         "allowed: file:///out, s3://bucket/out"));
}

TEST(LocationPolicyTest, PrefixesAreCheckedWhenAConfigurationIsRead) {
  for (const char* good : {"file:///m/", "s3://", "s3://bucket/a/", "https://h:8443", "hf://",
                           "hf://o", "hf://o/n@v1"}) {
    EXPECT_TRUE(CheckUriPrefix(good).ok()) << good << ": " << CheckUriPrefix(good);
  }
  for (const char* bad : {"", "/m", "m", "ftp://h", "file://", "s3://B/x", "https://u@h/x",
                          "hf://o/n/x", "hf://@v1", "hf:///"}) {
    EXPECT_EQ(ErrorReason(CheckUriPrefix(bad)), "INVALID_URI") << bad;
  }
}

TEST(LocationPolicyTest, BadPrefixIsAnErrorAndNotAllowance) {
  const auto status = ResolveLocation("s3://bucket/x", UriUse::kModel, {{"s3//bucket"}}).status();
  EXPECT_EQ(ErrorReason(status), "INVALID_URI");
  EXPECT_THAT(Message(status), HasSubstr("allowed prefix: "));
}

}  // namespace
}  // namespace teq
