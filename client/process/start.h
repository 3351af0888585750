#pragma once

namespace teq::process {

/// From now on SIGTERM and SIGINT end the process with 128 and the signal's number, until somebody
/// else handles or blocks them. Without a handler process 1 of a container would never see them.
void EndAtStopSignals();

/// Lets this process, and those that it starts, open as many files as the hard limit says, up to
/// 1,048,576. The soft one is often 1024, for the sake of programs that call select(); here none
/// does. Where the system refuses, the limit stays as it was.
void RaiseFileLimit();

}  // namespace teq::process
