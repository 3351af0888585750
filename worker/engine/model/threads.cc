#include "worker/engine/model/threads.h"

#include <dlfcn.h>

#include <cstdlib>
#include <thread>

#include "ATen/Parallel.h"

namespace teq::model {

void SetSleepingThreads() {
  setenv("OMP_WAIT_POLICY", "PASSIVE", 0);
  setenv("OPENBLAS_THREAD_TIMEOUT", "4", 0);
}

void SetThreads(int threads) {
  const int count = threads > 0 ? threads : static_cast<int>(std::thread::hardware_concurrency());
  at::set_num_threads(count);
  // LibTorch passes its number on to MKL alone, and which BLAS is there is known at run time.
  using SetOpenblasThreads = void (*)(int);
  if (const auto set =
          reinterpret_cast<SetOpenblasThreads>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"))) {
    set(count);
  }
}

}  // namespace teq::model
