#include "server/api/blocking_calls.h"

#include <algorithm>
#include <utility>

#include "boost/asio/post.hpp"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "server/api/answer.h"

namespace teq::api {
namespace {

absl::Status TooManyCalls(const std::string& what, int limit) {
  absl::Status status =
      Error(absl::StatusCode::kResourceExhausted, "TOO_MANY_CALLS",
            fmt::format("{} {} run at once, which is the limit; try again later", limit, what));
  google::rpc::QuotaFailure failure;
  auto* violation = failure.add_violations();
  violation->set_subject(what);
  violation->set_description(std::string(status.message()));
  AddDetail(status, failure);
  return status;
}

}  // namespace

class BlockingCalls::Call final : public grpc::ServerUnaryReactor {
 public:
  void OnCancel() override { cancelled_ = true; }
  void OnDone() override { delete this; }
  [[nodiscard]] bool cancelled() const { return cancelled_; }

 private:
  std::atomic<bool> cancelled_ = false;
};

BlockingCalls::BlockingCalls(std::string what, int limit)
    : what_(std::move(what)),
      limit_(limit),
      threads_(static_cast<std::size_t>(std::max(limit, 1))) {}

BlockingCalls::~BlockingCalls() { threads_.join(); }

grpc::ServerUnaryReactor* BlockingCalls::Run(Work work) {
  Call* const call = new Call;  // owns itself until OnDone
  if (draining_) {
    call->Finish(ToAnswer(Draining()));
    return call;
  }
  if (running_.fetch_add(1) >= limit_) {
    --running_;
    call->Finish(ToAnswer(TooManyCalls(what_, limit_)));
    return call;
  }
  boost::asio::post(threads_, [this, call, work = std::move(work)] {
    absl::Status status = work([this, call] { return !draining_ && !call->cancelled(); });
    if (absl::IsCancelled(status) && draining_) status = Draining();
    // Before the answer: a client that has it may call again at once.
    --running_;
    call->Finish(ToAnswer(status));
  });
  return call;
}

}  // namespace teq::api
