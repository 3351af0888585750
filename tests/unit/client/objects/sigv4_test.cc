#include "client/objects/sigv4.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq::objects {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr const char* kEmptySha256 =
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

// The examples of "Authenticating Requests: Using the Authorization Header (AWS Signature Version
// 4)" in the reference of Amazon S3's API.
class S3ExampleTest : public ::testing::Test {
 protected:
  SignedParts Parts(const std::string& method, const std::string& path) const {
    return {.method = method,
            .path = path,
            .headers = {{"Host", "examplebucket.s3.amazonaws.com"},
                        {"x-amz-content-sha256", kEmptySha256},
                        {"x-amz-date", DateHeader(now_)}},
            .payload_sha256 = kEmptySha256};
  }

  std::string Signed(const SignedParts& parts) const {
    return Authorization(parts, keys_, {"us-east-1", "s3"}, now_);
  }

  const Credentials keys_{.access_key_id = "AKIAIOSFODNN7EXAMPLE",
                          .secret_access_key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"};
  const absl::Time now_ = absl::FromCivil(absl::CivilSecond(2013, 5, 24), absl::UTCTimeZone());
};

TEST_F(S3ExampleTest, GetObjectWithARange) {
  SignedParts parts = Parts("GET", "/test.txt");
  parts.headers.emplace_back("Range", "bytes=0-9");
  EXPECT_EQ(Signed(parts),
            "AWS4-HMAC-SHA256 "
            "Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
            "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
            "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
}

TEST_F(S3ExampleTest, PutObject) {
  SignedParts parts = Parts("PUT", EncodePath("/test$file.text"));
  parts.payload_sha256 = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
  parts.headers[1].second = parts.payload_sha256;
  parts.headers.emplace_back("x-amz-storage-class", "REDUCED_REDUNDANCY");
  parts.headers.emplace_back("Date", "Fri, 24 May 2013 00:00:00 GMT");
  EXPECT_THAT(
      Signed(parts),
      EndsWith("SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;"
               "x-amz-storage-class,"
               "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"));
}

TEST_F(S3ExampleTest, GetBucketLifecycle) {
  SignedParts parts = Parts("GET", "/");
  parts.query = {{"lifecycle", ""}};
  EXPECT_THAT(Signed(parts),
              EndsWith("fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"));
}

TEST_F(S3ExampleTest, ListObjects) {
  SignedParts parts = Parts("GET", "/");
  parts.query = {{"prefix", "J"}, {"max-keys", "2"}};
  EXPECT_EQ(CanonicalQuery(parts.query), "max-keys=2&prefix=J");
  EXPECT_THAT(Signed(parts),
              EndsWith("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"));
}

// "Authenticating Requests: Using Query Parameters", of the same reference.
TEST_F(S3ExampleTest, PresignedGet) {
  const SignedParts parts{.method = "GET",
                          .path = "/test.txt",
                          .headers = {{"host", "examplebucket.s3.amazonaws.com"}}};
  EXPECT_EQ(PresignedQuery(parts, keys_, {"us-east-1", "s3"}, now_, absl::Hours(24)),
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2F"
            "us-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&"
            "X-Amz-SignedHeaders=host&X-Amz-Signature="
            "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404");
}

TEST_F(S3ExampleTest, SessionTokenIsSignedInAPresignedUrl) {
  Credentials keys = keys_;
  keys.session_token = "to/ken+";
  const SignedParts parts{.method = "GET", .path = "/k", .headers = {{"host", "h"}}};
  const std::string with = PresignedQuery(parts, keys, {"r", "s3"}, now_, absl::Hours(1));
  EXPECT_THAT(with, HasSubstr("&X-Amz-Security-Token=to%2Fken%2B&"));
  const std::string without = PresignedQuery(parts, keys_, {"r", "s3"}, now_, absl::Hours(1));
  EXPECT_NE(with.substr(with.size() - 64), without.substr(without.size() - 64));
}

// Cases of AWS's aws-sig-v4-test-suite, by their names there.
std::string SuiteSignature(SignedParts parts) {
  const absl::Time now =
      absl::FromCivil(absl::CivilSecond(2015, 8, 30, 12, 36), absl::UTCTimeZone());
  parts.headers.emplace_back("Host", "example.amazonaws.com");
  parts.headers.emplace_back("X-Amz-Date", "20150830T123600Z");
  parts.payload_sha256 = kEmptySha256;
  const std::string value =
      Authorization(parts,
                    {.access_key_id = "AKIDEXAMPLE",
                     .secret_access_key = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"},
                    {"us-east-1", "service"}, now);
  EXPECT_THAT(value,
              StartsWith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/"
                         "aws4_request,SignedHeaders="));
  return value.substr(value.size() - 64);
}

TEST(SuiteTest, GetVanilla) {
  EXPECT_EQ(SuiteSignature({.method = "GET", .path = "/"}),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31");
}

TEST(SuiteTest, PostVanilla) {
  EXPECT_EQ(SuiteSignature({.method = "POST", .path = "/"}),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b");
}

TEST(SuiteTest, GetVanillaQueryOrderKeyCase) {
  EXPECT_EQ(
      SuiteSignature(
          {.method = "GET", .path = "/", .query = {{"Param2", "value2"}, {"Param1", "value1"}}}),
      "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500");
}

TEST(SuiteTest, GetUtf8) {
  EXPECT_EQ(SuiteSignature({.method = "GET", .path = EncodePath("/\u1234")}),
            "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85");
}

TEST(SuiteTest, GetHeaderValueTrim) {
  EXPECT_EQ(
      SuiteSignature({.method = "GET",
                      .path = "/",
                      .headers = {{"My-Header1", " value1"}, {"My-Header2", " \"a   b   c\""}}}),
      "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736");
}

TEST(Sigv4Test, EverythingButUnreservedCharactersIsEscapedInUpperCase) {
  EXPECT_EQ(EncodePath("/a b+c%/ä:=~._-"), "/a%20b%2Bc%25/%C3%A4%3A%3D~._-");
  EXPECT_EQ(EncodeQuery("a/b c"), "a%2Fb%20c");
  EXPECT_EQ(CanonicalQuery({{"b", "2"}, {"a", "/"}, {"a", "+"}, {"A", ""}}), "A=&a=%2B&a=%2F&b=2");
}

}  // namespace
}  // namespace teq::objects
