#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace teq::text {

/// A number below `bound`, each as likely, the same everywhere for the same state of `random`: what
/// std::uniform_int_distribution gives is each library's own choice. `bound` is positive.
[[nodiscard]] std::uint64_t DrawBelow(std::uint64_t bound, std::mt19937_64& random);

/// `samples` of the numbers below `count`, ascending; all where there are no more. Memory grows
/// with `samples`.
[[nodiscard]] std::vector<std::int64_t> ChooseBelow(std::int64_t count, std::int64_t samples,
                                                    std::int64_t seed);

}  // namespace teq::text
