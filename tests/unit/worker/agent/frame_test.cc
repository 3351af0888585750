#include "worker/agent/frame.h"

#include <string>

#include "gtest/gtest.h"
#include "proto/spec/error.h"
#include "teq/v1/engine.pb.h"

namespace teq::agent {
namespace {

// uint32 little endian, then the message: field 2 of EngineCommand, of length 0.
TEST(FrameTest, FrameIsLengthLittleEndianAndMessage) {
  v1::EngineCommand command;
  command.mutable_cancel();
  EXPECT_EQ(EncodeFrame(command).value(), std::string("\x02\0\0\0\x12\0", 6));
}

TEST(FrameTest, MessagesComeOutWholeHoweverTheirBytesArrive) {
  v1::StartRun start;
  start.set_job(std::string(300, 'j'));
  const std::string stream = EncodeFrame(start).value() + EncodeFrame(start).value();
  FrameReader reader;
  int count = 0;
  for (const char byte : stream) {
    reader.Feed(std::string(1, byte));
    const auto message = reader.Next();
    ASSERT_TRUE(message.ok());
    if (!*message) continue;
    v1::StartRun read;
    ASSERT_TRUE(read.ParseFromString(**message));
    EXPECT_EQ(read.job(), start.job());
    ++count;
  }
  EXPECT_EQ(count, 2);
}

TEST(FrameTest, EmptyMessageIsAMessage) {
  FrameReader reader;
  reader.Feed(EncodeFrame(v1::EngineEvent()).value());
  EXPECT_EQ(reader.Next().value(), std::string());
}

TEST(FrameTest, LengthBeyondTheLimitBreaksTheStream) {
  FrameReader reader;
  reader.Feed(std::string("\x01\0\0\x04", 4));  // 64 MiB + 1
  EXPECT_EQ(ErrorReason(reader.Next().status()), "FRAME_TOO_LARGE");
}

TEST(FrameTest, MessageBeyondTheLimitIsNotSent) {
  v1::StartRun start;
  start.set_job(std::string(kMaxFrameBytes, 'j'));
  const absl::Status status = EncodeFrame(start).status();
  EXPECT_EQ(ErrorReason(status), "FRAME_TOO_LARGE");
  EXPECT_NE(std::string(status.message()).find("StartRun"), std::string::npos);
}

}  // namespace
}  // namespace teq::agent
