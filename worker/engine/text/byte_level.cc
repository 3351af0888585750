#include "worker/engine/text/byte_level.h"

#include <array>
#include <cstdint>

#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

constexpr bool StandsForItself(unsigned byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// The others get the characters from U+0100 on, in order.
constexpr std::array<std::uint32_t, 256> MakeAlphabet() {
  std::array<std::uint32_t, 256> alphabet{};
  std::uint32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    alphabet[byte] = StandsForItself(byte) ? byte : next++;
  }
  return alphabet;
}

constexpr std::array<std::uint32_t, 256> kAlphabet = MakeAlphabet();

}  // namespace

std::string BytesToCharacters(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const char byte : bytes) AppendUtf8(kAlphabet[static_cast<unsigned char>(byte)], text);
  return text;
}

}  // namespace teq::text
