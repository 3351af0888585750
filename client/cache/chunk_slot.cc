#include "client/cache/chunk_slot.h"

#include "client/objects/file.h"
#include "fmt/format.h"

namespace teq::cache {
namespace {

constexpr std::size_t kDigestBytes = 64;

std::string Check(std::string_view key, std::uint64_t number, std::string_view sha256) {
  return objects::Sha256(fmt::format("{} {} {}", key, number, sha256))
      .substr(0, kSlotBytes - kDigestBytes);
}

}  // namespace

std::string EncodeSlot(std::string_view key, std::uint64_t number, std::string_view sha256) {
  return fmt::format("{}{}", sha256, Check(key, number, sha256));
}

std::optional<std::string> DecodeSlot(std::string_view key, std::uint64_t number,
                                      std::string_view slot) {
  if (slot.size() != kSlotBytes) return std::nullopt;
  const std::string_view sha256 = slot.substr(0, kDigestBytes);
  if (slot.substr(kDigestBytes) != Check(key, number, sha256)) return std::nullopt;
  return std::string(sha256);
}

}  // namespace teq::cache
