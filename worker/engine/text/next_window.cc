#include "worker/engine/text/next_window.h"

#include <algorithm>

namespace teq::text {

std::size_t TakeWindow(std::span<const std::int32_t> stream, std::span<const std::int32_t> prefix,
                       std::size_t length, std::vector<std::int32_t>& ids) {
  if (std::ranges::mismatch(stream, prefix).in2 == prefix.end()) prefix = {};
  const std::size_t wanted = length - prefix.size();
  if (stream.size() < wanted) return 0;
  const auto taken = stream.first(wanted);
  ids.insert(ids.end(), prefix.begin(), prefix.end());
  ids.insert(ids.end(), taken.begin(), taken.end());
  return wanted;
}

}  // namespace teq::text
