#pragma once

#include <cstdint>
#include <string>

namespace teq::report {

/// The widest vector instruction set of this processor that the engine's kernels can use: "AVX512",
/// "AVX2", "SSE4.1" or "baseline".
[[nodiscard]] std::string InstructionSet();

/// The library that multiplies matrices on the CPU, and the processor that it works for, which need
/// not be this one where the environment chooses: "OpenBLAS 0.3.21, Haswell", "MKL", or "" for
/// another.
[[nodiscard]] std::string MatrixProducts();

/// The largest resident set that this process has had, bytes.
[[nodiscard]] std::int64_t PeakHostMemory();

}  // namespace teq::report
