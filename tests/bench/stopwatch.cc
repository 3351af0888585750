#include "tests/bench/stopwatch.h"

#include <algorithm>
#include <ctime>

namespace teq::bench {
namespace {

double Seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double MedianOf(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

}  // namespace

Stopwatch::Stopwatch() : begin_{Seconds(CLOCK_MONOTONIC), Seconds(CLOCK_PROCESS_CPUTIME_ID)} {}

Duration Stopwatch::Elapsed() const {
  return {Seconds(CLOCK_MONOTONIC) - begin_.wall, Seconds(CLOCK_PROCESS_CPUTIME_ID) - begin_.cpu};
}

Duration Median(const std::vector<Duration>& durations) {
  std::vector<double> wall;
  std::vector<double> cpu;
  for (const Duration& duration : durations) {
    wall.push_back(duration.wall);
    cpu.push_back(duration.cpu);
  }
  return {MedianOf(std::move(wall)), MedianOf(std::move(cpu))};
}

}  // namespace teq::bench
