#include "worker/engine/pipeline/disk_room.h"

#include <gmock/gmock.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <string>

#include "proto/spec/error.h"

namespace teq::pipeline {
namespace {

using testing::HasSubstr;

// More than any disk has.
constexpr std::int64_t kTooMuch = std::int64_t{1} << 60;

model_info::MemoryPlan Plan() {
  model_info::MemoryPlan plan;
  plan.stages = {{.stage = teq::v1::STAGE_FETCH},
                 {.stage = teq::v1::STAGE_TRANSFORM, .scratch = 1500, .least_scratch = 1000},
                 {.stage = teq::v1::STAGE_ROUND, .scratch = 900, .least_scratch = 700},
                 {.stage = teq::v1::STAGE_PACK, .scratch = 300, .least_scratch = 300},
                 {.stage = teq::v1::STAGE_VERIFY, .scratch = 300, .least_scratch = 300},
                 {.stage = teq::v1::STAGE_PUBLISH}};
  return plan;
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(DiskNeedTest, TheOutputComesWhenMostScratchFilesAreGone) {
  const DiskNeed small = DiskNeedOf(Plan(), 1, 400);
  EXPECT_EQ(small.scratch, 1000);
  EXPECT_EQ(small.output, 400);
  EXPECT_EQ(small.together, 1000);
  EXPECT_EQ(DiskNeedOf(Plan(), 1, 900).together, 1200);
}

TEST(DiskNeedTest, AShortTextIsAskedRoomForItsShareAlone) {
  const DiskNeed half = DiskNeedOf(Plan(), 0.5, 900);
  EXPECT_EQ(half.scratch, 500);
  EXPECT_EQ(half.together, 150 + 900);
}

TEST(DiskRoomTest, RoomToTheLastByteIsEnough) {
  EXPECT_TRUE(CheckRoom({.directory = "/data", .needed = 1000, .free = 1000}).ok());
  EXPECT_TRUE(CheckRoom({.directory = "/data", .needed = 0, .free = 0}).ok());
}

TEST(DiskRoomTest, AByteTooFewIsRefusedWithDirectoryNumbersAndRemedy) {
  const absl::Status status = CheckRoom({.directory = "/data",
                                         .needed = 1000,
                                         .free = 999,
                                         .purpose = "scratch files",
                                         .remedy = "free space there"});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(ErrorReason(status), "DISK_FULL");
  EXPECT_EQ(Message(status),
            "/data: at least 1000 bytes are needed there for scratch files, and 999 are free; free "
            "space there");
}

TEST(DiskRoomTest, WhereNobodyKnowsWhatIsFreeNothingIsAsked) {
  EXPECT_TRUE(CheckRoom({.directory = "/data", .needed = kTooMuch}).ok());
}

TEST(DiskRoomTest, ADirectoryThatIsNotThereYetHasWhatItsFileSystemHas) {
  struct statvfs told {};
  ASSERT_EQ(::statvfs(testing::TempDir().c_str(), &told), 0);
  const auto room = FreeBytes(testing::TempDir() + "teq-absent/deeper");
  ASSERT_TRUE(room.has_value());
  // Other programs write there meanwhile.
  constexpr double kMoved = 4e9;
  const auto block = static_cast<double>(told.f_frsize);
  EXPECT_GE(static_cast<double>(*room), block * static_cast<double>(told.f_bavail) - kMoved);
  EXPECT_LE(static_cast<double>(*room), block * static_cast<double>(told.f_bfree) + kMoved);
}

// The kernel's own file system has no blocks at all.
TEST(DiskRoomTest, AFileSystemWithoutASizeTellsNothing) {
  EXPECT_FALSE(FreeBytes("/proc/self").has_value());
}

TEST(DiskRoomTest, OnOneFileSystemBothAreAskedForTogether) {
  const std::string data = testing::TempDir() + "teq-data";
  const std::string staging = testing::TempDir() + "teq-output/1-1";
  EXPECT_TRUE(CheckDisks({.scratch = 1, .output = 1, .together = 2}, data, staging).ok());
  const absl::Status status =
      CheckDisks({.scratch = 1, .output = 1, .together = kTooMuch}, data, staging);
  EXPECT_EQ(ErrorReason(status), "DISK_FULL");
  EXPECT_THAT(Message(status), HasSubstr(data + ": at least 1152921504606846976 bytes"));
  EXPECT_THAT(Message(status), HasSubstr("for scratch files and the output"));
}

TEST(DiskRoomTest, OnTwoFileSystemsEachIsAskedForItsOwn) {
  const std::string here = testing::TempDir();
  const DiskNeed scratch{.scratch = kTooMuch, .output = 1, .together = kTooMuch};
  EXPECT_THAT(Message(CheckDisks(scratch, here, "/proc")), HasSubstr("for scratch files, and"));
  EXPECT_TRUE(CheckDisks(scratch, "/proc", here).ok());
  const DiskNeed output{.scratch = 1, .output = kTooMuch, .together = kTooMuch};
  EXPECT_THAT(Message(CheckDisks(output, "/proc", here)), HasSubstr("choose another output.uri"));
  EXPECT_TRUE(CheckDisks(output, here, "/proc").ok());
}

}  // namespace
}  // namespace teq::pipeline
