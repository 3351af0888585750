#pragma once

namespace teq::model {

/// Keeps freed memory in the process. By default glibc maps and unmaps every large tensor anew, and
/// a third of a small model's training step goes into page faults, of a large layer's fake
/// quantization three quarters. What is kept grows until GiveBackFreedMemory.
void KeepFreedMemory();

/// Gives the freed memory that lies between what is still used back to the system, where a block's
/// work is done: small things that stay divide what large tensors leave, and the next block's no
/// longer fit there.
void GiveBackFreedMemory();

}  // namespace teq::model
