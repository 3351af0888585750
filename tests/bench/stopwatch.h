#pragma once

#include <vector>

namespace teq::bench {

/// What something took: by the clock on the wall, and by all threads of this process together.
struct Duration {
  double wall = 0;  // seconds
  double cpu = 0;
};

/// Measures from its construction.
class Stopwatch {
 public:
  Stopwatch();
  [[nodiscard]] Duration Elapsed() const;

 private:
  Duration begin_;
};

/// The medians, each of its own.
[[nodiscard]] Duration Median(const std::vector<Duration>& durations);

}  // namespace teq::bench
