#include "server/store/job_store.h"

namespace teq::store {

using teq::v1::Job;

bool IsFinished(Job::State state) {
  return state == Job::STATE_SUCCEEDED || state == Job::STATE_FAILED ||
         state == Job::STATE_CANCELLED || state == Job::STATE_EXPIRED;
}

}  // namespace teq::store
