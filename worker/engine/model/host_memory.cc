#include "worker/engine/model/host_memory.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <limits>

namespace teq::model {

void KeepFreedMemory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
#endif
}

void GiveBackFreedMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace teq::model
