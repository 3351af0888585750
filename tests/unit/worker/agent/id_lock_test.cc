#include "worker/agent/id_lock.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proto/spec/error.h"

namespace teq::agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

TEST(IdLockTest, OneWorkerOfAServerHasAnIdUntilItEnds) {
  std::string pattern = fs::temp_directory_path() / "teq-id-XXXXXX";
  ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
  const fs::path data = fs::path(pattern) / "data";
  auto first = LockId(data, "127.0.0.1:1", "w");
  ASSERT_TRUE(first.ok()) << first.status();
  const absl::Status second = LockId(data, "127.0.0.1:1", "w").status();
  EXPECT_EQ(ErrorReason(second), "WORKER_ID_IN_USE");
  EXPECT_THAT(std::string(second.message()), HasSubstr("'w'"));
  EXPECT_THAT(std::string(second.message()), HasSubstr("--id"));
  EXPECT_TRUE(LockId(data, "127.0.0.1:1", "v").ok());
  EXPECT_TRUE(LockId(data, "127.0.0.1:2", "w").ok());
  { const cache::FileLock ended = *std::move(first); }
  EXPECT_TRUE(LockId(data, "127.0.0.1:1", "w").ok());
  fs::remove_all(pattern);
}

}  // namespace
}  // namespace teq::agent
