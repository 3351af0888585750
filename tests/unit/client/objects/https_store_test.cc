#include "client/objects/https_store.h"

#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "fmt/format.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "tests/unit/client/objects/fake_transport.h"

namespace teq::objects {
namespace {

namespace fs = std::filesystem;

/// A server with one file, "weights", and weak ETags only.
class HttpsStoreTest : public ::testing::Test {
 protected:
  HttpAnswer Answer(const FakeTransport::Seen& request) const {
    HttpAnswer answer{.status = 200, .headers = {{"etag", "W/\"weak\""}}};
    if (!last_modified_.empty()) answer.headers["last-modified"] = last_modified_;
    const std::string range = request.Header("Range");  // "bytes=0-9"
    if (range.empty()) {
      answer.headers["content-length"] = fmt::format("{}", content_.size());
      if (request.method == "GET") answer.body = content_;
      return answer;
    }
    const std::size_t first = std::stoul(range.substr(range.find('=') + 1));
    const std::size_t last = std::stoul(range.substr(range.find('-') + 1));
    answer.status = 206;
    answer.headers["content-range"] = fmt::format("bytes {}-{}/{}", first, last, content_.size());
    answer.body = content_.substr(first, last - first + 1);
    return answer;
  }

  std::string ReasonOfRead(std::uint64_t offset, std::uint64_t length) const {
    return ErrorReason(store_->Read("weights", offset, length).status());
  }

  std::string content_ = "0123456789";
  std::string last_modified_ = "Thu, 01 Jan 2026 00:00:00 GMT";
  std::shared_ptr<ObjectStore> store_ =
      OpenHttpsStore({.base_url = "https://host/model/",
                      .uri = "https://host/model",
                      .transport = std::make_shared<FakeTransport>(
                          [this](const FakeTransport::Seen& request) { return Answer(request); })});
};

TEST_F(HttpsStoreTest, FileWithoutAStrongEtagIsReadByRangesWhileItStays) {
  for (const char* last_modified : {"Thu, 01 Jan 2026 00:00:00 GMT", ""}) {
    last_modified_ = last_modified;
    const auto object = store_->Head("weights");
    ASSERT_TRUE(object.ok()) << object.status();
    EXPECT_EQ(object->bytes, 10);
    EXPECT_EQ(object->etag, "");
    EXPECT_EQ(store_->Read("weights", 0, 5).value(), "01234");
    EXPECT_EQ(store_->Read("weights", 5, 5).value(), "56789");
  }
}

TEST_F(HttpsStoreTest, RangesOfAnotherSizesFileAreNotMixed) {
  last_modified_.clear();
  ASSERT_TRUE(store_->Head("weights").ok());
  ASSERT_EQ(ReasonOfRead(0, 5), "OK");
  content_ = "abcdefghijk";
  EXPECT_EQ(ReasonOfRead(5, 5), "OBJECT_CHANGED");
}

TEST_F(HttpsStoreTest, RangesOfAnotherDatesFileAreNotMixed) {
  ASSERT_TRUE(store_->Head("weights").ok());
  ASSERT_EQ(ReasonOfRead(0, 5), "OK");
  content_ = "abcdefghij";
  last_modified_ = "Thu, 01 Jan 2026 00:00:01 GMT";
  EXPECT_EQ(ReasonOfRead(5, 5), "OBJECT_CHANGED");
  last_modified_.clear();
  EXPECT_EQ(ReasonOfRead(5, 5), "OBJECT_CHANGED");
}

TEST_F(HttpsStoreTest, WhoStartsAgainReadsTheNewFile) {
  ASSERT_TRUE(store_->Head("weights").ok());
  content_ = "abcdefghijk";
  last_modified_ = "Thu, 01 Jan 2026 00:00:01 GMT";
  ASSERT_EQ(ReasonOfRead(5, 5), "OBJECT_CHANGED");
  ASSERT_TRUE(store_->Head("weights").ok());
  EXPECT_EQ(store_->Read("weights", 0, 5).value(), "abcde");
}

TEST_F(HttpsStoreTest, DownloadOfAnotherDatesFileIsRefused) {
  const fs::path file = fs::path(::testing::TempDir()) / fmt::format("https-store-{}", ::getpid());
  const auto object = store_->Head("weights");
  ASSERT_TRUE(object.ok()) << object.status();
  last_modified_ = "Thu, 01 Jan 2026 00:00:01 GMT";
  EXPECT_EQ(ErrorReason(store_->Download(*object, file, {})), "OBJECT_CHANGED");
  EXPECT_FALSE(fs::exists(file));
}

}  // namespace
}  // namespace teq::objects
