#include "worker/engine/report/environment.h"

#include <dlfcn.h>
#include <sys/resource.h>

#include <string_view>

#include "ATen/Context.h"
#include "fmt/format.h"

namespace teq::report {
namespace {

// What a function of OpenBLAS says; "" where that library is not in this process.
std::string_view Openblas(const char* function) {
  using Say = const char* (*)();
  const auto say = reinterpret_cast<Say>(dlsym(RTLD_DEFAULT, function));
  return say != nullptr ? say() : "";
}

}  // namespace

std::string InstructionSet() {
#ifdef __x86_64__
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) return "AVX512";
  if (__builtin_cpu_supports("avx2")) return "AVX2";
  if (__builtin_cpu_supports("sse4.1")) return "SSE4.1";
#endif
  return "baseline";
}

std::string MatrixProducts() {
  // "OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ..."
  const std::string_view build = Openblas("openblas_get_config");
  if (build.empty()) return at::hasMKL() ? "MKL" : "";
  const std::string_view version = build.substr(0, build.find(' ', build.find(' ') + 1));
  return fmt::format("{}, {}", version, Openblas("openblas_get_corename"));
}

std::int64_t PeakHostMemory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

}  // namespace teq::report
