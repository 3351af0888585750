#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace teq::cache {

/// What stands on the disk about one chunk of a cached file: the sha256 of its bytes, and a check
/// of the slot itself, over the file's key and the slot's number. A slot that was never written,
/// was written in part, or belongs to another file or number says nothing.
inline constexpr std::size_t kSlotBytes = 80;

/// `sha256` in hexadecimal.
[[nodiscard]] std::string EncodeSlot(std::string_view key, std::uint64_t number,
                                     std::string_view sha256);

/// The sha256 that a slot holds.
[[nodiscard]] std::optional<std::string> DecodeSlot(std::string_view key, std::uint64_t number,
                                                    std::string_view slot);

}  // namespace teq::cache
