#pragma once

namespace teq::model {

/// Makes the threads of programs that this process becomes or starts sleep while they wait:
/// spinning ones take the processor from those that work as soon as anything else runs on the
/// machine. LibTorch's libraries read it when they are loaded, so it changes nothing in this
/// process. What the environment says already, stays.
void SetSleepingThreads();

/// Threads of LibTorch's operators, and of a BLAS that has a pool of its own. 0: one for every
/// processor.
void SetThreads(int threads);

}  // namespace teq::model
