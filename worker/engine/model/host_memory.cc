#include "worker/engine/model/host_memory.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <limits>

namespace teq::model {
namespace {

#ifdef __GLIBC__
constexpr int kLargestKept = 32 << 20;  // the most that glibc takes
constexpr int kMappings = 1 << 16;      // glibc's own limit

void KeepUpTo(int mappings, int trim_threshold) {
  mallopt(M_MMAP_MAX, mappings);
  mallopt(M_TRIM_THRESHOLD, trim_threshold);
}
#endif

}  // namespace

void KeepFreedMemory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, kLargestKept);
  KeepUpTo(kMappings, 8 * kLargestKept);
#endif
}

AllFreedMemoryKept::AllFreedMemoryKept() {
#ifdef __GLIBC__
  KeepUpTo(0, std::numeric_limits<int>::max());
#endif
}

AllFreedMemoryKept::~AllFreedMemoryKept() { KeepFreedMemory(); }

void GiveBackFreedMemory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

}  // namespace teq::model
