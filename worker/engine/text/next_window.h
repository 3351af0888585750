#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace teq::text {

/// Appends the next window of a stream of tokens to `ids`: its first `length` tokens, or, where
/// they do not begin with `prefix`, that and as many as still fit. Returns how many it took from
/// the stream; 0, with nothing appended, where they are too few. `prefix` is shorter than `length`.
[[nodiscard]] std::size_t TakeWindow(std::span<const std::int32_t> stream,
                                     std::span<const std::int32_t> prefix, std::size_t length,
                                     std::vector<std::int32_t>& ids);

}  // namespace teq::text
