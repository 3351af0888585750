#include "worker/agent/frame.h"

#include <cstddef>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::agent {
namespace {

constexpr std::size_t kLengthBytes = 4;

}  // namespace

absl::StatusOr<std::string> EncodeFrame(const google::protobuf::MessageLite& message) {
  const std::size_t size = message.ByteSizeLong();
  if (size > kMaxFrameBytes) {
    return Error(absl::StatusCode::kResourceExhausted, "FRAME_TOO_LARGE",
                 fmt::format("{}: {} bytes, at most {} can be sent to or from the engine",
                             message.GetTypeName(), size, kMaxFrameBytes));
  }
  std::string frame;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    frame += static_cast<char>((size >> (8 * i)) & 0xFFU);
  }
  message.AppendToString(&frame);
  return frame;
}

absl::StatusOr<std::optional<std::string>> FrameReader::Next() {
  if (buffer_.size() < kLengthBytes) return std::nullopt;
  std::uint32_t size = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    size |= static_cast<std::uint32_t>(static_cast<unsigned char>(buffer_[i])) << (8 * i);
  }
  if (size > kMaxFrameBytes) {
    return Error(absl::StatusCode::kDataLoss, "FRAME_TOO_LARGE",
                 fmt::format("a message of {} bytes was announced, at most {} are sent", size,
                             kMaxFrameBytes));
  }
  if (buffer_.size() - kLengthBytes < size) return std::nullopt;
  std::optional<std::string> message = buffer_.substr(kLengthBytes, size);
  buffer_.erase(0, kLengthBytes + size);
  return message;
}

}  // namespace teq::agent
