#include "server/queue/transitions.h"

#include <set>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/store/job_store.h"

namespace teq::queue {
namespace {

using teq::v1::Job;
using ::testing::UnorderedElementsAre;

constexpr Cause kAllCauses[] = {Cause::kCreated,   Cause::kLeased,        Cause::kCommitted,
                                Cause::kPublished, Cause::kAttemptFailed, Cause::kFailedForGood,
                                Cause::kReleased,  Cause::kBackoffOver,   Cause::kCancelRequested,
                                Cause::kStopped,   Cause::kQueueTimeOver, Cause::kRetryRequested};

TEST(TransitionsTest, SucceededNeverChanges) {
  for (const Cause cause : kAllCauses) {
    EXPECT_FALSE(NextState(Job::STATE_SUCCEEDED, cause)) << Describe(cause);
  }
}

TEST(TransitionsTest, OtherFinishedStatesLeaveOnlyByRetry) {
  for (const auto state : {Job::STATE_FAILED, Job::STATE_CANCELLED, Job::STATE_EXPIRED}) {
    for (const Cause cause : kAllCauses) {
      const auto next = NextState(state, cause);
      if (cause == Cause::kRetryRequested) {
        EXPECT_EQ(next, Job::STATE_QUEUED);
      } else {
        EXPECT_FALSE(next) << Describe(cause);
      }
    }
  }
}

TEST(TransitionsTest, PublishingEndsOnlyAsSucceededOrFailed) {
  std::set<Job::State> targets;
  for (const Transition& transition : Transitions()) {
    if (transition.from == Job::STATE_PUBLISHING) targets.insert(transition.to);
  }
  EXPECT_THAT(targets,
              UnorderedElementsAre(Job::STATE_PUBLISHING, Job::STATE_SUCCEEDED, Job::STATE_FAILED));
  EXPECT_FALSE(NextState(Job::STATE_PUBLISHING, Cause::kCancelRequested));
}

TEST(TransitionsTest, OnlyPublicationSucceeds) {
  for (const Transition& transition : Transitions()) {
    if (transition.to != Job::STATE_SUCCEEDED) continue;
    EXPECT_EQ(transition.from, Job::STATE_PUBLISHING);
    EXPECT_EQ(transition.cause, Cause::kPublished);
  }
}

TEST(TransitionsTest, EveryStateAndCauseHasAtMostOneRow) {
  std::set<std::pair<Job::State, Cause>> seen;
  for (const Transition& transition : Transitions()) {
    EXPECT_TRUE(seen.emplace(transition.from, transition.cause).second);
  }
}

TEST(TransitionsTest, EveryUnfinishedStateCanReachAnEnd) {
  std::set<Job::State> ending = {Job::STATE_SUCCEEDED, Job::STATE_FAILED, Job::STATE_CANCELLED,
                                 Job::STATE_EXPIRED};
  for (size_t round = 0; round < Transitions().size(); ++round) {
    for (const Transition& transition : Transitions()) {
      if (ending.contains(transition.to)) ending.insert(transition.from);
    }
  }
  for (int state = Job::STATE_QUEUED; state <= Job::State_MAX; ++state) {
    EXPECT_TRUE(ending.contains(static_cast<Job::State>(state))) << state;
  }
}

}  // namespace
}  // namespace teq::queue
