#include "client/cli/download.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "client/objects/file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::cli {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kUrl = "https://store/model?X-Amz-Signature=secret";

// Answers each request with the next of `answers`.
class FakeTransport final : public objects::HttpTransport {
 public:
  struct Answer {
    int status = 200;
    std::string body;
    absl::Status broken;  // after the body
    std::string range;
  };
  std::vector<Answer> answers;
  std::size_t requests = 0;
  std::vector<std::string> ranges;  // that were asked for

  absl::StatusOr<objects::HttpAnswer> Send(const objects::HttpRequest& request) override {
    const Answer& answer = answers.at(requests++);
    if (request.url != kUrl) return absl::InternalError("another URL");
    ranges.push_back(request.headers.empty() ? "" : request.headers[0].second);
    objects::HttpAnswer http{.status = answer.status};
    if (answer.status == 206) http.headers["content-range"] = answer.range;
    if (answer.status < 300 && !request.sink(http, answer.body)) return absl::CancelledError("");
    if (!answer.broken.ok()) return answer.broken;
    return http;
  }
};

class DownloadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teqctl-download-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { fs::remove_all(directory_); }

  absl::Status Download(const objects::TransferProgress& progress = {}) {
    return DownloadUrl({transport_,
                        {.attempts = 3},
                        {.now = [] { return absl::UnixEpoch(); },
                         .sleep = [](absl::Duration) {},
                         .random = [] { return 0.5; }}},
                       kUrl, 7, directory_ / "model", progress);
  }

  FakeTransport transport_;
  fs::path directory_;
};

TEST_F(DownloadTest, WritesTheWholeFile) {
  transport_.answers = {{.body = "weights"}};
  ASSERT_TRUE(Download().ok());
  EXPECT_EQ(objects::ReadFile(directory_ / "model").value(), "weights");
}

TEST_F(DownloadTest, BrokenConnectionIsTakenUpWhereItBroke) {
  transport_.answers = {{.body = "wei", .broken = absl::UnavailableError("reset")},
                        {.status = 503},
                        {.status = 206, .body = "ghts", .range = "bytes 3-6/7"}};
  const absl::Status status = Download();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(objects::ReadFile(directory_ / "model").value(), "weights");
  EXPECT_THAT(transport_.ranges, ElementsAre("", "bytes=3-", "bytes=3-"));
}

TEST_F(DownloadTest, StoreWithoutRangesIsReadFromTheStartAgain) {
  transport_.answers = {{.body = "wei", .broken = absl::UnavailableError("reset")},
                        {.body = "weights"},
                        {.body = "weights"}};
  const absl::Status status = Download();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(objects::ReadFile(directory_ / "model").value(), "weights");
}

TEST_F(DownloadTest, ExpiredUrlIsNotTriedAgainAndNotTold) {
  transport_.answers = {{.status = 403}};
  const absl::Status status = Download();
  EXPECT_TRUE(absl::IsPermissionDenied(status));
  EXPECT_EQ(ErrorReason(status), "DOWNLOAD_REFUSED");
  EXPECT_THAT(std::string(status.message()), HasSubstr("403"));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret")));
  EXPECT_EQ(transport_.requests, 1);
}

TEST_F(DownloadTest, AnotherNumberOfBytesLeavesNoFile) {
  for (const char* body : {"wei", "weights and more"}) {
    transport_.requests = 0;
    transport_.answers = {{.body = body}};
    const absl::Status status = Download();
    EXPECT_TRUE(absl::IsDataLoss(status)) << body;
    EXPECT_EQ(ErrorReason(status), "DOWNLOAD_FAILED") << body;
    EXPECT_TRUE(fs::is_empty(directory_)) << body;
  }
}

TEST_F(DownloadTest, StopsWhenItIsToldTo) {
  transport_.answers = {{.body = "weights"}};
  EXPECT_TRUE(absl::IsCancelled(Download([](std::uint64_t, std::uint64_t) { return false; })));
  EXPECT_TRUE(fs::is_empty(directory_));
}

}  // namespace
}  // namespace teq::cli
