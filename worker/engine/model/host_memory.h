#pragma once

namespace teq::model {

/// Keeps the freed memory of tensors below 32 MiB in the process. By default glibc maps and unmaps
/// every large tensor anew, and a third of a small model's training step goes into page faults.
void KeepFreedMemory();

/// While it lives, freed memory of any size is kept, for what asks for the same sizes again and
/// again: of a large layer's fake quantization three quarters are page faults otherwise. Elsewhere
/// sizes differ, and what was kept of one would lie beside the next. One at a time.
class AllFreedMemoryKept {
 public:
  AllFreedMemoryKept();
  AllFreedMemoryKept(const AllFreedMemoryKept&) = delete;
  AllFreedMemoryKept& operator=(const AllFreedMemoryKept&) = delete;
  ~AllFreedMemoryKept();
};

/// Gives the freed memory that lies between what is still used back to the system, where a block's
/// work is done: small things that stay divide what large tensors leave, and the next block's no
/// longer fit there.
void GiveBackFreedMemory();

}  // namespace teq::model
