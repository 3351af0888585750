#include "server/queue/token.h"

#include <boost/crc.hpp>

#include "absl/strings/escaping.h"
#include "fmt/format.h"

namespace teq::queue {
namespace {

constexpr size_t kChecksumSize = 8;  // hexadecimal digits

std::string Checksum(std::string_view payload) {
  boost::crc_32_type crc;
  crc.process_bytes(payload.data(), payload.size());
  return fmt::format("{:08x}", crc.checksum());
}

}  // namespace

std::string EncodeToken(std::string_view payload) {
  return absl::WebSafeBase64Escape(fmt::format("{}{}", Checksum(payload), payload));
}

std::optional<std::string> DecodeToken(std::string_view token) {
  std::string content;
  if (!absl::WebSafeBase64Unescape({token.data(), token.size()}, &content)) return std::nullopt;
  if (content.size() < kChecksumSize) return std::nullopt;
  std::string payload = content.substr(kChecksumSize);
  if (content.substr(0, kChecksumSize) != Checksum(payload)) return std::nullopt;
  return payload;
}

}  // namespace teq::queue
