#include "client/objects/environment.h"

#include <cstdlib>

namespace teq::objects {

Environment ProcessEnvironment() {
  return [](const std::string& name) {
    const char* value = std::getenv(name.c_str());
    return std::string(value == nullptr ? "" : value);
  };
}

}  // namespace teq::objects
