#include "proto/spec/error.h"
#include "server/queue/token.h"
#include "tests/unit/server/harness.h"

namespace teq::queue {
namespace {

using teq::testing::NewJob;
using teq::testing::Sha;
using teq::v1::Job;
using teq::v1::JobEvent;

class WatchTest : public teq::testing::QueueTest {
 protected:
  absl::StatusOr<WatchStart> Start(const std::string& name, const std::string& token) {
    teq::v1::WatchJobRequest request;
    request.set_name(name);
    request.set_resume_token(token);
    return queue_->StartWatch(request);
  }
};

TEST_F(WatchTest, SnapshotThenEveryLaterEventWithoutAGap) {
  const Job job = Create(NewJob("a"));
  auto start = Start(job.name(), "");
  ASSERT_TRUE(start->snapshot.has_value());
  EXPECT_EQ(start->snapshot->SerializeAsString(), job.SerializeAsString());
  EXPECT_TRUE(queue_->ReadWatch(start->cursor, 10)->empty());

  const auto lease = Acquire(Register("w1"));
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());
  ASSERT_TRUE(Publish(lease, Sha('a')).ok());
  std::vector<JobEvent> events;
  for (int batch = 0; batch < 3; ++batch) {
    const auto read = queue_->ReadWatch(start->cursor, 1);
    ASSERT_EQ(read->size(), 1U);
    events.push_back(read->front());
  }
  EXPECT_TRUE(queue_->ReadWatch(start->cursor, 1)->empty());
  EXPECT_EQ(start->cursor.state, Job::STATE_SUCCEEDED);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(events[static_cast<size_t>(i)].sequence(), i + 2);
}

TEST_F(WatchTest, TokenResumesAfterItsEventAlsoOnANewServer) {
  const Job job = Create(NewJob("a"));
  auto start = Start(job.name(), "");
  const auto lease = Acquire(Register("w1"));
  ASSERT_EQ(queue_->ReadWatch(start->cursor, 1)->size(), 1U);
  const std::string token = start->cursor.ResumeToken();
  ASSERT_TRUE(Succeed(lease, Sha('a')).ok());

  Open({});
  auto resumed = Start(job.name(), token);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  EXPECT_FALSE(resumed->snapshot.has_value());
  const auto events = queue_->ReadWatch(resumed->cursor, 10);
  ASSERT_EQ(events->size(), 1U);
  EXPECT_EQ(events->front().sequence(), 3);
  EXPECT_EQ(events->front().state_change().to(), Job::STATE_PUBLISHING);
}

TEST_F(WatchTest, FinishedJobIsOverAtOnce) {
  const Job job = Create(NewJob("a"));
  ASSERT_TRUE(Cancel(job.name()).ok());
  auto start = Start(job.name(), "");
  EXPECT_TRUE(queue_->ReadWatch(start->cursor, 10)->empty());
  EXPECT_EQ(start->cursor.state, Job::STATE_CANCELLED);
}

TEST_F(WatchTest, TokensOfOtherJobsAndRubbishAreRefused) {
  const Job job = Create(NewJob("a"));
  const Job other = Create(NewJob("b"));
  const std::string foreign = Start(other.name(), "")->cursor.ResumeToken();
  const std::string future = EncodeToken(job.uid() + ":99");
  std::string damaged = Start(job.name(), "")->cursor.ResumeToken();
  damaged[4] = damaged[4] == 'A' ? 'B' : 'A';
  for (const std::string& token : {foreign, future, damaged, std::string("?")}) {
    const absl::Status status = Start(job.name(), token).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << token;
    EXPECT_EQ(ErrorReason(status), "INVALID_RESUME_TOKEN");
  }
}

TEST_F(WatchTest, UnknownJobIsNotFound) {
  EXPECT_EQ(ErrorReason(Start("projects/p/jobs/none", "").status()), "JOB_NOT_FOUND");
}

}  // namespace
}  // namespace teq::queue
