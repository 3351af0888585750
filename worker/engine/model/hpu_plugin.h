#pragma once

/* What teq-worker asks of a Gaudi: the interface of the shared object that `hpu_plugin` names.
 * Plain C, so that a plugin may be built with another compiler than the worker.
 *
 * As it is loaded, a plugin registers LibTorch's backend for its device type, if that is not built
 * in; it links the bridge that does. It stays loaded until the process ends. Its one exported
 * symbol is teq_hpu_plugin_get.
 *
 * The worker calls from one thread, after device_count with indices below what that returned. A
 * function that fails returns a negative number (device_name: NULL), and last_error says why. */

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised whenever the struct below changes in any way. */
#define TEQ_HPU_PLUGIN_VERSION 1

/* The name that the worker looks up. */
#define TEQ_HPU_PLUGIN_SYMBOL "teq_hpu_plugin_get"

/* Of one device, bytes. */
typedef struct teq_hpu_memory {
  int64_t total;
  int64_t used; /* now, by all processes */
  int64_t peak; /* the most that this process has held */
} teq_hpu_memory;

typedef struct teq_hpu_plugin {
  /* TEQ_HPU_PLUGIN_VERSION of the header that the plugin was built with. Stays the first field. */
  int32_t version;

  /* The LibTorch device type whose tensors live on these devices: "hpu"; "cpu" where a plugin
   * stands in for one. */
  const char* device_type;

  /* Devices that this process may use; they have the indices from 0. */
  int (*device_count)(void);

  /* The device's model for reports, such as "GAUDI2". Owned by the plugin. */
  const char* (*device_name)(int index);

  int (*memory)(int index, teq_hpu_memory* memory);

  /* Ends a graph: in lazy mode, compiles and runs what was recorded since the last one. Called
   * after every training step; need not wait. */
  int (*mark_step)(int index);

  /* Returns when all that was asked of the device is done. */
  int (*synchronize)(int index);

  /* What the last call that failed met, one line. Owned by the plugin; until the next call. */
  const char* (*last_error)(void);
} teq_hpu_plugin;

/* The plugin's table, which lives as long as the process. */
const teq_hpu_plugin* teq_hpu_plugin_get(void);

#ifdef __cplusplus
}
#endif
