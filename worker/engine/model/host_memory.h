#pragma once

namespace teq::model {

/// Keeps freed tensors' memory in the process. By default glibc maps and unmaps every large tensor
/// anew, and a third of a training step goes into page faults.
void KeepFreedMemory();

}  // namespace teq::model
