#pragma once

#include <dlfcn.h>

#include <string>

namespace teq::model {

/// The path of a stand-in; see core.cmake for their names.
inline std::string HpuStandIn(const std::string& name) {
  return std::string(TEQ_HPU_STAND_INS) + "/libhpu_" + name + ".so";
}

/// A function at the end of hpu_stand_in.c, of the stand-in that works.
template <typename Function>
Function* StandInFunction(const char* name) {
  void* const library = dlopen(HpuStandIn("stand_in").c_str(), RTLD_NOW);
  return reinterpret_cast<Function*>(dlsym(library, name));
}

}  // namespace teq::model
