#include "client/objects/retry.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace teq::objects {
namespace {

using ::testing::ElementsAre;

struct World {
  std::vector<absl::Duration> pauses;
  double random = 0.5;

  RetryWorld Get() {
    return {.now = [] { return absl::UnixEpoch(); },
            .sleep = [this](absl::Duration pause) { pauses.push_back(pause); },
            .random = [this] { return random; }};
  }
};

constexpr RetryPolicy kPolicy{.attempts = 4,
                              .first_bound = absl::Seconds(1),
                              .last_bound = absl::Seconds(3),
                              .longest_asked = absl::Seconds(10)};
const absl::Status kBusy = absl::UnavailableError("busy");

TEST(RetryTest, SuccessEndsTheTries) {
  World world;
  int tries = 0;
  EXPECT_TRUE(Retry(kPolicy, world.Get(), [&](int) -> Attempt {
                return ++tries < 3 ? Attempt{.status = kBusy, .again = true} : Attempt{};
              }).ok());
  EXPECT_EQ(tries, 3);
  EXPECT_THAT(world.pauses, ElementsAre(absl::Milliseconds(500), absl::Seconds(1)));
}

TEST(RetryTest, TriesAreBoundedAndCounted) {
  World world;
  std::vector<int> numbers;
  EXPECT_EQ(Retry(kPolicy, world.Get(),
                  [&](int number) -> Attempt {
                    numbers.push_back(number);
                    return {.status = kBusy, .again = true};
                  }),
            kBusy);
  EXPECT_THAT(numbers, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(world.pauses.size(), 3);
}

TEST(RetryTest, WhatCannotSucceedIsTriedOnce) {
  World world;
  int tries = 0;
  EXPECT_FALSE(Retry(kPolicy, world.Get(), [&](int) -> Attempt {
                 ++tries;
                 return {.status = absl::NotFoundError("none")};
               }).ok());
  EXPECT_EQ(tries, 1);
  EXPECT_TRUE(world.pauses.empty());
}

TEST(RetryTest, PausesAreDrawnFromZeroToABoundThatDoublesToItsEnd) {
  EXPECT_EQ(RetryPause(kPolicy, 1, 0, {}), absl::ZeroDuration());
  EXPECT_EQ(RetryPause(kPolicy, 1, 0.9, {}), absl::Milliseconds(900));
  EXPECT_EQ(RetryPause(kPolicy, 2, 0.5, {}), absl::Seconds(1));
  EXPECT_EQ(RetryPause(kPolicy, 3, 0.5, {}), absl::Milliseconds(1500));
  EXPECT_EQ(RetryPause(kPolicy, 1000, 0.5, {}), absl::Milliseconds(1500));
}

TEST(RetryTest, ServerThatAsksForAPauseGetsItUpToABound) {
  EXPECT_EQ(RetryPause(kPolicy, 1, 0.5, absl::Seconds(7)), absl::Milliseconds(7500));
  EXPECT_EQ(RetryPause(kPolicy, 1, 0, absl::Hours(9)), absl::Seconds(10));
}

TEST(RetryTest, RetryAfterIsSecondsOrADate) {
  // RFC 9110, 10.2.3.
  EXPECT_EQ(ParseRetryAfter("120", absl::UnixEpoch()), absl::Seconds(120));
  const absl::Time now =
      absl::FromCivil(absl::CivilSecond(1999, 12, 31, 23, 59, 49), absl::UTCTimeZone());
  EXPECT_EQ(ParseRetryAfter("Fri, 31 Dec 1999 23:59:59 GMT", now), absl::Seconds(10));
  EXPECT_EQ(ParseRetryAfter("Fri, 31 Dec 1999 23:59:00 GMT", now), absl::ZeroDuration());
  for (const char* bad : {"", "soon", "-1", "1.5"}) {
    EXPECT_EQ(ParseRetryAfter(bad, now), std::nullopt) << bad;
  }
}

}  // namespace
}  // namespace teq::objects
