#pragma once

#include <memory>
#include <string>
#include <utility>

#include "client/logs/logger.h"
#include "server/queue/observer.h"

namespace teq::server {

/// A line for every state that a job reaches. Thread-safe.
class JobLog final : public queue::QueueObserver {
 public:
  explicit JobLog(std::shared_ptr<const logs::Logger> log) : log_(std::move(log)) {}

  void OnChange(const queue::JobChange& change) override;
  void OnDelete(const store::JobRecord& record) override;

 private:
  [[nodiscard]] std::shared_ptr<logs::Logger> About(const teq::v1::Job& job,
                                                    const std::string& worker) const;

  std::shared_ptr<const logs::Logger> log_;
};

}  // namespace teq::server
