// Times whole training steps of a random model, and the matrix products that they cannot do
// without. See README.md.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "client/model_info/memory_plan.h"
#include "client/model_info/plan.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"
#include "proto/spec/error.h"
#include "proto/spec/validate.h"
#include "tests/bench/matrix_products.h"
#include "tests/bench/random_decoder.h"
#include "tests/bench/stopwatch.h"
#include "torch/version.h"
#include "worker/engine/model/device.h"
#include "worker/engine/model/host_memory.h"
#include "worker/engine/model/threads.h"
#include "worker/engine/report/environment.h"
#include "worker/engine/teq/train.h"

namespace teq::bench {
namespace {

constexpr LayerGrid kGrid{.quantized = true, .bits = 4, .group_size = 32, .symmetric = false};
// Windows to draw batches from, in batches; one window more is held back.
constexpr int kBatches = 4;

struct Arguments {
  std::string shape = "15m";
  int batch = 4;
  int sequence = 256;
  std::string objective = "LM_LOSS";
  std::string dtype = "float32";
  int threads = 2;
  int steps = 40;
};

/// Resident bytes of this process.
std::int64_t ResidentMemory() {
  std::int64_t size = 0;
  std::int64_t resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

text::Windows RandomWindows(const Arguments& arguments, std::int64_t vocabulary) {
  text::Windows windows{.count = kBatches * std::int64_t{arguments.batch} + 1,
                        .length = arguments.sequence};
  std::mt19937 generator(1);
  std::uniform_int_distribution<std::int32_t> id(0, static_cast<std::int32_t>(vocabulary - 1));
  windows.ids.resize(static_cast<std::size_t>(windows.count * windows.length));
  for (std::int32_t& each : windows.ids) each = id(generator);
  return windows;
}

teq::v1::Schedule ScheduleOf(const Arguments& arguments) {
  teq::v1::Schedule schedule;
  schedule.set_steps(arguments.steps);
  schedule.set_batch_size(arguments.batch);
  schedule.set_gradient(teq::v1::GRADIENT_FULL);
  schedule.set_held_back_fraction(1e-9);  // at least one window is
  return schedule;
}

torch::ScalarType TypeOf(const Arguments& arguments) {
  return arguments.dtype == "bfloat16" ? torch::kBFloat16 : torch::kFloat32;
}

/// What a training's steps cost.
struct Measured {
  std::vector<Duration> steps;
  std::vector<Duration> products;
  std::int64_t peak_memory = 0;
};

/// Looks on as a training runs: the first half of its steps for memory, the second for time, where
/// products are measured between the steps, so that both meet the same load of the machine.
class Observer {
 public:
  Observer(const model_info::ModelConfig& config, const Arguments& arguments)
      : config_(config), arguments_(arguments) {}

  void OnStep() {
    between_.push_back(stopwatch_.Elapsed());
    if (static_cast<int>(between_.size()) == arguments_.steps / 2) {
      measured_.peak_memory = report::PeakHostMemory();
      products_ = MatrixProducts::OfStep(
          config_, std::int64_t{arguments_.batch} * arguments_.sequence, TypeOf(arguments_));
      (void)products_->Measure();
    } else if (products_) {
      measured_.products.push_back(products_->Measure());
    }
    stopwatch_ = Stopwatch();
  }

  /// Steps that were followed by a measurement on the held-back windows took longer; Fit says in
  /// the curve which were.
  Measured Result(const teq::v1::Training& report) {
    for (int i = arguments_.steps / 2; i < arguments_.steps; ++i) {
      if (report.loss_curve(i).has_held_back_loss()) continue;
      measured_.steps.push_back(between_[static_cast<std::size_t>(i)]);
    }
    return measured_;
  }

 private:
  const model_info::ModelConfig& config_;
  const Arguments& arguments_;
  Stopwatch stopwatch_;
  std::vector<Duration> between_;
  std::optional<MatrixProducts> products_;
  Measured measured_;
};

absl::StatusOr<Measured> MeasureTraining(const transform::TrainingTask& task,
                                         const Arguments& arguments) {
  transform::Parameters parameters =
      transform::PlainParameters(task.groups, task.grids, torch::kFloat32);
  teq::v1::Training report;
  Observer observer(task.decoder.config, arguments);
  const std::atomic<bool> cancelled{false};
  const teq::v1::Objective objective =
      arguments.objective == "KL" ? teq::v1::OBJECTIVE_KL : teq::v1::OBJECTIVE_LM_LOSS;
  TEQ_RETURN_IF_ERROR(transform::TrainEndToEnd(
      task, arguments.steps, objective, parameters, report,
      [&](const teq::v1::MetricSample&) { observer.OnStep(); }, cancelled));
  return observer.Result(report);
}

/// Without the last number, which Debian's header has wrong.
std::string LibTorchVersion() {
  return fmt::format("{}.{}", TORCH_VERSION_MAJOR, TORCH_VERSION_MINOR);
}

/// RESOURCE_EXHAUSTED where this machine cannot hold all weights and the graph of a step.
absl::Status CheckMemory(const model_info::ModelConfig& config, const Arguments& arguments) {
  teq::v1::JobSpec spec;
  spec.mutable_recipe()->mutable_weights()->set_group_size(kGrid.group_size);
  teq::v1::Teq& teq = *spec.mutable_recipe()->mutable_transform()->mutable_teq();
  teq.set_objective(teq::v1::OBJECTIVE_LM_LOSS);
  teq.set_batch_size(arguments.batch);
  spec.mutable_calibration()->set_sequence_length(arguments.sequence);
  // A limit that does not bind: the graph is stored.
  spec.mutable_resources()->set_memory_limit_bytes(std::numeric_limits<std::int64_t>::max());
  spec = WithDefaults(spec);
  TEQ_ASSIGN_OR_RETURN(const auto layers, model_info::PlanLayers(spec, config));
  TEQ_ASSIGN_OR_RETURN(const auto plan, model_info::PlanMemory(spec, config, layers, {}));
  TEQ_ASSIGN_OR_RETURN(const std::int64_t free, model::FreeMemory({}));
  const std::int64_t needed = plan.at(teq::v1::STAGE_TRANSFORM).host;
  if (needed <= free) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      fmt::format("--shape {} with --batch {} and --sequence {} takes about {} MiB, and {} MiB are "
                  "there; make one of them smaller",
                  arguments.shape, arguments.batch, arguments.sequence, needed >> 20, free >> 20));
}

absl::StatusOr<nlohmann::ordered_json> Run(const Arguments& arguments, std::int64_t libraries) {
  const model_info::ModelConfig config = *ShapeConfig(arguments.shape);
  TEQ_RETURN_IF_ERROR(CheckMemory(config, arguments));
  const model::Decoder decoder = RandomDecoder(config);
  const std::vector<transform::BlockGrids> grids(
      decoder.blocks.size(), transform::BlockGrids(decoder.blocks.front().linears.size(), kGrid));
  const std::vector<transform::ScaleGroup> groups = transform::ScaleGroups(config, grids);
  const text::Windows windows = RandomWindows(arguments, config.vocabulary_size);
  const teq::v1::Schedule schedule = ScheduleOf(arguments);
  model::Scratch memory(std::filesystem::temp_directory_path(),
                        std::numeric_limits<std::int64_t>::max());
  TEQ_ASSIGN_OR_RETURN(const Measured measured, MeasureTraining({.decoder = decoder,
                                                                 .groups = groups,
                                                                 .grids = grids,
                                                                 .windows = windows,
                                                                 .schedule = schedule,
                                                                 .scratch = memory,
                                                                 .working = memory,
                                                                 .rates = {.scales = 0.005},
                                                                 .stored = torch::kFloat16,
                                                                 .products = TypeOf(arguments)},
                                                                arguments));
  const Duration step = Median(measured.steps);
  const Duration products = Median(measured.products);
  return nlohmann::ordered_json{{"shape", arguments.shape},
                                {"batch", arguments.batch},
                                {"sequence", arguments.sequence},
                                {"objective", arguments.objective},
                                {"dtype", arguments.dtype},
                                {"threads", arguments.threads},
                                {"instruction_set", report::InstructionSet()},
                                {"matrix_products", report::MatrixProducts()},
                                {"libtorch", LibTorchVersion()},
                                {"steps_measured", measured.steps.size()},
                                {"step_seconds", step.wall},
                                {"matmul_seconds", products.wall},
                                {"step_over_matmul", step.wall / products.wall},
                                {"cpu_step_seconds", step.cpu},
                                {"cpu_matmul_seconds", products.cpu},
                                {"cpu_step_over_matmul", step.cpu / products.cpu},
                                {"peak_memory_bytes", measured.peak_memory - libraries},
                                {"weight_bytes", WeightBytes(decoder)}};
}

/// The libraries read their settings when they are loaded, so the program starts itself once more.
void RestartWithSleepingThreads(char** argv) {
  constexpr const char* kRestarted = "TEQ_BENCH_RESTARTED";
  if (std::getenv(kRestarted) != nullptr) return;
  setenv(kRestarted, "1", 1);
  model::SetSleepingThreads();
  execv("/proc/self/exe", argv);
}

int Main(int argc, char** argv) {
  RestartWithSleepingThreads(argv);
  const std::int64_t libraries = ResidentMemory();
  CLI::App app("Times training steps of a random model against their matrix products.",
               "bench_job");
  Arguments arguments;
  app.add_option("--shape", arguments.shape, "Llama of this size: 15m, 100m or 7b")
      ->check(CLI::IsMember({"15m", "100m", "7b"}));
  app.add_option("--batch", arguments.batch, "Windows in a step")->check(CLI::PositiveNumber);
  app.add_option("--sequence", arguments.sequence, "Tokens of a window")
      ->check(CLI::Range(2, 4096));
  app.add_option("--objective", arguments.objective, "LM_LOSS or KL")
      ->check(CLI::IsMember({"LM_LOSS", "KL"}));
  app.add_option("--dtype", arguments.dtype, "Of the matrix products")
      ->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--threads", arguments.threads, "0: one for every processor")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--steps", arguments.steps, "Training steps; a quarter of them is timed at least")
      ->check(CLI::Range(20, 100000));
  CLI11_PARSE(app, argc, argv);
  if (TypeOf(arguments) == torch::kBFloat16 && !model::HasFastBfloat16(torch::kCPU)) {
    fmt::print(stderr, "bench_job: this processor multiplies bfloat16 no faster than float32\n");
    return EXIT_FAILURE;
  }
  model::SetThreads(arguments.threads);
  model::KeepFreedMemory();
  const absl::StatusOr<nlohmann::ordered_json> result = Run(arguments, libraries);
  if (!result.ok()) {
    fmt::print(stderr, "bench_job: {}\n", std::string(result.status().message()));
    return EXIT_FAILURE;
  }
  fmt::print("{}\n", result->dump());
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace teq::bench

int main(int argc, char** argv) { return teq::bench::Main(argc, argv); }
