/* A plugin whose two devices are the host's processor. What it counts, and makes up, is read by the
 * tests through the functions at the end. */
#include <stddef.h>

#include "worker/engine/model/hpu_plugin.h"

#ifndef STAND_IN_VERSION
#define STAND_IN_VERSION TEQ_HPU_PLUGIN_VERSION
#endif
#ifndef STAND_IN_TYPE
#define STAND_IN_TYPE "cpu"
#endif
#ifndef STAND_IN_DEVICES
#define STAND_IN_DEVICES 2
#endif

static int mark_steps[2];
static int synchronized[2];
static int fails;
static const char* error = "";

static int Failed(const char* why) {
  error = why;
  return -1;
}

static int DeviceCount(void) {
  return STAND_IN_DEVICES > 0 ? STAND_IN_DEVICES : Failed("no driver");
}

static const char* DeviceName(int index) { return index == 0 ? "stand-in A" : "stand-in B"; }

static int Memory(int index, teq_hpu_memory* memory) {
  if (fails) return Failed("memory is gone");
  memory->total = (index + 1) * INT64_C(1000000000);
  memory->used = 300000000;
  memory->peak = 200000000;
  return 0;
}

static int MarkStep(int index) {
  if (fails) return Failed("graph does not compile");
  ++mark_steps[index];
  return 0;
}

static int Synchronize(int index) {
  if (fails) return Failed("device hangs");
  ++synchronized[index];
  return 0;
}

static const char* LastError(void) { return error; }

const teq_hpu_plugin* teq_hpu_plugin_get(void) {
  static const teq_hpu_plugin plugin = {STAND_IN_VERSION, STAND_IN_TYPE, DeviceCount, DeviceName,
                                        Memory,           MarkStep,      Synchronize, LastError};
  return &plugin;
}

/* Found by name; see StandInFunction. */
int StandInMarkSteps(int index);
int StandInMarkSteps(int index) { return mark_steps[index]; }

int StandInSynchronized(int index);
int StandInSynchronized(int index) { return synchronized[index]; }

void StandInFail(int yes);
void StandInFail(int yes) { fails = yes; }
