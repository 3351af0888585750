#include "worker/engine/text/seeded_choice.h"

#include <algorithm>
#include <numeric>
#include <unordered_map>

namespace teq::text {

std::uint64_t DrawBelow(std::uint64_t bound, std::mt19937_64& random) {
  const std::uint64_t excess = (std::mt19937_64::max() % bound + 1) % bound;
  std::uint64_t draw = random();
  while (draw > std::mt19937_64::max() - excess) draw = random();
  return draw % bound;
}

std::vector<std::int64_t> ChooseBelow(std::int64_t count, std::int64_t samples, std::int64_t seed) {
  samples = std::clamp<std::int64_t>(samples, 0, count);
  std::vector<std::int64_t> chosen(static_cast<std::size_t>(samples));
  if (samples == count) {
    std::iota(chosen.begin(), chosen.end(), 0);
    return chosen;
  }
  // The beginning of a Fisher-Yates shuffle of 0, 1, 2 and so on; only what moved is kept.
  std::unordered_map<std::int64_t, std::int64_t> moved;
  const auto at = [&moved](std::int64_t place) {
    const auto found = moved.find(place);
    return found == moved.end() ? place : found->second;
  };
  std::mt19937_64 random(static_cast<std::uint64_t>(seed));
  for (std::int64_t i = 0; i < samples; ++i) {
    const auto other =
        i + static_cast<std::int64_t>(DrawBelow(static_cast<std::uint64_t>(count - i), random));
    chosen[static_cast<std::size_t>(i)] = at(other);
    moved[other] = at(i);
  }
  std::ranges::sort(chosen);
  return chosen;
}

}  // namespace teq::text
