#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace teq::text {

/// Bytes that this process has read by now, as the kernel counts them.
inline std::uint64_t BytesRead() {
  std::ifstream stream("/proc/self/io");
  std::string name;
  std::uint64_t count = 0;
  stream >> name >> count;  // rchar
  return count;
}

}  // namespace teq::text
