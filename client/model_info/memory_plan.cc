#include "client/model_info/memory_plan.h"

#include <algorithm>
#include <utility>

#include "client/model_info/run_sizes.h"
#include "client/model_info/workload.h"
#include "fmt/format.h"
#include "proto/spec/error.h"
#include "proto/spec/json.h"
#include "proto/spec/recipe.h"

namespace teq::model_info {
namespace {

using teq::v1::JobSpec;
using teq::v1::Stage;

constexpr std::int64_t kMiB = 1 << 20;
constexpr std::int64_t kFloat = 4;
// The program and its libraries; on a device the libraries' context and workspaces there.
constexpr std::int64_t kProcessBytes = 200 * kMiB;
constexpr std::int64_t kContextBytes = 512 * kMiB;
// Copies of the logits where two models are compared.
constexpr std::int64_t kLogitCopies = 4;
// A block's activations, in units of tokens * (hidden + mlp): norms, projections, gates and their
// products; a token's experts count as one MLP.
constexpr std::int64_t kActivations = 8;
// Of a layer, where the best of many candidates is searched: one, its rounding, the difference.
constexpr std::int64_t kSearchCopies = 3;
constexpr std::int64_t kRoundingCopies = 5;
constexpr std::int64_t kPackingCopies = 3;
// GPTQ beside the Gram matrix: the damped one, its factor, the factor's inverse, and that reversed.
constexpr std::int64_t kFactorCopies = 4;
// What a training keeps of every trained value: itself, its gradient, the average of the iterates,
// the best of those, and what is just computed; Adam two moments more.
constexpr std::int64_t kTrainedCopies = 5;
constexpr std::int64_t kMoments = 2;

/// What a stage takes: of the memory that is limited in any case, of what may lie in memory or in
/// files, and of files in any case.
struct Need {
  Stage stage = teq::v1::STAGE_UNSPECIFIED;
  std::int64_t work = 0;
  std::int64_t states = 0;
  std::int64_t scratch = 0;
  bool on_host = false;    // also where there is a device
  std::int64_t spare = 0;  // of states and scratch, what may not be there beside the rest
};

/// A job's demands, before anything is decided.
class Demand {
 public:
  Demand(const JobSpec& spec, const Workload& work, bool on_device)
      : spec_(spec), work_(work), block_(work.largest), on_device_(on_device) {}

  /// All stages; TRANSFORM as far as blocks are trained one by one.
  [[nodiscard]] std::vector<Need> Stages() const {
    Need verify = Measured(teq::v1::STAGE_VERIFY, work_.evaluation_window);
    verify.work = std::max(verify.work, kPackingCopies * kFloat * block_.largest_layer);
    verify.scratch = CodeBytes() + FloatBytes();
    verify.spare = FloatBytes();
    verify.work += VocabularyOnDevice();  // of what was published
    const bool measures_bits = recipe().weights().has_target_bits();
    Need baseline = Measured(teq::v1::STAGE_BASELINE_EVAL,
                             measures_bits ? work_.window : work_.evaluation_window);
    // Sensitivities are measured with the head in memory all the time, and a block's rounded layers
    // beside it and the next one.
    if (measures_bits) baseline.work += HeadBytes() + kFloat * block_.quantized;
    std::vector<Need> stages = {{.stage = teq::v1::STAGE_FETCH, .on_host = true},
                                baseline,
                                Calibrate(),
                                TrainBlocks(),
                                Round(),
                                Pack(),
                                verify,
                                {.stage = teq::v1::STAGE_PUBLISH, .on_host = true}};
    for (Need& need : stages) {
      if (!need.on_host && need.work > 0) need.work += VocabularyOnDevice();
    }
    return stages;
  }

  [[nodiscard]] bool trains_together() const {
    return Trains(recipe()) && (schedule_.objective() != teq::v1::OBJECTIVE_BLOCK_MSE ||
                                schedule_.end_to_end_steps() > 0);
  }
  /// Without it the recipe trains nothing.
  [[nodiscard]] bool needs_end_to_end() const {
    return trains_together() && schedule_.objective() != teq::v1::OBJECTIVE_BLOCK_MSE;
  }

  /// All blocks in one graph. The states that the teacher is made from are gone by then.
  [[nodiscard]] Need OneGraph() const {
    const std::int64_t graph = work_.blocks * (Activations(tokens()) + KeptAttention());
    const std::int64_t step = StepWeights(work_.total) + Trained(work_.total) + ScaledGradient() +
                              graph + HeadBytes() + std::max(StepLogits(), DrawnLogits()) +
                              VocabularyOnDevice();
    const std::int64_t states = StateBytes() + TeacherBytes();
    return {.stage = teq::v1::STAGE_TRANSFORM,
            .work = on_device_ ? step : std::max(step, StateBytes() + TeacherWork()) - StateBytes(),
            .states = states,
            .spare = states};
  }

  /// A block at a time, forward and again backward. The head's turn comes when no block is held. On
  /// a device lies what is trained of all blocks. Of the files what is just computed is one block's
  /// and in memory, and states come and go.
  [[nodiscard]] Need ByBlock() const {
    const std::int64_t inputs = work_.blocks * tokens() * work_.hidden * kFloat;
    const std::int64_t block = StepWeights(block_) + Trained(block_) + ScaledGradient() +
                               Activations(tokens()) + KeptAttention();
    const std::int64_t kept = Trained(work_.total) - LearnedBytes();  // gradients are one block's
    const std::int64_t states = std::max(inputs, StateBytes()) + TeacherBytes();
    return {.stage = teq::v1::STAGE_TRANSFORM,
            .work = std::max(block, HeadBytes() + std::max(StepLogits(), DrawnLogits())) +
                    VocabularyOnDevice() + (on_device_ ? kept : 0),
            .states = states,
            .scratch = (on_device_ ? LearnedBytes() : kept) + SearchedAlone(),
            .spare = states + (on_device_ ? 0 : LearnedBytes())};
  }

  [[nodiscard]] std::int64_t block_bytes() const { return kFloat * block_.parameters; }

 private:
  [[nodiscard]] const teq::v1::Recipe& recipe() const { return spec_.recipe(); }
  [[nodiscard]] std::int64_t tokens() const {
    return std::int64_t{schedule_.batch_size()} * work_.window;
  }
  /// Float, rounded, and the gradient to that; and the rounded ones' copies in bfloat16.
  [[nodiscard]] std::int64_t StepWeights(const BlockSize& size) const {
    const bool bfloat16 = schedule_.compute_type() == teq::v1::COMPUTE_TYPE_BFLOAT16;
    return (3 * kFloat + (bfloat16 ? 2 : 0)) * size.parameters;
  }
  [[nodiscard]] std::int64_t StateBytes() const {
    return work_.calibration_tokens * work_.hidden * kFloat;
  }
  /// Two rows for each token: what the head reads, and the teacher's mean row.
  [[nodiscard]] std::int64_t TeacherBytes() const {
    return 2 * work_.calibration_tokens * work_.embedding * kFloat;
  }
  /// While it is made, beside all tokens' states: a block, then the head.
  [[nodiscard]] std::int64_t TeacherWork() const {
    return std::max(block_bytes() + Activations(tokens()), HeadBytes() + StepLogits());
  }
  [[nodiscard]] std::int64_t HeadBytes() const {
    return kFloat * work_.vocabulary * work_.embedding;
  }
  [[nodiscard]] std::int64_t StepLogits() const {
    return 2 * kFloat * tokens() * std::max(kLeastSlice, kSliceLogits / tokens());
  }
  /// Where tokens are drawn again: logits, their softmax and its sums.
  [[nodiscard]] std::int64_t DrawnLogits() const {
    if (schedule_.redrawn_fraction() == 0) return 0;
    return 3 * kFloat *
           std::max(work_.vocabulary, std::min(kDrawnLogits, tokens() * work_.vocabulary));
  }
  [[nodiscard]] std::int64_t Activations(std::int64_t count) const {
    return kActivations * kFloat * count * (work_.hidden + work_.mlp);
  }
  /// Of a block, where attention is not one pass that keeps a number for each query.
  [[nodiscard]] std::int64_t KeptAttention() const {
    if (!on_device_ && !work_.softcap) return 0;
    return 4 * kFloat * tokens() * work_.window * work_.heads;
  }
  /// The same where nothing is trained: scores, their weights, and those before a soft cap.
  [[nodiscard]] std::int64_t AttentionOf(std::int64_t window) const {
    if (!on_device_ && !work_.softcap) return 0;
    return 3 * kFloat * BatchTokens(window) * window * work_.heads;
  }
  /// Embedding and head lie on a device from the beginning, as they are stored. The host maps them.
  [[nodiscard]] std::int64_t VocabularyOnDevice() const {
    if (!on_device_) return 0;
    return (work_.tied ? 1 : 2) * work_.stored_bytes * work_.vocabulary * work_.embedding;
  }
  [[nodiscard]] bool learns_rounding() const { return recipe().rounding().has_learned(); }
  [[nodiscard]] bool learns_clipping() const { return recipe().clipping().has_learned(); }
  [[nodiscard]] bool searches_scales() const {
    const teq::v1::Transform& transform = recipe().transform();
    return transform.has_awq() || transform.teq().init() == teq::v1::INITIALIZATION_AWQ;
  }
  /// What training keeps of the values that it moves.
  [[nodiscard]] std::int64_t Trained(const BlockSize& size) const {
    const bool by_sign = recipe().rounding().learned().optimizer() == teq::v1::OPTIMIZER_SIGN_SGD;
    const std::int64_t rounding = learns_rounding() ? size.quantized : 0;
    return kFloat * ((kTrainedCopies + (by_sign ? 0 : kMoments)) * rounding +
                     (kTrainedCopies + kMoments) * GroupFactors() * size.groups);
  }
  /// What is left of it after the training, of all blocks.
  [[nodiscard]] std::int64_t LearnedBytes() const {
    return kFloat *
           ((learns_rounding() ? work_.total.quantized : 0) + GroupFactors() * work_.total.groups);
  }
  /// The same before the end-to-end pass, which may be left out.
  [[nodiscard]] std::int64_t LearnedByBlocks() const {
    return LearnedBytes() - (learns_step_sizes() ? kFloat * work_.total.groups : 0);
  }
  [[nodiscard]] bool learns_step_sizes() const {
    return learns_clipping() && learns_rounding() && schedule_.end_to_end_steps() > 0;
  }
  /// Two clip factors, and the step size's.
  [[nodiscard]] std::int64_t GroupFactors() const {
    return (learns_clipping() ? 2 : 0) + (learns_step_sizes() ? 1 : 0);
  }
  /// The clip factors that the calibration finds, of all blocks.
  [[nodiscard]] std::int64_t SearchedBytes() const {
    return SearchesClipping(recipe()) ? 2 * kFloat * work_.total.groups : 0;
  }
  /// The same where none are learned, which would take their place.
  [[nodiscard]] std::int64_t SearchedAlone() const {
    return learns_clipping() ? 0 : SearchedBytes();
  }
  /// Of one layer, on its way back through the step sizes.
  [[nodiscard]] std::int64_t ScaledGradient() const {
    return learns_step_sizes() ? kFloat * block_.largest_layer : 0;
  }
  /// A byte for each code, and of each group a half-precision scale and a byte's zero point.
  [[nodiscard]] std::int64_t CodeBytes() const {
    return work_.total.quantized + 3 * work_.total.groups;
  }
  /// What is published float, where it changes its type: the rest stays where it is stored. Less
  /// where weights are stored smaller than config.json says.
  [[nodiscard]] std::int64_t FloatBytes() const {
    return work_.stored_bytes == 4 ? 2 * (work_.parameters - work_.total.quantized) : 0;
  }

  /// Chunks through all blocks of two models, then the head.
  [[nodiscard]] Need Measured(Stage stage, std::int64_t window) const {
    if (window == 0) return {.stage = stage};
    const std::int64_t states = 2 * std::max(kChunkTokens, window) * work_.hidden * kFloat;
    const std::int64_t logits = std::min(kComparedLogits, BatchTokens(window) * work_.vocabulary);
    return {.stage = stage,
            .work = states + std::max(2 * block_bytes() + Activations(BatchTokens(window)) +
                                          AttentionOf(window),
                                      HeadBytes() + kLogitCopies * kFloat * logits)};
  }

  [[nodiscard]] Need Calibrate() const {
    if (!Calibrates(recipe())) return {.stage = teq::v1::STAGE_CALIBRATE, .on_host = true};
    const bool searches = SearchesClipping(recipe()) || searches_scales();
    return {.stage = teq::v1::STAGE_CALIBRATE,
            .work = (SearchesClipping(recipe()) ? 2 : 1) * block_bytes() + kFloat * block_.grams +
                    (searches ? kSearchCopies * kFloat * block_.largest_layer : 0) +
                    Activations(BatchTokens(work_.window)) + AttentionOf(work_.window),
            .states = StateBytes(),
            .scratch = SearchedBytes()};
  }

  /// A block; and of all tokens what it reads, and what it should give.
  [[nodiscard]] Need TrainBlocks() const {
    if (!Trains(recipe()) || schedule_.objective() != teq::v1::OBJECTIVE_BLOCK_MSE) {
      return {.stage = teq::v1::STAGE_TRANSFORM, .on_host = true};
    }
    return {.stage = teq::v1::STAGE_TRANSFORM,
            .work = StepWeights(block_) + Trained(block_) + Activations(tokens()) + KeptAttention(),
            .states = 2 * StateBytes(),
            .scratch = LearnedBytes() + SearchedAlone(),
            .spare = LearnedBytes() - LearnedByBlocks()};
  }

  /// Offsets go as codes come.
  [[nodiscard]] Need Round() const {
    const std::int64_t scratch = CodeBytes() + FloatBytes() + LearnedBytes() + SearchedAlone();
    const bool gptq = recipe().rounding().has_gptq();
    const std::int64_t widest = block_.widest_input * block_.widest_input;
    const std::int64_t sequential =
        gptq ? kFloat * (block_.quantized + block_.step_grams + kFactorCopies * widest) : 0;
    return {.stage = teq::v1::STAGE_ROUND,
            .work = 2 * block_bytes() + block_.quantized + kFloat * block_.grams +
                    kRoundingCopies * kFloat * block_.largest_layer +
                    (learns_rounding() ? kFloat * block_.quantized : 0) + sequential +
                    Activations(BatchTokens(work_.window)) + AttentionOf(work_.window),
            .states = (gptq ? 2 : 1) * StateBytes(),
            .scratch = scratch,
            .spare = scratch - std::max(CodeBytes(), LearnedByBlocks())};
  }

  /// An embedding that has to change its type is written whole.
  [[nodiscard]] Need Pack() const {
    return {.stage = teq::v1::STAGE_PACK,
            .work = std::max(kPackingCopies * kFloat * block_.largest_layer,
                             2 * work_.vocabulary * work_.embedding),
            .scratch = CodeBytes() + FloatBytes(),
            .on_host = true,
            .spare = FloatBytes()};
  }

  const JobSpec& spec_;
  const Workload& work_;
  const BlockSize& block_;
  const bool on_device_;
  const teq::v1::Schedule schedule_ = ScheduleOf(spec_.recipe());
};

/// A need in its place. A device's weights come through the host's memory, at most a block of them.
StageMemory Place(const Need& need, bool in_files, const MemoryBudget& budget,
                  std::int64_t block_bytes) {
  StageMemory stage{.stage = need.stage,
                    .host = kProcessBytes,
                    .scratch = need.scratch + (in_files ? need.states : 0)};
  // A device is given a batch of them at a time.
  if (!in_files) {
    stage.states = need.states;
    stage.host += need.states;
  }
  stage.least_scratch = need.scratch - need.spare + (in_files ? need.states : 0);
  if (!budget.on_device || need.on_host) {
    stage.host += need.work;
  } else if (need.work > 0) {
    stage.host += block_bytes;
    stage.device = kContextBytes + need.work;
  }
  return stage;
}

std::int64_t Limited(const StageMemory& stage, const MemoryBudget& budget) {
  return budget.on_device ? stage.device : stage.host;
}

bool Fits(const StageMemory& stage, const MemoryBudget& budget) {
  return budget.limit_bytes == 0 || Limited(stage, budget) <= budget.limit_bytes;
}

/// A stage that does first one thing, then another; its hidden states are the first one's.
StageMemory Both(const StageMemory& first, const StageMemory& then) {
  return {first.stage,
          std::max(first.host, then.host),
          std::max(first.device, then.device),
          std::max(first.scratch, then.scratch),
          first.states,
          std::max(first.least_scratch, then.least_scratch)};
}

/// Where states do not take all of their memory, other things lie there that would be in files.
void TakeFromLeastScratch(std::int64_t memory_bytes, std::vector<StageMemory>& stages) {
  for (StageMemory& stage : stages) {
    stage.least_scratch = std::max<std::int64_t>(0, stage.least_scratch - memory_bytes);
  }
}

std::int64_t InMiB(std::int64_t bytes) { return (bytes + kMiB - 1) / kMiB; }

/// The end-to-end pass of a plan, and its part of TRANSFORM.
struct Pass {
  teq::v1::EndToEndPass kind = teq::v1::END_TO_END_PASS_UNSPECIFIED;
  StageMemory memory;
  std::string note;
};

Pass ChoosePass(const Demand& demand, const MemoryBudget& budget, bool frugal) {
  const auto place = [&](const Need& need, bool in_files) {
    return Place(need, in_files, budget, demand.block_bytes());
  };
  // On the host the graph has a bound of its own, which the states count for.
  const bool states_in_files =
      frugal && budget.on_device && demand.OneGraph().states > kStatesInMemory;
  const StageMemory graph = place(demand.OneGraph(), states_in_files);
  const bool fits = Fits(graph, budget);
  if (fits && (!frugal || budget.on_device || graph.host <= kProcessBytes + kGraphInMemory)) {
    return {teq::v1::END_TO_END_PASS_ONE_GRAPH, graph, ""};
  }
  const StageMemory beside = place(demand.ByBlock(), false);
  const bool small = !frugal || demand.ByBlock().states <= kStatesInMemory;
  const StageMemory by_block =
      Fits(beside, budget) && small ? beside : place(demand.ByBlock(), true);
  if (Fits(by_block, budget) || demand.needs_end_to_end()) {
    return {teq::v1::END_TO_END_PASS_BLOCK_BY_BLOCK, by_block,
            fits ? ""
                 : fmt::format(
                       "the end-to-end pass goes block by block, so that each step runs every "
                       "block twice: as one graph it needs about {} MiB, and {} MiB may be used",
                       InMiB(Limited(graph, budget)), InMiB(budget.limit_bytes))};
  }
  return {teq::v1::END_TO_END_PASS_LEFT_OUT,
          {.stage = teq::v1::STAGE_TRANSFORM},
          fmt::format("the end-to-end pass is left out: even block by block it needs about {} MiB, "
                      "and {} MiB may be used",
                      InMiB(Limited(by_block, budget)), InMiB(budget.limit_bytes))};
}

absl::Status TooSmall(const JobSpec& spec, const MemoryBudget& budget, const StageMemory& stage,
                      std::int64_t needed) {
  const bool own = spec.resources().memory_limit_bytes() > 0;
  const std::string name = ShortEnumName(teq::v1::Stage_descriptor(), stage.stage);
  return Error(
      absl::StatusCode::kFailedPrecondition, "MEMORY_LIMIT",
      fmt::format("resources.memory_limit_bytes: {} bytes {}, and stage {} needs {} bytes "
                  "({} MiB) even with all in files that can be; {}{}",
                  budget.limit_bytes, own ? "are allowed" : "may be used of the worker's memory",
                  name, needed, InMiB(needed),
                  own ? "raise it to that" : "use a worker with more memory",
                  stage.stage == teq::v1::STAGE_TRANSFORM
                      ? ", or lower batch_size or calibration.sequence_length"
                      : ""),
      {{"limit_bytes", std::to_string(budget.limit_bytes)},
       {"needed_bytes", std::to_string(needed)},
       {"stage", name}});
}

}  // namespace

std::int64_t LimitOf(const JobSpec& spec, std::int64_t memory_bytes) {
  const std::int64_t own = spec.resources().memory_limit_bytes();
  if (own == 0) {
    return static_cast<std::int64_t>(kUsableShare * static_cast<double>(memory_bytes));
  }
  return memory_bytes > 0 ? std::min(own, memory_bytes) : own;
}

const StageMemory& MemoryPlan::at(Stage stage) const {
  return *std::ranges::find(stages, stage, &StageMemory::stage);
}

absl::StatusOr<MemoryPlan> PlanMemory(const JobSpec& spec, const ModelConfig& config,
                                      const std::vector<PlannedLayer>& plan,
                                      const MemoryBudget& budget) {
  const Workload work = WorkloadOf(spec, config, plan);
  const Demand demand(spec, work, budget.on_device);
  const std::vector<Need> needs = demand.Stages();
  const auto placed = [&](bool in_files) {
    std::vector<StageMemory> stages;
    stages.reserve(needs.size());
    for (const Need& need : needs) {
      stages.push_back(Place(need, in_files, budget, demand.block_bytes()));
    }
    return stages;
  };
  const auto transform = [](std::vector<StageMemory>& stages) -> StageMemory& {
    return *std::ranges::find(stages, teq::v1::STAGE_TRANSFORM, &StageMemory::stage);
  };
  const auto fits = [&](const StageMemory& stage) { return Fits(stage, budget); };
  const auto limited = [&](const StageMemory& stage) { return Limited(stage, budget); };

  std::vector<StageMemory> least = placed(/*in_files=*/true);
  if (demand.needs_end_to_end()) {
    const StageMemory by_block = Place(demand.ByBlock(), true, budget, demand.block_bytes());
    const StageMemory graph = Place(demand.OneGraph(), false, budget, demand.block_bytes());
    transform(least) = std::ranges::min(by_block, graph, {}, limited);
  }
  const StageMemory& tightest = *std::ranges::max_element(least, {}, limited);
  if (!fits(tightest)) return TooSmall(spec, budget, tightest, limited(tightest));

  MemoryPlan result{.stages = placed(/*in_files=*/false),
                    .limit_bytes = budget.limit_bytes,
                    .least_limit_bytes = limited(tightest)};
  result.hidden_states = teq::v1::HIDDEN_STATES_IN_MEMORY;
  const bool frugal = budget.on_device || spec.resources().memory_limit_bytes() == 0;
  std::int64_t most_states = std::ranges::max(needs, {}, &Need::states).states;
  if (demand.trains_together()) most_states = std::max(most_states, demand.ByBlock().states);
  if (frugal && most_states > kStatesInMemory) {
    result.hidden_states = teq::v1::HIDDEN_STATES_IN_FILES;
    result.stages = placed(/*in_files=*/true);
  } else if (!std::ranges::all_of(result.stages, fits)) {
    const StageMemory& full = *std::ranges::max_element(result.stages, {}, limited);
    result.notes.push_back(fmt::format(
        "hidden states of the calibration text lie in files: with them in memory stage {} needs "
        "about {} MiB, and {} MiB may be used",
        ShortEnumName(teq::v1::Stage_descriptor(), full.stage), InMiB(limited(full)),
        InMiB(budget.limit_bytes)));
    result.hidden_states = teq::v1::HIDDEN_STATES_IN_FILES;
    result.stages = placed(/*in_files=*/true);
  }
  if (demand.trains_together()) {
    Pass pass = ChoosePass(demand, budget, frugal);
    result.end_to_end_pass = pass.kind;
    if (!pass.note.empty()) result.notes.push_back(std::move(pass.note));
    result.end_to_end_states = pass.memory.states;
    transform(result.stages) = Both(transform(result.stages), pass.memory);
  }
  const std::int64_t states = std::ranges::max(result.stages, {}, &StageMemory::states).states;
  TakeFromLeastScratch(std::max(states, result.end_to_end_states), result.stages);
  return result;
}

absl::Status CheckMemoryLimit(const JobSpec& spec, const ModelConfig& config,
                              const std::vector<PlannedLayer>& plan) {
  const std::int64_t limit = spec.resources().memory_limit_bytes();
  if (limit == 0) return absl::OkStatus();
  const teq::v1::Device device = spec.resources().device();
  const auto on = [&](bool on_device) {
    return PlanMemory(spec, config, plan, {.limit_bytes = limit, .on_device = on_device}).status();
  };
  if (device == teq::v1::DEVICE_CUDA || device == teq::v1::DEVICE_HPU) return on(true);
  absl::Status on_host = on(false);
  // ANY may mean a device, whose memory the packing does not take.
  if (on_host.ok() || device == teq::v1::DEVICE_CPU) return on_host;
  return on(true).ok() ? absl::OkStatus() : on_host;
}

}  // namespace teq::model_info
