#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "google/protobuf/message_lite.h"

namespace teq::agent {

/// The largest message that either side of the socket pair takes.
inline constexpr std::uint32_t kMaxFrameBytes = 64U << 20;

/// `message` preceded by its length: uint32, little endian.
/// RESOURCE_EXHAUSTED, FRAME_TOO_LARGE, names type and size.
[[nodiscard]] absl::StatusOr<std::string> EncodeFrame(const google::protobuf::MessageLite& message);

/// Cuts a stream of bytes into messages. Not thread-safe.
class FrameReader {
 public:
  void Feed(std::string_view bytes) { buffer_ += bytes; }

  /// The next whole message's bytes, if they are there. DATA_LOSS, FRAME_TOO_LARGE, for a length
  /// that no message has: the stream is broken.
  [[nodiscard]] absl::StatusOr<std::optional<std::string>> Next();

 private:
  std::string buffer_;
};

}  // namespace teq::agent
