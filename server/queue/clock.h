#pragma once

#include <cstdint>
#include <random>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace teq::queue {

/// Says what time it is. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual absl::Time Now() const = 0;
};

/// The machine's clock.
class SystemClock final : public Clock {
 public:
  [[nodiscard]] absl::Time Now() const override { return absl::Now(); }
};

/// Numbers that nobody can guess. Not thread-safe.
class Random {
 public:
  virtual ~Random() = default;
  /// 64 uniform bits.
  [[nodiscard]] virtual uint64_t Next() = 0;
};

/// The machine's source of randomness.
class SystemRandom final : public Random {
 public:
  [[nodiscard]] uint64_t Next() override {
    return (static_cast<uint64_t>(device_()) << 32U) | device_();
  }

 private:
  std::random_device device_;
};

}  // namespace teq::queue
