#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "client/cache/cache.h"
#include "client/cache/cached_file.h"
#include "gtest/gtest.h"
#include "tests/unit/client/cache/fake_store.h"

namespace teq::cache {

/// A cache in a directory of its own, a clock that the test moves, and a store.
class CacheTestBase : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kChunk = 16;

  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "teq-cache-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  Options OptionsOf(std::uint64_t bytes) {
    return {.directory = root_ / "cache", .bytes = bytes, .chunk_bytes = kChunk, .now = [this] {
              return now_;
            }};
  }
  void Tick() { now_ += std::chrono::seconds(1); }

  static absl::Status Go() { return absl::OkStatus(); }
  static absl::Status GoOn(std::uint64_t /*done*/, std::uint64_t /*total*/) {
    return absl::OkStatus();
  }

  Source Put(const std::string& key, std::string content) {
    return {store_, store_->Put(key, std::move(content))};
  }

  static absl::Status FetchAll(CachedFile& file) {
    for (std::uint64_t chunk = 0; chunk < file.chunk_count(); ++chunk) {
      TEQ_RETURN_IF_ERROR(file.FetchChunk(chunk, Go));
    }
    return absl::OkStatus();
  }

  static std::string ContentOf(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }

  /// Bytes written over a file's from `offset`.
  static void Overwrite(const std::filesystem::path& file, std::uint64_t offset,
                        const std::string& bytes) {
    std::fstream stream(file, std::ios::binary | std::ios::in | std::ios::out);
    stream.seekp(static_cast<std::streamoff>(offset));
    stream << bytes;
  }

  /// Runs `body` in a process of its own, which then exits with its result.
  static pid_t Fork(const std::function<bool()>& body) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(body() ? 0 : 1);
    return child;
  }
  static bool Succeeds(pid_t child) {
    int status = 0;
    return ::waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  std::filesystem::path root_;
  std::chrono::system_clock::time_point now_{std::chrono::hours(24 * 365 * 40)};
  std::shared_ptr<FakeStore> store_ = std::make_shared<FakeStore>();
};

}  // namespace teq::cache
