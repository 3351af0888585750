#include "worker/engine/model/host_memory.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace teq::model {

void KeepFreedMemory() {
#ifdef __GLIBC__
  // The most that glibc takes.
  constexpr int kLargestKept = 32 << 20;
  mallopt(M_MMAP_THRESHOLD, kLargestKept);
  mallopt(M_TRIM_THRESHOLD, 8 * kLargestKept);
#endif
}

void GiveBackFreedMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace teq::model
