#include "worker/engine/text/utf8.h"

namespace teq::text {
namespace {

bool IsContinuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

// What may follow a lead byte: the range of the second byte, and the whole length (0: no lead
// byte).
struct Lead {
  std::size_t size = 0;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
};

Lead LeadOf(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xC2) return {0};
  if (byte < 0xE0) return {2};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};  // above are surrogates
  if (byte < 0xF0) return {3};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte < 0xF4) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

// Bytes of `text` that begin a character, as far as they go; `complete` tells whether they are one.
std::size_t ValidPrefix(std::string_view text, bool& complete) {
  const Lead lead = LeadOf(static_cast<unsigned char>(text[0]));
  complete = false;
  if (lead.size == 0) return 0;
  std::size_t size = 1;
  while (size < lead.size && size < text.size()) {
    const auto byte = static_cast<unsigned char>(text[size]);
    const bool valid =
        size == 1 ? byte >= lead.low && byte <= lead.high : IsContinuation(text[size]);
    if (!valid) break;
    ++size;
  }
  complete = size == lead.size;
  return size;
}

}  // namespace

std::string RepairUtf8(std::string_view text) {
  std::string repaired;
  repaired.reserve(text.size());
  while (!text.empty()) {
    bool complete = false;
    const std::size_t size = ValidPrefix(text, complete);
    repaired += complete ? text.substr(0, size) : kReplacementCharacter;
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return repaired;
}

std::size_t FirstCharacterSize(std::string_view text) {
  if (text.empty()) return 0;
  std::size_t size = 1;
  while (size < text.size() && IsContinuation(text[size])) ++size;
  return size;
}

std::size_t LastCharacterSize(std::string_view text) {
  if (text.empty()) return 0;
  std::size_t size = 1;
  while (size < text.size() && IsContinuation(text[text.size() - size])) ++size;
  return size;
}

void AppendUtf8(std::uint32_t code_point, std::string& text) {
  const auto add = [&text](std::uint32_t byte) { text += static_cast<char>(byte); };
  if (code_point < 0x80) {
    add(code_point);
  } else if (code_point < 0x800) {
    add(0xC0 | code_point >> 6);
    add(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    add(0xE0 | code_point >> 12);
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  } else {
    add(0xF0 | code_point >> 18);
    add(0x80 | (code_point >> 12 & 0x3F));
    add(0x80 | (code_point >> 6 & 0x3F));
    add(0x80 | (code_point & 0x3F));
  }
}

}  // namespace teq::text
