#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/model_info/model_config.h"
#include "client/model_info/plan.h"
#include "teq/v1/estimate.pb.h"
#include "teq/v1/job.pb.h"

namespace teq::model_info {

/// Where a job gives no limit of the host's memory, that shall grow neither with the model's depth
/// nor with the calibration text: hidden states lie in it up to this, bytes, and where the host
/// computes, the graph of all blocks together is stored up to that.
inline constexpr std::int64_t kStatesInMemory = std::int64_t{256} << 20;
inline constexpr std::int64_t kGraphInMemory = std::int64_t{512} << 20;

/// The share of a device's or a machine's memory that a run takes where the job does not say.
inline constexpr double kUsableShare = 0.6;

/// What a run may take.
struct MemoryBudget {
  std::int64_t limit_bytes = 0;  // of the device's memory, or without one of the host's; 0: any
  bool on_device = false;        // the arithmetic is not the host's
};

/// The job's own limit, else kUsableShare of `memory_bytes`, what the device (or without one the
/// host) has. Never more than that; 0 where it is not known, 0, and the job has none.
[[nodiscard]] std::int64_t LimitOf(const teq::v1::JobSpec& spec, std::int64_t memory_bytes);

/// What one stage takes, bytes.
struct StageMemory {
  teq::v1::Stage stage = teq::v1::STAGE_UNSPECIFIED;
  std::int64_t host = 0;
  std::int64_t device = 0;   // 0 without one
  std::int64_t scratch = 0;  // in files
  std::int64_t states = 0;   // of the host's, hidden states of the calibration text
  /// Of `scratch`, which is never too little, what is there at one time for certain where the text
  /// has all samples: of a text with a share of them, that share is.
  std::int64_t least_scratch = 0;
};

/// What a run takes, and what it does with what does not fit. The checkpoint's files are mapped and
/// count nowhere.
struct MemoryPlan {
  std::vector<StageMemory> stages;  // FETCH to PUBLISH
  teq::v1::HiddenStates hidden_states = teq::v1::HIDDEN_STATES_UNSPECIFIED;
  teq::v1::EndToEndPass end_to_end_pass = teq::v1::END_TO_END_PASS_UNSPECIFIED;
  std::int64_t end_to_end_states = 0;  // as a stage's; those of TRANSFORM are of the blocks before
  std::vector<std::string> notes;      // the choices as sentences
  std::int64_t limit_bytes = 0;        // that it keeps to; 0: none
  std::int64_t least_limit_bytes = 0;  // under which the job runs at all

  /// The stage's row.
  [[nodiscard]] const StageMemory& at(teq::v1::Stage stage) const;
};

/// The plan of a job whose spec has its defaults; `plan` is PlanLayers'. One block's weights are in
/// memory at a time, as float32. What is spilled first is the calibration text's hidden states;
/// then the end-to-end pass goes block by block; then it is left out, unless it is all the
/// training that the recipe has.
///
/// FAILED_PRECONDITION, MEMORY_LIMIT, where the job takes more than the limit even so: names the
/// limit, the number that it needs, the stage and the remedy.
[[nodiscard]] absl::StatusOr<MemoryPlan> PlanMemory(const teq::v1::JobSpec& spec,
                                                    const ModelConfig& config,
                                                    const std::vector<PlannedLayer>& plan,
                                                    const MemoryBudget& budget);

/// OK where the job has no limit of its own, or one under which it runs on a device that it may run
/// on. Else as PlanMemory.
[[nodiscard]] absl::Status CheckMemoryLimit(const teq::v1::JobSpec& spec, const ModelConfig& config,
                                            const std::vector<PlannedLayer>& plan);

}  // namespace teq::model_info
