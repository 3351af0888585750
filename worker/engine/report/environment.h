#pragma once

#include <cstdint>
#include <string>

namespace teq::report {

/// The widest vector instruction set of this processor that the engine's kernels can use: "AVX512",
/// "AVX2", "SSE4.1" or "baseline".
[[nodiscard]] std::string InstructionSet();

/// The largest resident set that this process has had, bytes.
[[nodiscard]] std::int64_t PeakHostMemory();

}  // namespace teq::report
