#include "client/process/start.h"

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>

namespace teq::process {
namespace {

constexpr rlim_t kMostFiles = 1 << 20;

}  // namespace

void EndAtStopSignals() {
  for (const int signal : {SIGTERM, SIGINT}) {
    std::signal(signal, [](int number) { std::_Exit(128 + number); });
  }
}

void RaiseFileLimit() {
  struct rlimit limit {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t wanted = std::min(limit.rlim_max, kMostFiles);
  if (limit.rlim_cur >= wanted) return;
  limit.rlim_cur = wanted;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

}  // namespace teq::process
