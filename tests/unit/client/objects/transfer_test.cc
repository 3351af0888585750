#include "client/objects/transfer.h"

#include <atomic>
#include <filesystem>
#include <string>
#include <vector>

#include "client/objects/file.h"
#include "client/objects/multipart.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

TEST(PartsTest, PartsCoverTheObjectAndTheLastHasTheRest) {
  EXPECT_THAT(PlanParts(10, 4), ElementsAre(Part{0, 4}, Part{4, 4}, Part{8, 2}));
  EXPECT_THAT(PlanParts(8, 4), ElementsAre(Part{0, 4}, Part{4, 4}));
  EXPECT_THAT(PlanParts(0, 4), ElementsAre(Part{0, 0}));
}

// S3: 5 MiB to 5 GiB a part, at most 10,000 parts, objects of up to 5 TiB.
TEST(PartsTest, PartsKeepTheLimitsOfS3UpToItsLargestObject) {
  EXPECT_EQ(PartBytesOf(1), 16 * kMiB);
  EXPECT_EQ(PartBytesOf(160'000 * kMiB), 16 * kMiB);
  EXPECT_EQ(PartBytesOf(160'000 * kMiB + 1), 17 * kMiB);
  for (const std::uint64_t bytes : {kMiB, 160'000 * kMiB + 1, std::uint64_t{5} << 40}) {
    const std::uint64_t part = PartBytesOf(bytes);
    EXPECT_LE(PlanParts(bytes, part).size(), 10'000) << bytes;
    EXPECT_GE(part, 5 * kMiB);
    EXPECT_LE(part, 5 * 1024 * kMiB);
  }
}

TEST(TransferTest, FirstErrorStopsTheOthersAndIsTheOneReturned) {
  const TransferProgress none;
  Transfer transfer(1, none);
  std::atomic<int> bodies = 0;
  const absl::Status status = RunInThreads(4, transfer, [&]() -> absl::Status {
    if (bodies++ == 0) return absl::DataLossError("first");
    while (transfer.GoOn()) {
    }
    return absl::CancelledError("stopped");
  });
  EXPECT_EQ(status, absl::DataLossError("first"));
  EXPECT_EQ(bodies, 4);
}

class DownloadTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = fs::temp_directory_path() / "teq-download-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
    for (std::size_t i = 0; i < content_.size(); ++i) content_[i] = static_cast<char>(i * 31 >> 8);
  }
  void TearDown() override { fs::remove_all(directory_); }

  fs::path directory_;
  std::string content_ = std::string(33 * kMiB + 5, '\0');
};

TEST_F(DownloadTest, PartsMakeTheFileAndProgressNeverGoesBack) {
  std::vector<std::uint64_t> told;
  const TransferProgress progress = [&](std::uint64_t done, std::uint64_t total) {
    EXPECT_EQ(total, content_.size());
    told.push_back(done);
    return true;
  };
  const RangeFetcher fetch = [&](const Part& part, const RangeSink& sink, const auto&) {
    const std::string_view bytes = std::string_view(content_).substr(part.offset, part.length);
    sink(part.offset, bytes.substr(0, bytes.size() / 2));
    sink(part.offset, bytes);  // a try that began anew
    return absl::OkStatus();
  };
  ASSERT_TRUE(
      DownloadByParts({.key = "k", .bytes = content_.size()}, directory_ / "f", progress, fetch)
          .ok());
  EXPECT_EQ(ReadFile(directory_ / "f").value(), content_);
  EXPECT_TRUE(std::ranges::is_sorted(told));
  EXPECT_EQ(told.back(), content_.size());
}

TEST_F(DownloadTest, FailedPartLeavesNoFile) {
  const RangeFetcher fetch = [](const Part& part, const RangeSink&, const auto&) {
    return part.offset == 0 ? absl::OkStatus() : absl::UnavailableError("gone");
  };
  const absl::Status status =
      DownloadByParts({.key = "k", .bytes = 40 * kMiB}, directory_ / "f", {}, fetch);
  EXPECT_EQ(status, absl::UnavailableError("gone"));
  EXPECT_TRUE(fs::is_empty(directory_));
}

TEST_F(DownloadTest, DirectoryThatIsMissingIsNamed) {
  const absl::Status status = DownloadByParts({.key = "k"}, directory_ / "none/f", {}, {});
  EXPECT_EQ(ErrorReason(status), "WRITE_FAILED");
}

// (printf a | md5sum; printf b | md5sum), the digests' bytes together | md5sum.
TEST(ComposedEtagTest, IsTheMd5OfTheMd5sAndTheirNumber) {
  EXPECT_EQ(
      ComposedEtag({"\"0cc175b9c0f1b6a831c399e269772661\"", "92eb5ffee6ae2fec3ad71c777531578f"}),
      "96e024ba2074fe77e8e965ba43a704be-2");
  EXPECT_EQ(ComposedEtag({"\"opaque\""}), "");
}

}  // namespace
}  // namespace teq::objects
