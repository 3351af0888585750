#include "worker/engine/model/hpu_loader.h"

#include <dlfcn.h>

#include <string_view>

#include "fmt/format.h"
#include "proto/spec/error.h"

namespace teq::model {
namespace {

absl::Status Unusable(const std::string& path, std::string_view what) {
  return Error(absl::StatusCode::kFailedPrecondition, "DEVICE_NOT_AVAILABLE",
               fmt::format("device HPU: hpu_plugin {} {}", path, what));
}

}  // namespace

absl::StatusOr<const teq_hpu_plugin*> LoadHpuPlugin(const std::string& path) {
  // Global, because LibTorch's backend may come with it and is looked for by name.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) {
    return Unusable(path, fmt::format("cannot be loaded: {}; name a shared object that is there "
                                      "with all that it links",
                                      dlerror()));
  }
  const auto get =
      reinterpret_cast<decltype(&teq_hpu_plugin_get)>(dlsym(library, TEQ_HPU_PLUGIN_SYMBOL));
  if (get == nullptr) {
    return Unusable(path,
                    "exports no " TEQ_HPU_PLUGIN_SYMBOL
                    ", so it is no plugin of teq-worker; name one that implements hpu_plugin.h, "
                    "not the bridge that it links");
  }
  const teq_hpu_plugin* const plugin = get();
  if (plugin == nullptr) return Unusable(path, "returned no table; build it anew");
  if (plugin->version != TEQ_HPU_PLUGIN_VERSION) {
    return Unusable(path, fmt::format("has version {} of the interface, and this worker has {}; "
                                      "build it with the hpu_plugin.h of teq-worker {}",
                                      plugin->version, TEQ_HPU_PLUGIN_VERSION, TEQ_VERSION));
  }
  if (plugin->device_type == nullptr || plugin->device_count == nullptr ||
      plugin->device_name == nullptr || plugin->memory == nullptr || plugin->mark_step == nullptr ||
      plugin->synchronize == nullptr || plugin->last_error == nullptr) {
    return Unusable(path, "leaves fields of its table empty; fill in all of hpu_plugin.h");
  }
  return plugin;
}

std::string HpuError(const teq_hpu_plugin& plugin) {
  const char* const error = plugin.last_error();
  return error == nullptr || *error == '\0' ? "the plugin does not say why" : error;
}

}  // namespace teq::model
