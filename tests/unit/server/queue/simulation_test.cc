// One queue, several workers that crash, pause, lose answers, repeat and reorder their calls:
// whatever happens, the invariants of the design hold, and when the faults stop every job ends.
#include <deque>
#include <map>
#include <optional>
#include <set>

#include "proto/spec/error.h"
#include "tests/unit/server/harness.h"

namespace teq::queue {
namespace {

using teq::testing::NewJob;
using teq::v1::CompleteLeaseRequest;
using teq::v1::Job;
using teq::v1::Lease;

constexpr int kWorkers = 4;
constexpr int kJobs = 12;
constexpr int kFaultySteps = 800;
constexpr int kQuietSteps = 4000;

std::string ManifestOf(const Lease& lease) {
  return fmt::format("{:064x}", std::hash<std::string>()(lease.job_uid()) % 1'000'000'007 * 1000 +
                                    static_cast<size_t>(lease.fence()));
}

/// What a worker believes; it may be wrong.
struct SimulatedWorker {
  std::string id;
  int boot = 0;
  std::string session;
  std::optional<Lease> lease;
  std::string manifest;  // committed under the lease
  int work_left = 0;
  int64_t beat = 0;
  int paused = 0;  // steps
};

class SimulationTest : public teq::testing::QueueTest,
                       public ::testing::WithParamInterface<uint64_t> {
 protected:
  bool Chance(int percent) { return chaos_.Next() % 100 < static_cast<uint64_t>(percent); }

  void Boot(SimulatedWorker& worker) {
    worker.session = Register(worker.id, fmt::format("boot-{}", ++worker.boot));
    worker.lease.reset();
  }

  void Take(SimulatedWorker& worker, bool faults) {
    auto lease = queue_->AcquireLease(worker.session);
    if (!lease.ok()) {
      ExpectSessionEnded(lease.status());
      return Boot(worker);
    }
    if (!lease->has_value() || (faults && Chance(10))) return;  // the answer is lost
    worker.lease = **lease;
    worker.beat = 0;
    worker.work_left = static_cast<int>(chaos_.Next() % 20);
    worker.manifest =
        worker.lease->has_publish_only() ? worker.lease->publish_only().manifest_sha256() : "";
    int64_t& fence = newest_fence_[worker.lease->job_uid()];
    EXPECT_GE(worker.lease->fence(), fence);
    fence = worker.lease->fence();
  }

  static void ExpectSessionEnded(const absl::Status& status) {
    const std::string reason = ErrorReason(status);
    EXPECT_TRUE(reason == "SESSION_NOT_FOUND" || reason == "SESSION_SUPERSEDED") << status;
  }

  /// Sends a call, or loses its answer, or sends it twice, or keeps it for later.
  void Complete(const CompleteLeaseRequest& request, SimulatedWorker& worker, bool faults) {
    if (faults && Chance(10)) delayed_.push_back(request);
    auto job = queue_->CompleteLease(request);
    if (faults && Chance(10)) job = queue_->CompleteLease(request);
    if (faults && Chance(10)) return;  // the answer is lost; the worker will try again
    if (!job.ok()) {
      worker.lease.reset();
      return;
    }
    if (request.has_success()) {
      worker.manifest = request.success().manifest_sha256();
    } else {
      worker.lease.reset();
    }
  }

  void Work(SimulatedWorker& worker, bool faults) {
    if (worker.paused > 0) {
      --worker.paused;
      return;
    }
    if (faults && Chance(2)) return Boot(worker);  // crashed, started again
    if (faults && Chance(2)) worker.paused = static_cast<int>(chaos_.Next() % 80);
    if (!worker.lease) return Take(worker, faults);
    if (worker.work_left-- > 0) {
      const auto response = Beat(*worker.lease, ++worker.beat);
      if (!response.ok() || response->directive() == teq::v1::DIRECTIVE_ABANDON) {
        worker.lease.reset();
      } else if (response->directive() == teq::v1::DIRECTIVE_CANCEL) {
        CompleteLeaseRequest request = Completion(*worker.lease);
        request.mutable_cancelled();
        Complete(request, worker, faults);
      }
      return;
    }
    CompleteLeaseRequest request = Completion(*worker.lease);
    if (!worker.manifest.empty()) {
      request.mutable_published()->set_manifest_sha256(worker.manifest);
      published_[worker.lease->job_uid()].insert(worker.manifest);
    } else if (faults && Chance(15)) {
      request.mutable_failure()->set_failure_class(
          Chance(50) ? teq::v1::FAILURE_CLASS_TRANSIENT : teq::v1::FAILURE_CLASS_OUT_OF_MEMORY);
    } else if (faults && Chance(10)) {
      Release(*worker.lease, teq::v1::ReleaseLeaseRequest::REASON_DRAIN).IgnoreError();
      worker.lease.reset();
      return;
    } else {
      request.mutable_success()->set_manifest_sha256(ManifestOf(*worker.lease));
    }
    Complete(request, worker, faults);
  }

  void Step(bool faults) {
    clock_.Advance(absl::Milliseconds(500));
    ASSERT_TRUE(queue_->Reap().ok());
    for (SimulatedWorker& worker : workers_) Work(worker, faults);
    if (!delayed_.empty() && Chance(30)) {
      queue_->CompleteLease(delayed_.front()).IgnoreError();  // an old call arrives late
      delayed_.pop_front();
    }
    if (faults && Chance(1)) Cancel(names_[chaos_.Next() % names_.size()]).IgnoreError();
    if (faults && Chance(1)) Retry(names_[chaos_.Next() % names_.size()]).IgnoreError();
    if (faults && step_ % 200 == 199) Open({});
    ++step_;
    CheckJobs();
  }

  void CheckJobs() {
    for (const std::string& name : names_) {
      const Job job = Get(name);
      Job& last = last_[name];
      EXPECT_GE(job.fence(), last.fence());
      if (last.state() == Job::STATE_SUCCEEDED) {
        EXPECT_EQ(job.SerializeAsString(), last.SerializeAsString()) << "SUCCEEDED never changes";
      }
      last = job;
    }
  }

  bool AllFinished() {
    for (const auto& [name, job] : last_) {
      if (!store::IsFinished(job.state())) return false;
    }
    return true;
  }

  /// The events alone tell the whole story, without a gap and by the table.
  void CheckEvents(const std::string& name) {
    const auto record = store_->Get(*ParseJobName(name));
    const auto events = store_->ReadEvents((*record)->key, 0, 1'000'000);
    Job::State state = Job::STATE_UNSPECIFIED;
    int64_t sequence = 0;
    for (const auto& event : *events) {
      ASSERT_EQ(event.sequence(), ++sequence);
      if (!event.has_state_change()) continue;
      EXPECT_EQ(event.state_change().from(), state);
      state = event.state_change().to();
    }
    EXPECT_EQ((*record)->last_sequence, sequence);
    EXPECT_EQ((*record)->job.state(), state);
  }

  teq::testing::SeededRandom chaos_{GetParam()};
  std::vector<SimulatedWorker> workers_;
  std::vector<std::string> names_;
  std::map<std::string, Job> last_;
  std::map<std::string, int64_t> newest_fence_;
  std::map<std::string, std::set<std::string>> published_;  // root manifests written, by uid
  std::deque<CompleteLeaseRequest> delayed_;
  int step_ = 0;
};

TEST_P(SimulationTest, InvariantsHoldAndEveryJobEndsWhenFaultsStop) {
  for (int i = 0; i < kJobs; ++i) {
    names_.push_back(Create(NewJob(fmt::format("{}", i), i % 2 == 0 ? "p" : "q")).name());
  }
  for (int i = 0; i < kWorkers; ++i) {
    workers_.push_back({.id = fmt::format("w{}", i)});
    Boot(workers_.back());
  }
  for (int i = 0; i < kFaultySteps; ++i) Step(/*faults=*/true);
  for (int i = 0; i < kQuietSteps && !AllFinished(); ++i) Step(/*faults=*/false);

  int succeeded = 0;
  for (const std::string& name : names_) {
    const Job& job = last_[name];
    EXPECT_TRUE(store::IsFinished(job.state())) << job.name() << " is " << job.state();
    CheckEvents(name);
    if (job.state() != Job::STATE_SUCCEEDED) continue;
    ++succeeded;
    EXPECT_EQ(published_[job.uid()].count(job.manifest_sha256()), 1U);
  }
  EXPECT_GT(succeeded, 0) << "a simulation in which nothing succeeds shows nothing";
}

TEST_P(SimulationTest, UnretriedJobsPublishOneManifestAtMost) {
  for (int i = 0; i < kJobs; ++i) {
    names_.push_back(Create(NewJob(fmt::format("{}", i))).name());
  }
  for (int i = 0; i < kWorkers; ++i) {
    workers_.push_back({.id = fmt::format("w{}", i)});
    Boot(workers_.back());
  }
  // Without RetryJob, which starts a new run with a manifest of its own.
  for (int i = 0; i < kFaultySteps / 2; ++i) {
    clock_.Advance(absl::Milliseconds(500));
    ASSERT_TRUE(queue_->Reap().ok());
    for (SimulatedWorker& worker : workers_) Work(worker, /*faults=*/true);
    if (!delayed_.empty() && Chance(30)) {
      queue_->CompleteLease(delayed_.front()).IgnoreError();
      delayed_.pop_front();
    }
  }
  for (const auto& [uid, manifests] : published_) EXPECT_EQ(manifests.size(), 1U) << uid;
  EXPECT_FALSE(published_.empty());
}

INSTANTIATE_TEST_SUITE_P(Seeds, SimulationTest, ::testing::Values(1, 2, 3, 4, 5));

}  // namespace
}  // namespace teq::queue
