#include "client/objects/s3_store.h"

#include <filesystem>
#include <string>
#include <vector>

#include "client/objects/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "tests/unit/client/objects/fake_transport.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class FixedKeys : public CredentialsProvider {
 public:
  absl::StatusOr<Credentials> Get() override {
    return Credentials{.access_key_id = "AKID",
                       .secret_access_key = "secret",
                       .session_token = forgotten > 0 ? "new" : "old",
                       .expiry = expiry};
  }
  void Forget() override { ++forgotten; }

  int forgotten = 0;
  absl::Time expiry = absl::InfiniteFuture();
};

HttpAnswer ErrorAnswer(int status, const std::string& code) {
  return {.status = status,
          .headers = {{"date", "Thu, 01 Jan 2026 01:00:00 GMT"}},
          .body = "<Error><Code>" + code + "</Code><Message>words</Message></Error>"};
}

class S3StoreTest : public ::testing::Test {
 protected:
  // A store whose answers come from `answer`; time stands at 2026-01-01 00:00 but for pauses.
  std::shared_ptr<ObjectStore> Store(FakeTransport::Answer answer) {
    transport_ = std::make_shared<FakeTransport>(std::move(answer));
    return OpenS3Store(
        {.bucket = "bucket",
         .prefix = "pre",
         .endpoint =
             {.origin = "https://store", .host = "store", .base_path = "/bucket/", .region = "r"},
         .credentials = keys_,
         .transport = transport_,
         .retry = {.attempts = 3},
         .world = {
             .now =
                 [] { return absl::FromCivil(absl::CivilSecond(2026, 1, 1), absl::UTCTimeZone()); },
             .sleep = [this](absl::Duration pause) { pauses_.push_back(pause); },
             .random = [] { return 0.0; }}});
  }

  // Answers in this order, the last one again and again.
  static FakeTransport::Answer InOrder(std::vector<absl::StatusOr<HttpAnswer>> answers) {
    return [answers, next = std::size_t{0}](const auto&) mutable {
      return answers[std::min(next++, answers.size() - 1)];
    };
  }

  static absl::Status Broken() {
    return Error(absl::StatusCode::kUnavailable, "HTTP_FAILED", "https://store: broke");
  }

  std::shared_ptr<FixedKeys> keys_ = std::make_shared<FixedKeys>();
  std::shared_ptr<FakeTransport> transport_;
  std::vector<absl::Duration> pauses_;
};

TEST_F(S3StoreTest, EveryRequestIsSignedWithDateTokenAndPayload) {
  ASSERT_TRUE(
      Store(InOrder({HttpAnswer{.status = 200}}))->Write("a b", "abc", IfExists::kFail).ok());
  const auto& request = transport_->seen.at(0);
  EXPECT_EQ(request.method, "PUT");
  EXPECT_EQ(request.url, "https://store/bucket/pre/a%20b");
  EXPECT_EQ(request.body, "abc");
  EXPECT_EQ(request.Header("x-amz-content-sha256"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(request.Header("x-amz-date"), "20260101T000000Z");
  EXPECT_EQ(request.Header("x-amz-security-token"), "old");
  EXPECT_EQ(request.Header("if-none-match"), "*");
  EXPECT_THAT(request.Header("Authorization"),
              HasSubstr("SignedHeaders=host;if-none-match;x-amz-checksum-sha256;"
                        "x-amz-content-sha256;x-amz-date;x-amz-security-token,"));
}

TEST_F(S3StoreTest, SignedUrlEndsWithItsKeys) {
  const auto store = Store(InOrder({HttpAnswer{.status = 200}}));
  const absl::Time now = absl::FromCivil(absl::CivilSecond(2026, 1, 1), absl::UTCTimeZone());
  EXPECT_EQ(store->PresignedUrl("k", absl::Hours(1))->expiry, now + absl::Hours(1));
  keys_->expiry = now + absl::Minutes(10);
  const auto url = store->PresignedUrl("k", absl::Hours(1));
  ASSERT_TRUE(url.ok()) << url.status();
  EXPECT_EQ(url->expiry, now + absl::Minutes(10));
  EXPECT_THAT(url->url, HasSubstr("https://store/bucket/pre/k?"));
}

struct Failure {
  int status;
  std::string code;
  std::string reason;
  std::string words;
};

class S3FailureTest : public S3StoreTest, public ::testing::WithParamInterface<Failure> {};

TEST_P(S3FailureTest, HasItsOwnReasonAndWordsAndNoSecret) {
  const auto& failure = GetParam();
  const absl::Status status =
      Store(InOrder({ErrorAnswer(failure.status, failure.code)}))->List("x").status();
  EXPECT_EQ(ErrorReason(status), failure.reason);
  EXPECT_THAT(std::string(status.message()), HasSubstr(failure.words));
  EXPECT_THAT(std::string(status.message()), HasSubstr("s3://bucket/pre/x"));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("Signature=")));
}

INSTANTIATE_TEST_SUITE_P(
    All, S3FailureTest,
    ::testing::Values(
        Failure{404, "NoSuchBucket", "BUCKET_NOT_FOUND", "has no bucket \"bucket\""},
        Failure{404, "NoSuchKey", "OBJECT_NOT_FOUND", "there is no such object"},
        Failure{403, "InvalidAccessKeyId", "OBJECT_ACCESS_DENIED", "check AWS_ACCESS_KEY_ID"},
        Failure{403, "SignatureDoesNotMatch", "OBJECT_ACCESS_DENIED",
                "check AWS_SECRET_ACCESS_KEY"},
        Failure{403, "RequestTimeTooSkewed", "OBJECT_ACCESS_DENIED", "differ by 60 minutes"},
        Failure{403, "AccessDenied", "OBJECT_ACCESS_DENIED", "the keys may not do this"},
        Failure{400, "InvalidToken", "OBJECT_ACCESS_DENIED", "renew AWS_SESSION_TOKEN"},
        Failure{301, "PermanentRedirect", "WRONG_REGION", "set AWS_REGION"},
        Failure{400, "AuthorizationHeaderMalformed", "WRONG_REGION", "the request was for r"},
        Failure{503, "SlowDown", "OBJECT_STORE_UNAVAILABLE", "HTTP 503 SlowDown"},
        Failure{400, "EntityTooLarge", "OBJECT_STORE_ERROR", "EntityTooLarge: words"}));

TEST_F(S3StoreTest, PassingTroubleIsTriedAgain) {
  const std::string list =
      "<ListBucketResult><Contents><Key>pre/k</Key><Size>1</Size></Contents>"
      "</ListBucketResult>";
  const auto store = Store(InOrder(
      {Broken(), ErrorAnswer(500, "InternalError"), HttpAnswer{.status = 200, .body = list}}));
  const auto objects = store->List("");
  ASSERT_TRUE(objects.ok()) << objects.status();
  EXPECT_EQ(objects->at(0).key, "k");
  EXPECT_EQ(pauses_.size(), 2);
}

TEST_F(S3StoreTest, PauseThatTheStoreAsksForIsKept) {
  HttpAnswer slow = ErrorAnswer(503, "SlowDown");
  slow.headers["retry-after"] = "7";
  ASSERT_TRUE(Store(InOrder({slow, HttpAnswer{.status = 204}}))->Remove("k").ok());
  EXPECT_THAT(pauses_, ElementsAre(absl::Seconds(7)));
}

TEST_F(S3StoreTest, ListThatNamesTheSamePageForeverEnds) {
  const auto store = Store(InOrder({HttpAnswer{
      .status = 200,
      .body = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t"
              "</NextContinuationToken></ListBucketResult>"}}));
  EXPECT_EQ(ErrorReason(store->List("").status()), "BAD_ANSWER");
}

TEST_F(S3StoreTest, KeyOfAnotherPlaceInAListIsAnError) {
  const auto store = Store(InOrder({HttpAnswer{
      .status = 200,
      .body =
          "<ListBucketResult><Contents><Key>elsewhere/k</Key></Contents></ListBucketResult>"}}));
  EXPECT_EQ(ErrorReason(store->List("").status()), "BAD_ANSWER");
}

TEST_F(S3StoreTest, TakenKeyIsAnErrorAndNothingIsTriedAgain) {
  const absl::Status status =
      Store(InOrder({ErrorAnswer(412, "PreconditionFailed")}))->Write("k", "x", IfExists::kFail);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ErrorReason(status), "OBJECT_EXISTS");
  EXPECT_EQ(transport_->seen.size(), 1);
}

// The first try's answer was lost after the store had taken it.
TEST_F(S3StoreTest, OwnWriteThatWasNotHeardOfIsNoForeignOne) {
  const auto store = Store([n = 0](const auto& request) mutable -> absl::StatusOr<HttpAnswer> {
    if (n++ == 0) return Broken();
    if (request.method == "PUT") return ErrorAnswer(412, "PreconditionFailed");
    if (request.method == "HEAD") {
      return HttpAnswer{.status = 200, .headers = {{"content-length", "1"}, {"etag", "\"e\""}}};
    }
    return HttpAnswer{.status = 206, .headers = {{"content-range", "bytes 0-0/1"}}, .body = "x"};
  });
  EXPECT_TRUE(store->Write("k", "x", IfExists::kFail).ok());
  EXPECT_EQ(ErrorReason(store->Write("k", "y", IfExists::kFail)), "OBJECT_EXISTS");
}

TEST_F(S3StoreTest, RangeContinuesWhereABrokenTryEnded) {
  const auto store = Store([n = 0](const auto& request) mutable -> absl::StatusOr<HttpAnswer> {
    if (n++ == 0) {
      EXPECT_EQ(request.Header("range"), "bytes=10-15");
      EXPECT_EQ(request.Header("if-match"), "\"e\"");
      return HttpAnswer{
          .status = 206, .headers = {{"content-range", "bytes 10-15/99"}}, .body = "ab"};
    }
    EXPECT_EQ(request.Header("range"), "bytes=12-15");
    return HttpAnswer{
        .status = 206, .headers = {{"content-range", "bytes 12-15/99"}}, .body = "cdef"};
  });
  EXPECT_EQ(store->Read("k", 10, 6, "e").value(), "abcdef");
}

TEST_F(S3StoreTest, AnswerOfOtherBytesThanAskedForIsRefused) {
  const auto reason = [&](HttpAnswer answer) {
    return ErrorReason(Store(InOrder({std::move(answer)}))->Read("k", 10, 2).status());
  };
  EXPECT_EQ(reason({.status = 200, .body = "whole"}), "BAD_ANSWER");
  EXPECT_EQ(reason({.status = 206, .headers = {{"content-range", "bytes 0-1/9"}}, .body = "ab"}),
            "BAD_ANSWER");
  EXPECT_EQ(
      reason({.status = 206, .headers = {{"content-range", "bytes 10-12/99"}}, .body = "abc"}),
      "BAD_ANSWER");
  EXPECT_EQ(reason(ErrorAnswer(412, "PreconditionFailed")), "OBJECT_CHANGED");
  EXPECT_EQ(reason(ErrorAnswer(416, "InvalidRange")), "RANGE_BEYOND_END");
}

TEST_F(S3StoreTest, KeysThatExpiredAreAskedForAnew) {
  const auto store = Store([](const auto& request) -> absl::StatusOr<HttpAnswer> {
    if (request.Header("x-amz-security-token") == "old") return ErrorAnswer(400, "ExpiredToken");
    return HttpAnswer{.status = 204};
  });
  EXPECT_TRUE(store->Remove("k").ok());
  EXPECT_EQ(keys_->forgotten, 1);
}

class S3TransferTest : public S3StoreTest {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-s3-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path File(std::size_t bytes) const {
    const fs::path file = directory_ / "source";
    EXPECT_TRUE(WriteFileAtomically(file, std::string(bytes, 'x')).ok());
    return file;
  }

  fs::path directory_;
};

TEST_F(S3TransferTest, FileOfOtherBytesThanSummedIsNotSent) {
  const auto store = Store(InOrder({HttpAnswer{.status = 200}}));
  const absl::Status status = store->Upload("k", File(3), std::string(64, '0'));
  EXPECT_EQ(ErrorReason(status), "OBJECT_CORRUPT");
  EXPECT_TRUE(transport_->seen.empty());
}

TEST_F(S3TransferTest, ObjectOfAnotherSizeAfterAnUploadIsCorrupt) {
  const auto store =
      Store(InOrder({HttpAnswer{.status = 200},
                     HttpAnswer{.status = 200, .headers = {{"content-length", "2"}}}}));
  const fs::path file = File(3);
  EXPECT_EQ(ErrorReason(store->Upload("k", file, FileSha256(file).value())), "OBJECT_CORRUPT");
}

TEST_F(S3TransferTest, ChecksumOfTheStoreIsComparedWithTheBytesThatCame) {
  // The checksum is that of "abc".
  const HttpAnswer good{
      .status = 200,
      .headers = {{"x-amz-checksum-sha256", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="}},
      .body = "abc"};
  HttpAnswer bad = good;
  bad.body = "abd";
  const ObjectInfo object{.key = "k", .bytes = 3, .etag = "e"};
  ASSERT_TRUE(Store(InOrder({bad, good}))->Download(object, directory_ / "f").ok());
  EXPECT_EQ(ReadFile(directory_ / "f").value(), "abc");
  const absl::Status status = Store(InOrder({bad}))->Download(object, directory_ / "g");
  EXPECT_EQ(ErrorReason(status), "OBJECT_CORRUPT");
  EXPECT_EQ(transport_->seen.size(), 3);
  EXPECT_FALSE(fs::exists(directory_ / "g"));
}

TEST_F(S3TransferTest, ChecksumIsKeptOverADownloadThatIsContinued) {
  const HttpAnswer whole{
      .status = 200,
      .headers = {{"x-amz-checksum-sha256", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0="}},
      .body = "abc"};
  HttpAnswer cut = whole;
  cut.body = "ab";
  const HttpAnswer other_rest{
      .status = 206, .headers = {{"content-range", "bytes 2-2/3"}}, .body = "d"};
  const ObjectInfo object{.key = "k", .bytes = 3, .etag = "e"};
  ASSERT_TRUE(Store(InOrder({cut, other_rest, whole}))->Download(object, directory_ / "f").ok());
  EXPECT_EQ(ReadFile(directory_ / "f").value(), "abc");
  EXPECT_EQ(transport_->seen.size(), 3);
}

}  // namespace
}  // namespace teq::objects
