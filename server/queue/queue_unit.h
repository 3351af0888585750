#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "proto/spec/error.h"
#include "server/queue/lease_rules.h"
#include "server/queue/queue.h"

namespace teq::queue {

/// One unit of work of the queue: a transaction, its time, and the changes to tell the observers.
class Queue::Unit {
 public:
  Unit(store::Transaction& transaction, absl::Time now, absl::Duration lease_duration)
      : transaction_(transaction), now_(now), lease_duration_(lease_duration) {}

  [[nodiscard]] store::Transaction& transaction() { return transaction_; }
  [[nodiscard]] absl::Time now() const { return now_; }
  [[nodiscard]] JobEdit Edit(store::JobRecord record) const { return {std::move(record), now_}; }

  /// Stores a new job with its events.
  [[nodiscard]] absl::StatusOr<teq::v1::Job> Insert(JobEdit edit) {
    edit.record().due = DueTime(edit.record(), lease_duration_);
    TEQ_RETURN_IF_ERROR(transaction_.Insert(edit.record()));
    TEQ_RETURN_IF_ERROR(transaction_.Append(edit.record().key, edit.events()));
    teq::v1::Job job = edit.job();
    inserted_.push_back(std::move(edit));
    return job;
  }

  /// Stores a changed job with its events.
  [[nodiscard]] absl::StatusOr<teq::v1::Job> Save(JobEdit edit) {
    edit.record().due = DueTime(edit.record(), lease_duration_);
    TEQ_RETURN_IF_ERROR(transaction_.Update(edit.before(), edit.record()));
    TEQ_RETURN_IF_ERROR(transaction_.Append(edit.record().key, edit.events()));
    teq::v1::Job job = edit.job();
    changed_.push_back(std::move(edit));
    return job;
  }

  [[nodiscard]] absl::Status Remove(const store::JobRecord& record) {
    removed_.push_back(record);
    return transaction_.Remove(record);
  }

  void Tell(QueueObserver& observer) const {
    for (const JobEdit& edit : inserted_) observer.OnChange(ChangeOf(edit, nullptr));
    for (const JobEdit& edit : changed_) observer.OnChange(ChangeOf(edit, &edit.before()));
    for (const store::JobRecord& record : removed_) observer.OnDelete(record);
  }

 private:
  static JobChange ChangeOf(const JobEdit& edit, const store::JobRecord* before) {
    return {.before = before,
            .after = edit.record(),
            .events = edit.events(),
            .failure_class = edit.failure_class};
  }

  store::Transaction& transaction_;
  absl::Time now_;
  absl::Duration lease_duration_;
  std::vector<JobEdit> inserted_;
  std::vector<JobEdit> changed_;
  std::vector<store::JobRecord> removed_;
};

template <typename T>
absl::StatusOr<T> Queue::Write(const std::function<absl::StatusOr<T>(Unit&)>& change) {
  const std::lock_guard lock(mutex_);
  absl::StatusOr<T> result = WriteLocked(change);
  const std::string reason = result.ok() ? "" : ErrorReason(result.status());
  if (reason == "STORE_FULL" || reason == "STORE_UNAVAILABLE") store_failed_ = true;
  return result;
}

template <typename T>
absl::StatusOr<T> Queue::WriteLocked(const std::function<absl::StatusOr<T>(Unit&)>& change) {
  TEQ_ASSIGN_OR_RETURN(const std::unique_ptr<store::Transaction> transaction, deps_.store->Begin());
  Unit unit(*transaction, absl::FromUnixMicros(absl::ToUnixMicros(deps_.clock->Now())),
            options_.lease_duration);
  absl::StatusOr<T> result = change(unit);
  if (!result.ok()) {
    if (ErrorReason(result.status()) == "LEASE_LOST") {
      for (QueueObserver* observer : observers_) observer->OnLeaseConflict();
    }
    return result;
  }
  TEQ_RETURN_IF_ERROR(transaction->Commit());
  for (QueueObserver* observer : observers_) unit.Tell(*observer);
  return result;
}

}  // namespace teq::queue
