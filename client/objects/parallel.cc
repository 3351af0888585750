#include "client/objects/parallel.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include <vector>

namespace teq::objects {

absl::Status ForEachInParallel(std::size_t count, int at_once,
                               const std::function<absl::Status(std::size_t)>& task) {
  std::mutex mutex;
  std::size_t next = 0;
  absl::Status first;
  const auto work = [&] {
    while (true) {
      std::size_t mine = 0;
      {
        const std::lock_guard lock(mutex);
        if (next == count || !first.ok()) return;
        mine = next++;
      }
      const absl::Status status = task(mine);
      const std::lock_guard lock(mutex);
      if (first.ok()) first = status;
    }
  };
  const std::size_t size = std::min(count, static_cast<std::size_t>(std::max(at_once, 1)));
  std::vector<std::jthread> threads;
  threads.reserve(size);
  for (std::size_t i = 0; i < size; ++i) threads.emplace_back(work);
  threads.clear();
  return first;
}

}  // namespace teq::objects
