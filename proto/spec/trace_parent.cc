#include "proto/spec/trace_parent.h"

#include <algorithm>

#include "fmt/format.h"

namespace teq {
namespace {

// version-trace_id-parent_id-flags
constexpr std::size_t kTraceIdBegin = 3;
constexpr std::size_t kTraceIdSize = 32;
constexpr std::size_t kParentIdBegin = 36;
constexpr std::size_t kParentIdSize = 16;
constexpr std::size_t kFlagsBegin = 53;
constexpr std::size_t kSize = 55;

bool IsDigit(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); }

bool IsHex(std::string_view text) { return std::all_of(text.begin(), text.end(), IsDigit); }

bool IsId(std::string_view text) {
  return IsHex(text) && text.find_first_not_of('0') != std::string_view::npos;
}

// Whether the last of these digits is odd.
bool HasLowestBit(std::string_view digits) {
  return std::string_view("13579bdf").find(digits.back()) != std::string_view::npos;
}

std::string_view WithoutSpaceAround(std::string_view text) {
  constexpr std::string_view kSpace = " \t";
  const std::size_t begin = std::min(text.find_first_not_of(kSpace), text.size());
  text.remove_prefix(begin);
  return text.substr(0, text.find_last_not_of(kSpace) + 1);
}

bool HasFieldsOf(std::string_view version, std::string_view text) {
  if (!IsHex(version) || version == "ff") return false;
  if (text[2] != '-' || text[kParentIdBegin - 1] != '-' || text[kFlagsBegin - 1] != '-') {
    return false;
  }
  if (text.size() == kSize) return true;
  return version != "00" && text[kSize] == '-';
}

}  // namespace

std::string TraceParent::ToString() const {
  return fmt::format("00-{}-{}-{:02x}", trace_id, parent_id, sampled ? 1 : 0);
}

std::optional<TraceParent> ParseTraceParent(std::string_view text) {
  text = WithoutSpaceAround(text);
  if (text.size() < kSize || !HasFieldsOf(text.substr(0, 2), text)) return std::nullopt;
  const std::string_view trace_id = text.substr(kTraceIdBegin, kTraceIdSize);
  const std::string_view parent_id = text.substr(kParentIdBegin, kParentIdSize);
  const std::string_view flags = text.substr(kFlagsBegin, 2);
  if (!IsId(trace_id) || !IsId(parent_id) || !IsHex(flags)) return std::nullopt;
  return TraceParent{.trace_id = std::string(trace_id),
                     .parent_id = std::string(parent_id),
                     .sampled = HasLowestBit(flags)};
}

TraceParent NewTraceParent(const std::function<std::uint64_t()>& random) {
  // An id of zeros only is no id.
  const auto id = [&random] {
    return fmt::format("{:016x}", std::max<std::uint64_t>(random(), 1));
  };
  TraceParent trace;
  trace.trace_id = id();
  trace.trace_id += id();
  trace.parent_id = id();
  return trace;
}

}  // namespace teq
